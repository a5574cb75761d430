"""Runs a function's own tests: in the sandbox, without network, within the bounds of a build.

A function has tests if its folder holds ``test_*.py`` or ``*_test.py`` (Python templates) or its
package.json has a test script that does something (Node templates). The build arguments that
OpenFaaS' templates know decide otherwise: ``TEST_ENABLED=false`` skips the tests, ``TEST_COMMAND``
names what is run instead: any command line that needs no shell; ``pytest`` and ``tox`` are ours.

The function's files are where they are at run time, and as read-only. pytest and tox come from a
layer that is no part of the artifact and that all owners share: what lies in it is decided by the
lock files beside this module alone.
"""

from __future__ import annotations

import collections
import os
import re
import secrets
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from builder import dependencies, node_dependencies, packagejson, python_dependencies, tool
from builder.bounded import clean
from core.bundle import HOME, LAYER_MOUNTS, Layer, layer_folder
from core.errors import BuildFailed, TestFailed
from core.sandbox import PATH, Cell, Mount, Result
from core.settings import Settings

if TYPE_CHECKING:
    from builder.templates import Template

Out = Callable[[str], None]

SHARED = "slipway"
"""The reserved namespace of the layers that are ours."""
_LOCKS = Path(__file__).parent / "locks"
_NPM = "/opt/slipway/bin/node_modules/npm"
"""Beside node: there npm's own ``npm`` and ``npx`` look for it, for scripts that call them."""
_PROGRAMS = [
    f"{LAYER_MOUNTS['node']}/.bin",
    f"{LAYER_MOUNTS['python']}/bin",
    f"{LAYER_MOUNTS['test']}/bin",
]
_TMP = 256 * 2**20
_TOLD = 25
"""Last lines of output in the error."""
_PASSED_BY = ("node_modules", "venv", "build", "dist")
"""Folders in which pytest does not look either; nor in hidden ones."""
_NO_TESTS = 5
"""pytest's exit status where it collected nothing."""

_PLAIN_NODE = re.compile(r"node(\s+[\w@%+=:,./-]+)*")
_OFFLINE = re.compile(
    r"Network is unreachable|Temporary failure in name resolution|Name or service not known"
    r"|EAI_AGAIN|ENETUNREACH|ENOTFOUND|NameResolutionError"
)


@dataclass(frozen=True)
class _Command:
    argv: Sequence[str]
    needs: Literal["pytest", "tox", "npm", ""] = ""
    """What of ours it needs."""


def has_tests(app: Path, template: Template, build_args: Mapping[str, str]) -> bool:
    """Whether there is anything to run, or to say that it is skipped.

    Raises:
        BuildFailed: package.json cannot be read.
    """
    if build_args.get("TEST_COMMAND", "").strip():
        return True
    own = app / template.handler_folder
    match dependencies.language(template):
        case "python":
            return any(_python_tests(own))
        case "node":
            return packagejson.has_test_script(dependencies.read_manifest(own))
        case _:
            return False


def run_tests(
    settings: Settings,
    namespace: str,
    function: str,
    app: Path,
    template: Template,
    layers: Sequence[Layer],
    build_args: Mapping[str, str],
    out: Out,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Runs the tests of one function; returns False where they were skipped on purpose.

    Args:
        app: the function's finished context, which nothing changes.
        layers: what ``dependencies.install`` made for it.
        out: gets each line that the tests write.
        stop: asked every second; true ends the tests as a timeout would.

    Raises:
        TestFailed: with the last lines of what they wrote.
        BuildFailed: TEST_COMMAND cannot be read.
        Unavailable: the sandbox or a package registry; trying again can help.
    """
    if build_args.get("TEST_ENABLED", "").strip().lower() in ("false", "0", "no", "off"):
        out("tests are skipped: TEST_ENABLED is false")
        return False
    own = app / template.handler_folder
    command = _command(own, template, build_args)
    if command.argv == ():
        return False
    cell = Cell(
        argv=command.argv,
        env=_environment(command, template, build_args),
        cwd=str(PurePosixPath(HOME, template.handler_folder)),
        mounts=_mounts(settings, namespace, app, template, layers, command, out),
        memory=settings.build_memory,
        cpus=settings.build_cpus,
        pids=settings.function_pids,
        tmp_size=_TMP,
        network="none",
        hostname=function,
    )
    last: collections.deque[str] = collections.deque(maxlen=_TOLD)

    def line(text: str) -> None:
        last.append(clean(text))
        out(last[-1])

    result = tool.sandbox(settings).run(
        cell,
        f"test-{function[:63]}-{secrets.token_hex(6)}",
        timeout=settings.build_timeout,
        max_output=settings.build_output,
        on_line=line,
        stop=stop,
    )
    if result.ok:
        return True
    if command.needs == "pytest" and result.outcome == "exited" and result.status == _NO_TESTS:
        out("pytest found no tests in these files: that passes")
        return True
    raise TestFailed(_told(result, command, settings, last), function, "test")


def _command(own: Path, template: Template, build_args: Mapping[str, str]) -> _Command:
    asked = build_args.get("TEST_COMMAND", "").strip()
    if asked:
        return _asked(asked)
    if dependencies.language(template) == "python":
        return _Command(_pytest([]), "pytest")
    manifest = dependencies.read_manifest(own)
    if not packagejson.has_test_script(manifest):
        return _Command(())
    script = manifest.scripts["test"].strip()
    if _PLAIN_NODE.fullmatch(script) and not manifest.scripts.keys() & {"pretest", "posttest"}:
        return _Command(script.split())  # needs no shell, so no npm: a third of a second less
    return _Command(["node", f"{_NPM}/bin/npm-cli.js", "test"], "npm")


def _asked(text: str) -> _Command:
    """Reads TEST_COMMAND: any program of the sandbox, without a shell around it."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise BuildFailed(f"TEST_COMMAND {text[:200]!r} cannot be read: {error}") from error
    shell = [word for word in words if word in ("&&", "||", "|", ";", "&", ">", ">>", "<")]
    if shell or not words:
        raise BuildFailed(
            f"TEST_COMMAND {text[:200]!r} wants a shell ({' '.join(shell)}), and none is put "
            "around it: write a script into the function's folder and name that: 'sh ./test.sh'"
        )
    match words:
        case ["pytest", *rest] | ["python" | "python3", "-m", "pytest", *rest]:
            return _Command(_pytest(rest), "pytest")
        case ["tox", *rest] | ["python" | "python3", "-m", "tox", *rest]:
            return _Command(_tox(rest), "tox")
        case ["npm" | "npx" as name, *rest]:
            return _Command(["node", f"{_NPM}/bin/{name}-cli.js", *rest], "npm")
    return _Command(words)


def _pytest(rest: Sequence[str]) -> list[str]:
    return ["python3", "-m", "pytest", "-p", "no:cacheprovider", "--color=no", *rest]


def _tox(rest: Sequence[str]) -> list[str]:
    """tox in the environment that is there: making one would need a package registry."""
    ours = ["--current-env", "--workdir", "/tmp/tox", "--colored=no"]
    passed = ["--override", "testenv.pass_env=*", "--override", "testenv.allowlist_externals=*"]
    return ["python3", "-m", "tox", "run", *ours, *passed, *rest]


def _environment(
    command: _Command, template: Template, build_args: Mapping[str, str]
) -> dict[str, str]:
    """All of the tests' environment: the build arguments, as in OpenFaaS' images, below ours."""
    told = {}
    for name, value in build_args.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or "\0" in value:
            raise BuildFailed(f"the build argument {name[:80]!r} cannot be a variable of the tests")
        told[name] = value
    told |= {
        "PATH": ":".join([*_PROGRAMS, PATH, f"{_NPM}/bin"]),
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "NO_COLOR": "1",
    }
    if dependencies.language(template) == "python" or command.needs in ("pytest", "tox"):
        # The function's packages before the tools': what is tested is what will run.
        told["PYTHONPATH"] = f"{HOME}:{LAYER_MOUNTS['python']}:{LAYER_MOUNTS['test']}"
        told["PYTHONDONTWRITEBYTECODE"] = "1"
        told["PYTHONUNBUFFERED"] = "1"
    if command.needs == "npm":
        told |= {
            "npm_config_cache": "/tmp/.npm",
            "npm_config_update_notifier": "false",
            "npm_config_logs_max": "0",
        }
    return told


def _mounts(
    settings: Settings,
    namespace: str,
    app: Path,
    template: Template,
    layers: Sequence[Layer],
    command: _Command,
    out: Out,
) -> list[Mount]:
    found = {layer.kind: layer_folder(settings, namespace, layer) for layer in layers}
    own = app / template.handler_folder
    if (
        dependencies.language(template) == "node"
        and "devDependencies" in dependencies.read_manifest(own).wanted
        and (layer := dependencies.node_layer(settings, namespace, template, app, out, True))
    ):
        found["node"] = layer_folder(settings, namespace, layer)
    if command.needs in ("pytest", "tox"):
        found["test"] = layer_folder(settings, SHARED, tool_layer(settings, command.needs, out))
    mounts = [Mount(app, HOME)]
    mounts += [Mount(folder, LAYER_MOUNTS[kind]) for kind, folder in found.items()]
    if command.needs == "npm":
        mounts.append(Mount(node_dependencies.npm_folder(), _NPM))
    return mounts


def tool_layer(settings: Settings, name: Literal["pytest", "tox"], out: Out) -> Layer:
    """Makes, or finds, the shared layer of pytest or tox; can be called before it is needed."""
    lock = (_LOCKS / f"{name}.txt").read_text()

    def once(line: str) -> None:
        if line.startswith("Installed "):
            out(f"made the layer of {name}, once for all functions")

    return python_dependencies.install_lock(settings, SHARED, "test", lock, once)


def _python_tests(folder: Path) -> list[str]:
    """The first test file that pytest would collect by its name."""
    for _, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".") and f not in _PASSED_BY]
        for name in files:
            if name.endswith(".py") and (name.startswith("test_") or name.endswith("_test.py")):
                return [name]
    return []


def _told(
    result: Result, command: _Command, settings: Settings, last: collections.deque[str]
) -> str:
    shown = shlex.join(command.argv)[:200]
    match result.outcome:
        case "timeout":
            what = (
                f"the tests were ended after {settings.build_timeout:g} s "
                "(SLIPWAY_BUILD_TIMEOUT): something in them waits or loops for ever"
            )
        case "output":
            what = (
                f"the tests were ended: they wrote more than {settings.build_output} bytes "
                "(SLIPWAY_BUILD_OUTPUT)"
            )
        case "memory":
            what = (
                f"the tests used more memory than {settings.build_memory // 2**20} MiB "
                "(SLIPWAY_BUILD_MEMORY)"
            )
        case _ if result.status == 127:
            what = f"there is no such program where tests run: {shown}"
        case _:
            what = f"the tests failed: {shown} exited with status {result.status}"
    text = "\n".join(last).strip()
    if _OFFLINE.search(text):
        what += "; tests run without a network, so put a stand-in where they call out"
    if "Resource temporarily unavailable" in text or "can't start new thread" in text:
        what += f"; at most {settings.function_pids} processes and threads run at once"
    return f"{what}\n{text}" if text else what

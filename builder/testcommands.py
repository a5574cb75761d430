"""What of a function is its tests, and how they are run: the same for every build engine.

A function has tests if its folder holds ``test_*.py`` or ``*_test.py`` (Python templates) or its
package.json has a test script that does something (Node templates). The build arguments that
OpenFaaS' templates know decide otherwise: ``TEST_ENABLED=false`` skips the tests, ``TEST_COMMAND``
names what is run instead: any command line that needs no shell; ``pytest`` and ``tox`` are ours.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from builder import dependencies, packagejson
from builder.reasons import cut, reason
from core.bundle import HOME, LAYER_MOUNTS
from core.errors import BuildFailed
from core.settings import Settings

if TYPE_CHECKING:
    from builder.templates import Template

LOCKS = Path(__file__).parent / "locks"
TMP = 256 * 2**20
"""Bytes of the tests' /tmp."""
KEPT = 25
"""Last lines of output that are looked at where tests fail."""
PROGRAMS = (
    f"{LAYER_MOUNTS['node']}/.bin",
    f"{LAYER_MOUNTS['python']}/bin",
    f"{LAYER_MOUNTS['test']}/bin",
)
SKIPPED = "tests are skipped: TEST_ENABLED is false"
NOTHING = "pytest found no tests in these files: that passes"

_SHOWN = 80
"""Characters of a command line in an error."""
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
class Command:
    """What is run; empty: nothing."""

    argv: Sequence[str]
    needs: Literal["pytest", "tox", "npm", ""] = ""
    """What of ours it needs. The first word of an npm command is ``npm`` or ``npx``."""
    named: str = ""
    """What people call it, where ``argv`` has more of ours than of theirs."""

    @property
    def shown(self) -> str:
        """The command line for people."""
        return self.named or shlex.join(self.argv)

    def found_none(self, status: int) -> bool:
        """Whether this exit status says that there was nothing to test."""
        return self.needs == "pytest" and status == _NO_TESTS


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


def skipped(build_args: Mapping[str, str]) -> bool:
    """Whether the function says that its tests are not to run."""
    return build_args.get("TEST_ENABLED", "").strip().lower() in ("false", "0", "no", "off")


def command_of(app: Path, template: Template, build_args: Mapping[str, str]) -> Command:
    """What runs a function's tests.

    Raises:
        BuildFailed: TEST_COMMAND or package.json cannot be read.
    """
    own = app / template.handler_folder
    asked = build_args.get("TEST_COMMAND", "").strip()
    if asked:
        return _asked(asked)
    if dependencies.language(template) == "python":
        return _pytest([])
    manifest = dependencies.read_manifest(own)
    if not packagejson.has_test_script(manifest):
        return Command(())
    script = manifest.scripts["test"].strip()
    if _PLAIN_NODE.fullmatch(script) and not manifest.scripts.keys() & {"pretest", "posttest"}:
        return Command(script.split())  # needs no shell, so no npm: a third of a second less
    return Command(["npm", "test"], "npm")


def needs_development(app: Path, template: Template) -> bool:
    """Whether the tests of a Node function want its ``devDependencies``."""
    return dependencies.language(template) == "node" and (
        "devDependencies" in dependencies.read_manifest(app / template.handler_folder).wanted
    )


def environment(
    command: Command, template: Template, build_args: Mapping[str, str], path: str
) -> dict[str, str]:
    """All of the tests' environment: the build arguments, as in OpenFaaS' images, below ours.

    ``path``: where the runtime's own programs lie, like PATH.
    """
    told = {}
    for name, value in build_args.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or "\0" in value:
            raise BuildFailed(f"the build argument {name[:80]!r} cannot be a variable of the tests")
        told[name] = value
    told |= {
        "PATH": ":".join([*PROGRAMS, path]),
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


def told_of(outcome: str, status: int, shown: str, settings: Settings, last: Iterable[str]) -> str:
    """Why tests failed, for people, with the end of what they wrote.

    Args:
        outcome: how they ended: ``exited``, ``timeout``, ``output`` or ``memory``.
        shown: the command line.
        last: the last lines that they wrote.
    """
    shown = cut(shown, _SHOWN)
    last = list(last)
    bound = settings.build_memory // 2**20
    too_much = f"more memory than {bound} MiB (SLIPWAY_BUILD_MEMORY)"
    match outcome:
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
            what = f"the tests used {too_much}"
        case _ if status == 137:  # an engine under load may forget why it was killed
            what = f"the tests were killed (exit status 137): they may have used {too_much}"
        case _ if status == 127:
            what = f"there is no such program where tests run: {shown}"
        case _:
            what = f"the tests failed: {shown} exited with status {status}"
    text = "\n".join(last)
    if _OFFLINE.search(text):
        what += "; tests run without a network, so put a stand-in where they call out"
    if "Resource temporarily unavailable" in text or "can't start new thread" in text:
        what += f"; at most {settings.function_pids} processes and threads run at once"
    return reason(what, last)


def _asked(text: str) -> Command:
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
            return _pytest(rest)
        case ["tox", *rest] | ["python" | "python3", "-m", "tox", *rest]:
            return _tox(rest)
        case ["npm" | "npx", *_]:
            return Command(words, "npm")
    return Command(words)


def _pytest(rest: Sequence[str]) -> Command:
    argv = ["python3", "-m", "pytest", "-p", "no:cacheprovider", "--color=no", *rest]
    return Command(argv, "pytest", shlex.join(["pytest", *rest]))


def _tox(rest: Sequence[str]) -> Command:
    """tox in the environment that is there: making one would need a package registry."""
    ours = ["--current-env", "--workdir", "/tmp/tox", "--colored=no"]
    passed = ["--override", "testenv.pass_env=*", "--override", "testenv.allowlist_externals=*"]
    argv = ["python3", "-m", "tox", "run", *ours, *passed, *rest]
    return Command(argv, "tox", shlex.join(["tox", *rest]))


def _python_tests(folder: Path) -> list[str]:
    """The first test file that pytest would collect by its name."""
    for _, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".") and f not in _PASSED_BY]
        for name in files:
            if name.endswith(".py") and (name.startswith("test_") or name.endswith("_test.py")):
                return [name]
    return []

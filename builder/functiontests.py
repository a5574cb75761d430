"""Runs a function's own tests: in the sandbox, without network, within the bounds of a build.

What its tests are is decided in ``builder.testcommands``. The function's files are where they are
at run time, and as read-only. pytest and tox come from a layer that is no part of the artifact and
that all owners share: what lies in it is decided by the lock files beside this module alone.
"""

from __future__ import annotations

import collections
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from builder import dependencies, node_dependencies, python_dependencies, testcommands, tool
from builder.bounded import clean
from builder.testcommands import has_tests
from core.bundle import HOME, LAYER_MOUNTS, Layer, layer_folder
from core.errors import TestFailed
from core.sandbox import PATH, Cell, Mount
from core.settings import Settings

if TYPE_CHECKING:
    from builder.templates import Template

__all__ = ["has_tests", "run_tests", "tool_layer"]

Out = Callable[[str], None]

SHARED = "slipway"
"""The reserved namespace of the layers that are ours."""
_NPM = "/opt/slipway/bin/node_modules/npm"
"""Beside node: there npm's own ``npm`` and ``npx`` look for it, for scripts that call them."""


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
    check: Callable[[], None] = lambda: None,
    network: bool = True,
) -> bool:
    """Runs the tests of one function; returns False where they were skipped on purpose.

    Args:
        app: the function's finished context, which nothing changes.
        layers: what ``dependencies.install`` made for it.
        out: gets each line that the tests write.
        check: asked again and again; what it raises ends the tests, and is passed on.
        network: as for ``dependencies.install``; the tests themselves never have one.

    Raises:
        TestFailed: with the last lines of what they wrote.
        BuildFailed: TEST_COMMAND cannot be read.
        Unavailable: the sandbox or a package registry; trying again can help.
    """
    if testcommands.skipped(build_args):
        out(testcommands.SKIPPED)
        return False
    command = testcommands.command_of(app, template, build_args)
    if command.argv == ():
        return False
    argv = list(command.argv)
    if command.needs == "npm":
        argv[:1] = ["node", f"{_NPM}/bin/{argv[0]}-cli.js"]
    cell = Cell(
        argv=argv,
        env=testcommands.environment(command, template, build_args, f"{PATH}:{_NPM}/bin"),
        cwd=str(PurePosixPath(HOME, template.handler_folder)),
        mounts=_mounts(settings, namespace, app, template, layers, command, out, check, network),
        memory=settings.build_memory,
        cpus=settings.build_cpus,
        pids=settings.function_pids,
        tmp_size=testcommands.TMP,
        network="none",
        hostname=function,
    )
    last: collections.deque[str] = collections.deque(maxlen=testcommands.KEPT)

    def line(text: str) -> None:
        last.append(clean(text))
        out(last[-1])

    def stop() -> bool:
        check()
        return False

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
    if result.outcome == "exited" and command.found_none(result.status):
        out(testcommands.NOTHING)
        return True
    told = testcommands.told_of(result.outcome, result.status, command.shown, settings, last)
    raise TestFailed(told, function, "test")


def _mounts(
    settings: Settings,
    namespace: str,
    app: Path,
    template: Template,
    layers: Sequence[Layer],
    command: testcommands.Command,
    out: Out,
    check: Callable[[], None],
    network: bool,
) -> list[Mount]:
    found = {layer.kind: layer_folder(settings, namespace, layer) for layer in layers}
    if testcommands.needs_development(app, template) and (
        layer := dependencies.node_layer(
            settings,
            namespace,
            template,
            app,
            out,
            development=True,
            check=check,
            network=network,
        )
    ):
        found["node"] = layer_folder(settings, namespace, layer)
    if command.needs in ("pytest", "tox"):
        tools = tool_layer(settings, command.needs, out, check)
        found["test"] = layer_folder(settings, SHARED, tools)
    mounts = [Mount(app, HOME)]
    mounts += [Mount(folder, LAYER_MOUNTS[kind]) for kind, folder in found.items()]
    if command.needs == "npm":
        mounts.append(Mount(node_dependencies.npm_folder(), _NPM))
    return mounts


def tool_layer(
    settings: Settings,
    name: Literal["pytest", "tox"],
    out: Out,
    check: Callable[[], None] = lambda: None,
) -> Layer:
    """Makes, or finds, the shared layer of pytest or tox; can be called before it is needed."""
    lock = (testcommands.LOCKS / f"{name}.txt").read_text()

    def once(line: str) -> None:
        if line.startswith("Installed "):
            out(f"made the layer of {name}, once for all functions")

    return python_dependencies.install_lock(settings, SHARED, "test", lock, once, check)

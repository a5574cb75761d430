"""From a function's specification to the cell that runs it: files, limits, environment.

What holds for containers as well is here once: ``variables``, ``reaches_out``, the limits.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeVar

from core.bundle import HOME, LAYER_MOUNTS, Bundle, bundle_folder, layer_folder
from core.errors import InvalidRequest
from core.models import FunctionSpec
from core.quantities import cpus, size
from core.sandbox import PATH, Cell, Mount
from core.settings import Settings

Number = TypeVar("Number", int, float)
IsQuiet = Callable[[str], bool]
"""Whether functions of a namespace are kept from the outside world by its owner's policy."""

_OWN = ("LISTEN_", "OPENFAAS_NAME")
"""Beginnings of variables that a function cannot set for itself; neither can it set HOME."""

UIDS = range(1_900_000_000, 1_900_065_536)
"""Users of functions: above what systemd, containers and directories hand out (uids below
1,879,048,192), below 2**31."""


def cell_of(settings: Settings, spec: FunctionSpec, bundle: Bundle, *, uid: int, edge: str) -> Cell:
    """Returns the cell of one replica. ``edge``: URL under which functions reach the edge.

    Raises:
        InvalidRequest: a limit, a variable or the command cannot be.
    """
    folder = bundle_folder(settings, spec.artifacts_of, spec.artifact)
    mounts = [Mount(folder / "app", HOME)]
    for layer in bundle.layers:
        if layer.kind != "test":
            there = layer_folder(settings, spec.artifacts_of, layer)
            mounts.append(Mount(there, LAYER_MOUNTS[layer.kind]))
    outside = reaches_out(settings, spec)
    argv = split_command(spec.env_process) if spec.env_process else list(bundle.process)
    memory = memory_bytes(settings, spec)
    env = environment(spec, argv, memory=memory, edge=edge if outside else "")
    if any(layer.kind == "python" for layer in bundle.layers):
        env["PYTHONPATH"] = joined(LAYER_MOUNTS["python"], env.get("PYTHONPATH"))
    return Cell(
        argv=argv,
        env=env,
        cwd=HOME,
        mounts=mounts,
        uid=uid,
        memory=memory,
        cpus=cpu_count(settings, spec),
        pids=settings.function_pids,
        network="egress" if outside else "none",
        hostname=spec.name,
    )


def environment(
    spec: FunctionSpec, argv: Sequence[str], *, memory: int, edge: str
) -> dict[str, str]:
    """What a function finds in a cell: see ``variables``; here the socket is handed to it."""
    return variables(spec, {"PATH": PATH}, memory=memory, edge=edge) | {
        "fprocess": shlex.join(argv),
        "LISTEN_FDS": "1",
        "LISTEN_FDNAMES": "http",
    }


def variables(
    spec: FunctionSpec, base: Mapping[str, str], *, memory: int, edge: str
) -> dict[str, str]:
    """What the function finds: defaults, then ``base``, the platform's or the image's, then its own
    variables, then what is not its to say.

    PATH of its own comes after that of ``base`` (PYTHONPATH likewise, see ``cell_of``). LD_* and
    what else the loader reads is passed on; the sandbox sets it after privileges are gone.

    Raises:
        InvalidRequest: a variable that cannot be.
    """
    own: Mapping[str, str] = spec.env_vars or {}
    for name, value in own.items():
        if not name or "=" in name or "\0" in name + value:
            raise InvalidRequest(
                f"{spec.function}: {name[:80]!r} cannot be an environment variable: names "
                "have no '=', and neither names nor values have a NUL"
            )
    env = {
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        # Node sees the host's memory, not its limit, and would not collect in time.
        "NODE_OPTIONS": f"--max-old-space-size={max(memory * 3 // 4 // 2**20, 16)}",
        **base,
    }
    if edge:
        env["OPENFAAS_URL"] = edge
    env |= {name: value for name, value in own.items() if not name.startswith(_OWN)}
    return env | {
        "OPENFAAS_NAME": spec.name,
        "OPENFAAS_NAMESPACE": spec.namespace,
        "HOME": "/tmp",
        "PATH": joined(base["PATH"], own.get("PATH")),
    }


def nobody_is_quiet(_: str) -> bool:
    """For who has no policy to ask."""
    return False


def held_to(settings: Settings, spec: FunctionSpec, is_quiet: IsQuiet) -> Settings:
    """The settings as they hold for one function. Raises what ``is_quiet`` raises."""
    return replace(settings, egress=False) if is_quiet(spec.namespace) else settings


def reaches_out(settings: Settings, spec: FunctionSpec) -> bool:
    """Whether it reaches the outside world and the edge."""
    return settings.egress and spec.annotation("com.slipway.egress").lower() != "false"


def memory_bytes(settings: Settings, spec: FunctionSpec) -> int:
    return _read(size, "memory limit", limit(spec, "memory"), settings.function_memory)


def cpu_count(settings: Settings, spec: FunctionSpec) -> float:
    return _read(cpus, "CPU limit", limit(spec, "cpu"), settings.function_cpus)


def memory_limit(settings: Settings, spec: FunctionSpec) -> str:
    """The memory that a replica may use, for people: as the user wrote it, or like ``64Mi``."""
    default = settings.function_memory
    whole = f"{default // 2**20}Mi" if default % 2**20 == 0 else f"{default} bytes"
    return limit(spec, "memory") or whole


def limit(spec: FunctionSpec, name: Literal["memory", "cpu"]) -> str | None:
    """A limit as written; None where the settings' default holds."""
    if spec.limits is None:
        return None
    return spec.limits.memory if name == "memory" else spec.limits.cpu


def _read(parse: Callable[[str], Number], what: str, text: str | None, default: Number) -> Number:
    if not text:
        return default
    try:
        return parse(text)
    except ValueError as error:
        raise InvalidRequest(f"the {what} {text[:40]!r} cannot be read: {error}") from error


def split_command(command: str) -> list[str]:
    """``fprocess`` → an argument vector, by the shell's quoting but without a shell."""
    try:
        argv = shlex.split(command)
    except ValueError as error:
        raise InvalidRequest(f"fprocess {command[:80]!r} cannot be read: {error}") from error
    if not argv or "\0" in command:
        raise InvalidRequest("fprocess is empty: name the program that serves the function")
    return argv


def joined(first: str, second: str | None) -> str:
    return f"{first}:{second}" if second else first

"""Runs uv and npm within the bounds of a build step, and keeps the sandbox that tests run in.

Both programs are ours, what they unpack is not: memory, CPUs, time and output have the bounds of
a build step, and they end before the disk is full, which would hurt the store and with it all
that is live.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from builder import bounded, folders, registries
from core.errors import BuildFailed, Unavailable
from core.sandbox import Sandbox
from core.settings import Settings

_TAIL = 200
_PIDS = 512
"""uv and npm start a thread for each CPU and download."""


@functools.lru_cache(maxsize=1)
def sandbox(settings: Settings) -> Sandbox:
    """What this process can fence in; made once. A worker makes it before it forks for jobs."""
    return Sandbox.from_settings(settings, builds=True)


def run(
    settings: Settings,
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    out: Callable[[str], None],
    check: Callable[[], None] = lambda: None,
) -> bounded.Ended:
    """Runs one command to its end; how that went is the caller's to judge. ``check`` is asked again
    and again: what it raises ends the command, and is passed on.

    Raises:
        BuildFailed: it reached the bound of memory or output.
        Unavailable: it reached the bound of time, the disk is full, or the kernel refused.
        ConfigError: the program is not there.
    """

    if not folders.room(settings.state):
        raise folders.full(settings.state)

    def stop() -> bool:
        check()
        return not folders.room(settings.state)

    name = Path(argv[0]).name
    group = sandbox(settings).cgroups.create(
        f"{name}-{secrets.token_hex(8)}",
        memory=settings.build_memory,
        cpus=settings.build_cpus,
        pids=_PIDS,
    )
    try:
        ended = bounded.run(
            argv,
            cwd=cwd,
            env=env,
            timeout=settings.build_timeout,
            max_output=settings.build_output,
            on_line=lambda line: out(registries.without_passwords(line)),
            tail=_TAIL,
            stop=stop,
            group=group,
        )
        out_of_memory = bool(group.out_of_memory())
    finally:
        group.remove()
    told = registries.without_passwords("\n".join(ended.tail[-20:])).strip()
    if ended.outcome == "stopped":
        raise folders.full(settings.state)
    if ended.outcome == "timeout":
        raise Unavailable(
            f"installing took longer than {settings.build_timeout:g} s (SLIPWAY_BUILD_TIMEOUT): "
            f"the package registry may be slow, try again\n{told}"
        )
    if ended.outcome == "output":
        raise BuildFailed(
            f"installing wrote more than {settings.build_output} bytes (SLIPWAY_BUILD_OUTPUT)\n"
            f"{told}"
        )
    if out_of_memory:
        raise BuildFailed(
            f"installing used more memory than {settings.build_memory // 2**20} MiB "
            f"(SLIPWAY_BUILD_MEMORY): a package is too large for that\n{told}"
        )
    return ended

"""Processes by number and start time; see proc(5). A pid alone is only a number that comes back."""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
from pathlib import Path


@functools.cache
def boot_id() -> str:
    """The id of this boot of the kernel: start times of another one mean nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> int | None:
    """Clock ticks from boot to the process' start; None: it is gone or only waited for."""
    fields = _stat(pid)
    return None if fields is None or fields[0] in "ZX" else int(fields[19])


def descendants(pid: int) -> list[int]:
    """Children, their children and so on, parents before children."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - names are numbers, not paths
        if name.isdigit() and (fields := _stat(int(name))):
            parents.setdefault(int(fields[1]), []).append(int(name))
    found = list(parents.get(pid, ()))
    for each in found:  # grows while it is walked
        found += parents.get(each, ())
    return found


def kill(pid: int, *, tree: bool) -> None:
    """Ends a process at once, and with ``tree`` everything that descends from it.

    All are stopped before one is ended, so that none can fork away meanwhile.
    """
    held: set[int] = set()
    while tree and (fresh := {pid, *descendants(pid)} - held):
        for each in fresh:
            _send(each, signal.SIGSTOP)
        held |= fresh
    for each in held or {pid}:
        _send(each, signal.SIGKILL)


def ended(descriptor: int, timeout: float) -> bool:
    """Waits until a pidfd's process has ended, at most ``timeout`` seconds; tells whether."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(timeout, 0) * 1000))


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/<pid>/stat from the state (the third) on."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()  # the name before may hold anything


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)

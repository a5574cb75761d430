"""Processes as /proc tells them; see proc(5). A pid alone is only a number that comes back."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection, Iterator
from pathlib import Path


def parent(pid: int) -> int | None:
    """None: it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[1])  # the name before may hold anything


def descendants(pid: int) -> list[int]:
    """Children, their children and so on, parents before children."""
    families: dict[int, list[int]] = {}
    for each in _all():
        if above := parent(each):
            families.setdefault(above, []).append(each)
    found = list(families.get(pid, ()))
    for each in found:  # grows while it is walked
        found += families.get(each, ())
    return found


def holders(paths: Collection[str]) -> dict[int, str]:
    """Processes that have one of these files open → which; only those we may look into."""
    return {pid: path for pid in _all() if (path := opened(pid, paths))}


def opened(pid: int, paths: Collection[str]) -> str | None:
    """Which of these files a process has open."""
    with contextlib.suppress(OSError):  # it has ended, or is not ours
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                if (path := str(link.readlink())) in paths:
                    return path
    return None


def kill(pid: int, *, tree: bool) -> None:
    """Ends a process at once, and with ``tree`` everything that descends from it.

    All are stopped before one is ended, so that none can fork away meanwhile.
    """
    stopped: set[int] = set()
    while tree and (fresh := {pid, *descendants(pid)} - stopped):
        for each in fresh:
            _send(each, signal.SIGSTOP)
        stopped |= fresh
    for each in stopped or {pid}:
        _send(each, signal.SIGKILL)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _all() -> Iterator[int]:
    for name in os.listdir("/proc"):  # noqa: PTH208 - names are numbers, not paths
        if name.isdigit():
            yield int(name)

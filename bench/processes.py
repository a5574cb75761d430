"""Memory and processor time of processes, out of proc(5)."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from core.sandbox.launch import marker

_TICKS = os.sysconf("SC_CLK_TCK")
_SANDBOX = marker("")
"""A process called so and all below it are a function (or a function's tests)."""


def cpu_seconds(pid: int) -> float:
    """User and system time that a process and the children it has waited for have used."""
    fields = _stat(pid)
    if fields is None:
        raise RuntimeError(f"process {pid} is gone: it ended while it was measured")
    return sum(map(int, fields[11:15])) / _TICKS


def pss(pid: int) -> int:
    """Proportional set size in bytes: shared pages count by how many share them. Gone: 0."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:  # it ended meanwhile; a zombie has no memory (ESRCH)
        return 0
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def tree(pids: Iterable[int], *, functions: bool = True) -> list[int]:
    """The processes and all that descend from them; without what runs in a sandbox if asked."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        fields = _stat(pid)
        if fields is not None:
            children.setdefault(int(fields[1]), []).append(pid)
    found = dict.fromkeys(pids)  # in order, each once: one may descend from another
    todo = list(found)
    for pid in todo:  # grows while it is walked
        for child in children.get(pid, ()):
            if child not in found and (functions or not sandboxed(child)):
                found[child] = None
                todo.append(child)
    return todo


def parent(pid: int) -> int:
    """The process that it descends from; 0: it is gone."""
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def sandboxed(pid: int) -> bool:
    """Whether it is bubblewrap around a function, or around a function's tests."""
    return "".join(arguments(pid)[:1]).startswith(_SANDBOX)


def named(program: str) -> list[int]:
    """All processes whose program's name begins so."""
    return [
        int(entry.name)
        for entry in os.scandir("/proc")
        if entry.name.isdigit()
        and Path("".join(arguments(int(entry.name))[:1])).name.startswith(program)
    ]


def arguments(pid: int) -> list[str]:
    """The argument vector; empty where the process is gone."""
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return text.decode(errors="replace").split("\0")[:-1]


class PeakMemory:
    """Samples the sum of PSS of process trees until it is left; ``peak`` is in bytes.

    What lives shorter than ``every`` seconds may be missed.
    """

    def __init__(self, pids: Iterable[int], *, every: float = 0.1) -> None:
        self._pids = list(pids)
        self._every = every
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.peak = 0

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            self.peak = max(self.peak, sum(map(pss, tree(self._pids))))
            if self._ended.wait(self._every):
                return


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/<pid>/stat from the state (the third) on."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()

"""A function's log as a chain of files that grows while it is read.

The controller writes two files (``core/logfiles.py``) and drops the older one again and again. Here
each file knows the one that came after it, so that a reader, who is nothing but a file and an
offset, goes from one to the next without losing a line or reading one twice.

Whoever looks asks for the size of one file. inotify would tell of each write instead: ten a second
for each replica, which we would have to gather again before 200 followers are served; it has limits
of its own for each user, and says nothing on file systems of other machines.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from core.logfiles import CURRENT, LONGEST_LINE, PREVIOUS

BLOCK = 2**15
"""Bytes of log that are read at once: what a slow follower has in memory."""
_CACHED = 4
"""Blocks."""


class LogFile:
    """One file, held open; without a descriptor: a beginning that has no lines."""

    def __init__(self, fd: int = -1) -> None:
        self.size = 0
        self.identity: tuple[int, int] | None = None
        if fd >= 0:
            status = os.fstat(fd)
            self.size, self.identity = status.st_size, (status.st_dev, status.st_ino)
        self.next: LogFile | None = None
        """What came after it; from then on this file does not grow."""
        self.gap = False
        """Whether lines were dropped between the file before and this one."""
        self._fd = fd

    def read(self, offset: int, end: int) -> bytes:
        """Whole lines from ``offset`` on, about a block of them; empty: no whole line there."""
        for most in (BLOCK, LONGEST_LINE):
            wanted = min(most, end - offset)
            data = os.pread(self._fd, wanted, offset) if wanted > 0 and self._fd >= 0 else b""
            if whole := data.rfind(b"\n") + 1:
                return data[:whole]
            if len(data) < most:
                return b""
        return data  # longer than any line: what a crash tore

    def measure(self) -> None:
        """Notes how long it is by now."""
        if self._fd >= 0:
            self.size = os.fstat(self._fd).st_size

    @property
    def closed(self) -> bool:
        """Whether it was dropped, and cannot be read any more."""
        return self._fd < 0 and self.identity is not None

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


Key = tuple[LogFile, int, str, str]
"""A file, an offset in it, and what the lines are chosen by."""
Block = tuple[bytes, int]
"""What becomes of a file's bytes, and the offset behind them."""


class Chain:
    """The files of one function's log, as they come and go."""

    def __init__(self, folder: Path) -> None:
        self.files: list[LogFile] = []
        """Those on disk, the older one first."""
        self.last = LogFile()
        self._dropped: list[LogFile] = []
        self._blocks: dict[Key, Block] = {}
        self._folder = folder

    def look(self) -> None:
        """Sees what was written since, and which files have come and gone.

        A dropped file can be read until the next look: its space on disk is not held for longer.
        """
        while self._dropped:
            self._dropped.pop().close()
        current = _identity(self._folder / CURRENT)
        # A removed file's number is soon given to another one.
        if current is not None and current == self.last.identity and not self.last.closed:
            self.last.measure()
            return
        found = self._open()
        if found is None:
            return
        for file in self.files:
            file.measure()  # only now: what was renamed or dropped does not grow any more
        self._link(found)

    def cached(self, key: Key, make: Callable[[], Block]) -> Block:
        """Followers are mostly at the same place: what one has read and encoded, the others get."""
        block = self._blocks.get(key)
        if block is None:
            block = make()
            if block[1] > key[1]:  # there is something
                self._blocks[key] = block
                if len(self._blocks) > _CACHED:
                    del self._blocks[next(iter(self._blocks))]
        return block

    def close(self) -> None:
        for file in (*self.files, *self._dropped):
            file.close()

    def _open(self) -> list[LogFile] | None:
        """The files on disk, the older one first; None where they changed all the time."""
        for _ in range(10):
            current, previous = _open(self._folder / CURRENT), _open(self._folder / PREVIOUS)
            files = [file for file in (previous, current) if file]
            if _identity(self._folder / CURRENT) == (current.identity if current else None):
                return files
            for file in files:
                file.close()
        return None

    def _link(self, found: list[LogFile]) -> None:
        known = {file.identity: file for file in self.files}
        files = []
        for file in found:
            if file.identity in known:
                file.close()
                files.append(known[file.identity])
                continue
            file.gap = not files and bool(self.files)
            self.last.next = file
            self.last = file
            files.append(file)
        self._dropped = [file for file in self.files if file not in files]
        self.files = files


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _open(path: Path) -> LogFile | None:
    try:
        return LogFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK))
    except OSError:
        return None

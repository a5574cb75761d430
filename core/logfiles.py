"""Bounded logs on disk: two files of NDJSON, the older one dropped when the newer one is full.

    <folder>/current.ndjson    appended to
    <folder>/previous.ndjson   what it was before, at most half of the bound

One process writes a log, any number read it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from core.models import FunctionLogLine

CURRENT, PREVIOUS = "current.ndjson", "previous.ndjson"
LONGEST_LINE = 2**17
"""Bytes; more than any line of a function's log takes (``runtime/providers/output.py``)."""


class LogWriter:
    """Appends whole lines; keeps the last ``bound`` bytes or somewhat less of them, never more.

    Files that were begun under a higher bound stay until they are dropped in their turn.
    """

    def __init__(self, folder: Path, bound: int) -> None:
        self.folder = folder
        self.longest = max(bound // 2, 1)
        """Bytes of the longest line that is kept, its newline included; a file gets no longer."""
        self._file: int | None = None
        self._size = 0

    def append(self, lines: bytes) -> None:
        """Writes lines, each ending in a newline; one that is too long for a file is left out.

        Raises:
            OSError: the disk is full.
        """
        begin = 0
        while begin < len(lines):
            file = self._open()
            room = max(self.longest - self._size, 0)
            end = lines.rfind(b"\n", begin, begin + room) + 1
            if end:
                self._write(file, lines[begin:end])
            elif self._size:
                self.close()
                (self.folder / CURRENT).replace(self.folder / PREVIOUS)
                continue
            else:
                end = lines.index(b"\n", begin) + 1
            begin = end

    def _write(self, file: int, lines: bytes) -> None:
        while lines:
            try:
                written = os.write(file, lines)
            except OSError:  # a full disk may have taken a part before: ``_open`` ends that line
                self.close()
                raise
            self._size += written
            lines = lines[written:]

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> int:
        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._file = os.open(self.folder / CURRENT, flags, 0o600)
            self._size = os.fstat(self._file).st_size
            if self._size and os.pread(self._file, 1, self._size - 1) != b"\n":
                self._write(self._file, b"\n")  # a crash or a full disk tore the last line
        return self._file


def function_lines(folder: Path, after: datetime | None = None) -> Iterator[FunctionLogLine]:
    """Yields what a function wrote, oldest first; lines that a crash tore are passed over."""
    for text in read_lines(folder):
        try:
            line = msgspec.json.decode(text, type=FunctionLogLine)
        except msgspec.MsgspecError:
            continue
        if after is None or datetime.fromisoformat(line.time) > after:
            yield line


def read_lines(folder: Path) -> Iterator[bytes]:
    """Yields the kept lines, oldest first; a line that a crash tore is left to the caller."""
    for name in (PREVIOUS, CURRENT):
        try:
            with (folder / name).open("rb") as file:
                yield from file
        except FileNotFoundError:
            continue

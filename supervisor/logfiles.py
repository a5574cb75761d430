"""The parts' log files: one each, with one older one beside it, both bounded."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

MOST = 4 * 2**20
"""Bytes of a log file at which it is moved aside."""


class LogFiles:
    """``<folder>/<part>.log`` and ``<part>.log.1``."""

    def __init__(self, folder: Path, most: int = MOST) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self.folder = folder
        self.most = most

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def open(self, name: str) -> int:
        """A descriptor that appends, so that the file may be emptied under whoever writes."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        try:
            return os.open(self.path(name), flags | os.O_CREAT, 0o600)
        except OSError:  # the disk is full, the folder was removed: a part runs all the same
            return os.open(os.devnull, flags)

    def rotate(self) -> None:
        """Moves aside what has grown too large: copied and emptied, because the writer keeps its
        descriptor. Lines written between the two are lost."""
        for path in self.folder.glob("*.log"):
            with contextlib.suppress(OSError):  # a full disk: tried again
                if path.stat().st_size > self.most:
                    self._set_aside(path)

    def tail(self, name: str, lines: int = 20) -> str:
        """The last lines, for people."""
        try:
            with self.path(name).open("rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - 16384, 0))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def _set_aside(self, path: Path) -> None:
        """Keeps the last ``most`` bytes of a file as ``<file>.1``."""
        with path.open("rb") as source, path.with_name(path.name + ".1").open("wb") as target:
            offset = max(source.seek(0, os.SEEK_END) - self.most, 0)
            left = self.most
            while left > 0 and (
                sent := os.sendfile(target.fileno(), source.fileno(), offset, left)
            ):
                offset, left = offset + sent, left - sent
        os.truncate(path, 0)

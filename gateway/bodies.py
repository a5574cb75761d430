"""Bodies of asynchronous calls and of their answers: in memory while they are small, else files in
a folder of their own, which no other part than gateway and queue worker needs.

    <call id>.body              of the call
    <call id>.<8 hex>.answer    of one answer to it
    .<random>                   one that is being written

A file gets its name once all of it is on the disk, and before the store names it; it goes after
the store has forgotten it. Who is killed between leaves a file that nobody names: ``sweep`` removes
it once it is older than any request or call can last.
"""

from __future__ import annotations

import io
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from core import disk
from core.errors import NotFound, Unavailable
from core.patience import LONGEST
from core.store.calls import INLINE

RESERVE = 128 * 2**20
"""Bytes of the disk that bodies leave free: a full one would hurt the store."""
OLD = 2 * LONGEST
"""Seconds since a file was written to, after which it is nobody's who is still at it."""
CHUNK = 2**16
_LOOK_EVERY = 2**24
"""Bytes between two looks at how full the disk is."""
_NAME = re.compile(r"(?P<id>[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})(\.[0-9a-f]{8})?\.[a-z]+")


@dataclass(frozen=True)
class Body:
    """All of one."""

    data: bytes = b""
    path: Path | None = None
    """Where it lies, if it is not ``data``."""
    length: int = 0

    @classmethod
    def of(cls, data: bytes) -> Body:
        return cls(data, None, len(data))

    @property
    def file(self) -> str:
        return self.path.name if self.path else ""

    def open(self) -> IO[bytes]:
        """
        Raises:
            NotFound: it is not there any more, or not whole, as after a power cut.
        """
        if self.path is None:
            return io.BytesIO(self.data)
        try:
            opened = self.path.open("rb")
        except FileNotFoundError:
            raise NotFound(f"the body is gone: there is no {self.path.name}") from None
        size = os.fstat(opened.fileno()).st_size
        if size != self.length:
            opened.close()
            raise NotFound(f"the body is gone: {self.path.name} has {size} of {self.length} bytes")
        return opened

    def pieces(self) -> Iterator[bytes]:
        """Raises NotFound, as ``open``, before the first."""
        opened = self.open()

        def read() -> Iterator[bytes]:
            with opened:
                yield from iter(lambda: opened.read(CHUNK), b"")

        return read()


class Bodies:
    """The folder, which is made when it is first needed."""

    def __init__(self, folder: Path, reserve: int = RESERVE) -> None:
        self.folder = folder
        self.reserve = reserve

    def kept(self, name: str, data: bytes, length: int) -> Body:
        """What the store tells of one: ``name`` of its file, or '' and the bytes themselves."""
        return Body(b"", self.folder / name, length) if name else Body(data, None, length)

    def take(self, pieces: Iterable[bytes], name: str) -> Body:
        """All of these, whole on the disk where they are large; nothing of them if that fails.

        Raises:
            Unavailable: the disk is full.
        """
        with Spool(self) as spool:
            for piece in pieces:
                spool.write(piece)
            return spool.keep(name)

    def remove(self, names: Iterable[str]) -> None:
        """Those that are there. What cannot be removed now is swept later."""
        for name in names:
            if _NAME.fullmatch(name):
                with suppress(OSError):
                    (self.folder / name).unlink()

    def sweep(self, files_of: Callable[[str], set[str]]) -> int:
        """Removes what no call names (``files_of``: by its id) and nobody writes to; how many."""
        try:
            entries = list(os.scandir(self.folder))
        except FileNotFoundError:
            return 0
        removed = 0
        for entry in entries:
            with suppress(OSError):  # others remove as well
                if time.time() - entry.stat(follow_symlinks=False).st_mtime < OLD:
                    continue
                known = _NAME.fullmatch(entry.name)
                if not (known and entry.name in files_of(known["id"])):
                    Path(entry.path).unlink()
                    removed += 1
        return removed

    def check_room(self) -> None:
        """Raises Unavailable: too little of the disk is free."""
        try:
            left = disk.free(self.folder)
        except OSError as error:
            raise _full(str(error.strerror)) from error
        if left < self.reserve:
            raise _full(f"{disk.human(left)} are free")


class Spool:
    """Takes a body piece by piece. Leaving the block drops what was not kept."""

    def __init__(self, bodies: Bodies) -> None:
        self.length = 0
        self._bodies = bodies
        self._small = bytearray()
        self._file: IO[bytes] | None = None
        self._path = Path()
        self._looked = 0

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    def write(self, piece: bytes) -> None:
        """Raises Unavailable: the disk is full."""
        self.length += len(piece)
        if self._file is None and self.length <= INLINE:
            self._small += piece
            return
        if self.length - self._looked > _LOOK_EVERY or self._file is None:
            self._bodies.check_room()
            self._looked = self.length
        try:
            self._spill(piece)
        except OSError as error:
            raise _full(str(error.strerror)) from error

    def keep(self, name: str) -> Body:
        """Names it, once all of it is on the disk; a small one needs no name.

        Raises:
            Unavailable: the disk is full.
        """
        if self._file is None:
            return Body.of(bytes(self._small))
        path = self._bodies.folder / name
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._path.rename(path)
            self._file.close()
            folder = os.open(self._bodies.folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise _full(str(error.strerror)) from error
        self._file = None
        return Body(b"", path, self.length)

    def drop(self) -> None:
        """What was taken so far."""
        self._small.clear()
        if self._file:
            with suppress(OSError):  # what was left to write
                self._file.close()
            self._path.unlink(missing_ok=True)
            self._file = None

    def _spill(self, piece: bytes) -> None:
        if self._file is None:
            self._bodies.folder.mkdir(mode=0o700, exist_ok=True)
            number, name = tempfile.mkstemp(dir=self._bodies.folder, prefix=".")
            self._file, self._path = os.fdopen(number, "wb"), Path(name)  # 0600
            self._file.write(self._small)
            self._small.clear()
        self._file.write(piece)


def answer_file(id_: str) -> str:
    """A name for an answer's file: two workers who have the same call do not write over one
    another's."""
    return f"{id_}.{secrets.token_hex(4)}.answer"


def _full(why: str) -> Unavailable:
    """Anybody may ask: no path is told."""
    return Unavailable(
        f"the disk has no room for a large body ({why}): call again later; the administrator can "
        "make room"
    )

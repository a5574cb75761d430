"""The process provider's memory: one signed document a replica, in a folder of its own.

    <state>/instances/<id>/instance   hex HMAC-SHA-256, newline, the Record as JSON
                          /output     the named pipe of stdout and stderr
                          /status     what bubblewrap says of the end

A document without a process was written before the process was started: whoever finds it after a
crash ends what may be there. Documents are replaced as a whole, so they are never half written.
What does not verify is not ours: it is never listed, signalled or removed.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from core.errors import Unavailable
from core.models import FunctionSpec, Struct
from core.sandbox import Process
from core.signing import sign, verify

log = logging.getLogger(__name__)

_MAKING, _GONE = ".making-", ".gone-"


class Record(Struct, frozen=True):
    """All that the provider knows of a replica."""

    id: str
    spec: FunctionSpec
    socket: str
    uid: int
    memory: str
    """Its memory limit, as people wrote it."""
    started_at: float
    process: Process | None = None
    stopping: bool = False


class Records:
    """The folder of all replicas."""

    def __init__(self, folder: Path, key: bytes) -> None:
        self.folder = folder
        self._key = key
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, id: str) -> Path:
        return self.folder / id

    def create(self, record: Record) -> None:
        """Makes a replica's folder; it appears with its document in it."""
        making = self.folder / f"{_MAKING}{record.id}"
        making.mkdir(mode=0o700)
        (making / "instance").write_bytes(self._signed(record))
        making.rename(self.path(record.id))

    def replace(self, record: Record) -> None:
        """Writes a newer document of the same replica."""
        draft = self.path(record.id) / f".instance-{os.getpid()}-{os.urandom(4).hex()}"
        with draft.open("wb") as out:
            out.write(self._signed(record))
            out.flush()
            os.fsync(out.fileno())
        draft.replace(self.path(record.id) / "instance")

    def remove(self, id: str) -> None:
        """Removes a replica's folder: first its name, so that it is never found in parts."""
        gone = self.folder / f"{_GONE}{id}"
        try:
            self.path(id).rename(gone)
        except FileNotFoundError:
            return
        shutil.rmtree(gone, ignore_errors=True)

    def clear_halves(self) -> None:
        """Removes folders that were never finished or never removed to the end.

        Only at start: a replica that is just being made looks the same.
        """
        for entry in self.folder.iterdir():
            if entry.name.startswith((_MAKING, _GONE)):
                shutil.rmtree(entry, ignore_errors=True)

    def scan(self) -> Iterator[tuple[str, tuple[int, int, int]]]:
        """(id, what changes with the document) of every replica's folder: cheap."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                try:
                    # The parts by os.path: several calls a second for each replica.
                    stat = os.stat(f"{entry.path}/instance", follow_symlinks=False)  # noqa: PTH116
                except (FileNotFoundError, NotADirectoryError):
                    continue
                yield entry.name, (stat.st_ino, stat.st_size, stat.st_mtime_ns)

    def read(self, id: str) -> Record | None:
        """Reads one document; None: it is gone, or not ours.

        Raises:
            Unavailable: it cannot be read now.
        """
        try:
            signature, _, text = (self.path(id) / "instance").read_bytes().partition(b"\n")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise Unavailable(f"{self.path(id)} cannot be read: {error.strerror}") from error
        if not verify(self._key, text, signature.decode("ascii", "replace")):
            log.warning("%s/%s is not signed by us: left alone", self.folder, id)
            return None
        try:
            record = msgspec.json.decode(text, type=Record)
        except msgspec.MsgspecError as error:
            log.warning("%s/%s is of another version: %s", self.folder, id, error)
            return None
        if record.id != id:
            log.warning("%s/%s is a copy of another one's document: left alone", self.folder, id)
            return None
        return record

    def _signed(self, record: Record) -> bytes:
        text = msgspec.json.encode(record)
        return sign(self._key, text).encode() + b"\n" + text

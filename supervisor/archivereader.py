"""Reads a backup's file; its form stands in archive.py. All of it is hostile until its end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec
from nacl import pwhash
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from core.errors import ConfigError, InvalidRequest
from supervisor.archive import (
    BLOCK,
    CHUNK,
    MAGIC,
    MANIFEST,
    PREFIX,
    VERSION,
    Box,
    Entry,
    Head,
    Manifest,
)

_LONGEST_LINE = 4096
_LARGEST_MANIFEST = 2**26
_END = hashlib.sha256().digest_size


def read(path: Path, passphrase: bytes) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yields (name, content) of each piece; each content has to be read before the next.

    Nothing of it may be believed before the end was reached: only then all is known to be whole.

    Raises:
        InvalidRequest: it is no backup, of another version, damaged, or sealed otherwise.
        ConfigError: it cannot be read.
    """
    try:
        with path.open("rb") as source:
            yield from _read(path, source, passphrase)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def _read(
    path: Path, source: IO[bytes], passphrase: bytes
) -> Iterator[tuple[str, Iterator[bytes]]]:
    if source.read(len(MAGIC)) != MAGIC:
        raise InvalidRequest(f"{path} is no backup of Slipway")
    end = _check_end(path, source)
    source.seek(len(MAGIC))
    head = _head(path, source.readline(_LONGEST_LINE))
    if head.salt and not passphrase:
        raise InvalidRequest(
            f"{path} is sealed with a passphrase: name its file, --passphrase-file"
        )
    if passphrase and not head.salt:
        raise InvalidRequest(f"{path} is not sealed: leave --passphrase-file out")
    blocks = _plain(source, end)
    if head.salt:
        box = Box(passphrase, head.salt, head.nonce)
        blocks = _opened(path, source, end, box)
    body = _Body(path, blocks)
    found: list[Entry] = []
    while (name := body.line()) != MANIFEST:
        if any(each.name == name for each in found):
            raise InvalidRequest(f"{path} has {name!r} twice")
        count = _Count(body.chunks())
        yield name, iter(count)
        for _ in count:  # what was not read
            pass
        found.append(Entry(name, count.size, count.digest.hexdigest()))
    manifest = bytearray()
    for chunk in body.chunks():
        manifest += chunk
        if len(manifest) > _LARGEST_MANIFEST:
            raise InvalidRequest(f"{path} has a manifest without an end")
    try:
        told = msgspec.json.decode(manifest, type=Manifest)
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"{path} has a damaged manifest: {error}") from error
    if told.entries != found or body.rest():
        raise InvalidRequest(f"{path} is damaged: what it has is not what its manifest says")


class _Body:
    """Reads lines and chunks out of blocks."""

    def __init__(self, path: Path, blocks: Iterator[bytes]) -> None:
        self._path = path
        self._blocks = blocks
        self._data = bytearray()

    def line(self) -> str:
        while b"\n" not in self._data:
            if len(self._data) > _LONGEST_LINE or not self._more():
                raise self._broken()
        line, _, rest = self._data.partition(b"\n")
        self._data = rest
        if len(line) > _LONGEST_LINE:
            raise self._broken()
        return line.decode("utf-8", "replace")

    def chunks(self) -> Iterator[bytes]:
        while length := int.from_bytes(self._take(4), "big"):
            if length > CHUNK:
                raise self._broken()
            yield self._take(length)

    def rest(self) -> bool:
        """Whether anything follows."""
        return bool(self._data) or self._more()

    def _take(self, count: int) -> bytes:
        while len(self._data) < count:
            if not self._more():
                raise self._broken()
        taken = bytes(self._data[:count])
        del self._data[:count]
        return taken

    def _more(self) -> bool:
        block = next(self._blocks, b"")
        self._data += block
        return bool(block)

    def _broken(self) -> InvalidRequest:
        return InvalidRequest(f"{self._path} is damaged: it does not have what it says")


class _Count:
    """Passes chunks on once, and knows what passed."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self.size = 0
        self.digest = hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.size += len(chunk)
            self.digest.update(chunk)
            yield chunk


def _check_end(path: Path, source: IO[bytes]) -> int:
    """Compares the whole file with its last bytes; returns where the body ends."""
    end = path.stat().st_size - _END
    digest = hashlib.sha256(MAGIC)
    left = end - len(MAGIC)
    while left > 0 and (data := source.read(min(left, BLOCK))):
        digest.update(data)
        left -= len(data)
    if left or source.read() != digest.digest():
        raise InvalidRequest(
            f"{path} is damaged: it is not what was written. Use another backup, or another copy"
        )
    return end


def _head(path: Path, line: bytes) -> Head:
    try:
        head = msgspec.json.decode(line, type=Head)
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"{path} has a damaged head: {error}") from error
    if head.version != VERSION:
        raise InvalidRequest(
            f"{path} is a backup of version {head.version}, and this Slipway reads {VERSION}: use "
            "the Slipway that made it"
        )
    if head.salt and (len(head.salt), len(head.nonce)) != (pwhash.argon2id.SALTBYTES, PREFIX):
        raise InvalidRequest(f"{path} has a damaged head: salt or nonce have another length")
    return head


def _plain(source: IO[bytes], end: int) -> Iterator[bytes]:
    while (left := end - source.tell()) > 0:
        yield source.read(min(left, BLOCK))


def _opened(path: Path, source: IO[bytes], end: int, box: Box) -> Iterator[bytes]:
    size = BLOCK + SecretBox.MACBYTES
    while (left := end - source.tell()) > 0:
        try:
            yield box.open(source.read(min(left, size)), last=left <= size)
        except (CryptoError, ValueError) as error:
            raise InvalidRequest(f"{path} does not open: is it the right passphrase?") from error

"""The file that a backup is: pieces under names, whole or not at all, sealed where asked for.

    slipway backup\\n
    {"version": 1, "salt": …, "nonce": …}\\n     salt and nonce only where there is a passphrase
    body
    SHA-256 of everything before

The body is pieces one after another: a line with the name, then chunks, each of them four bytes
with its length (big-endian) and that many bytes; a chunk of no bytes ends the piece. The last one
is ``manifest.json``: name → size and SHA-256 of all others.

With a passphrase the body is cut into blocks of BLOCK bytes, each sealed by libsodium's secretbox
under a key made with Argon2id. A block's nonce has its number and whether it is the last, so none
can be left out, swapped or added. There are no paths in it but names, no links, and nothing is
packed: what is read is never larger than the file.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import msgspec
from nacl import pwhash, utils
from nacl.secret import SecretBox

from core.errors import ConfigError

MAGIC = b"slipway backup\n"
VERSION = 1
BLOCK = 2**20
CHUNK = 2**20
MANIFEST = "manifest.json"
PREFIX = 16
"""Bytes of a nonce that are random."""


class Head(msgspec.Struct, frozen=True, omit_defaults=True):
    version: int
    salt: bytes = b""
    nonce: bytes = b""


class Entry(msgspec.Struct, frozen=True):
    """One piece in the manifest."""

    name: str
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    slipway: str
    """Version of the program that made it."""
    created: str
    entries: list[Entry]


class Writer:
    """Writes an archive beside its place and moves it there at the end; or leaves nothing."""

    def __init__(self, target: Path, passphrase: bytes, slipway: str, created: str) -> None:
        """Raises ConfigError: it cannot be written there, or another backup is being."""
        self._target = target
        self._draft = target.with_name(f".{target.name}.part")
        self._slipway, self._created = slipway, created
        self._out = self._opened()
        self._hash = hashlib.sha256()
        self._entries: list[Entry] = []
        self._pending = bytearray()
        self._box: Box | None = None
        head = Head(VERSION)
        if passphrase:
            salt, nonce = utils.random(pwhash.argon2id.SALTBYTES), utils.random(PREFIX)
            head = Head(VERSION, salt, nonce)
            self._box = Box(passphrase, salt, nonce)
        self._write(MAGIC + msgspec.json.encode(head) + b"\n")

    def _opened(self) -> IO[bytes]:
        """The draft, for us alone and empty."""
        with contextlib.ExitStack() as held:
            try:
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
                out = held.enter_context(os.fdopen(os.open(self._draft, flags, 0o600), "r+b"))
                fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(out.fileno()), os.lstat(self._draft)):
                    raise BlockingIOError  # it was moved to its place just now
                os.fchmod(out.fileno(), 0o600)
                out.truncate()  # what an earlier one left that was killed
            except (BlockingIOError, FileNotFoundError) as error:
                if isinstance(error, FileNotFoundError) and not self._target.parent.is_dir():
                    raise ConfigError(f"{self._target.parent} is not there: make it") from error
                raise ConfigError(
                    f"another backup to {self._target} is being made: wait for it"
                ) from error
            except OSError as error:
                raise ConfigError(f"{self._target} cannot be written: {error.strerror}") from error
            held.pop_all()
            return out

    def add(self, name: str, data: Iterable[bytes]) -> None:
        """Adds a piece as it comes."""
        size, digest = 0, hashlib.sha256()
        self._body(name.encode() + b"\n")
        for part in data:
            for start in range(0, len(part), CHUNK):
                chunk = part[start : start + CHUNK]
                size += len(chunk)
                digest.update(chunk)
                self._body(len(chunk).to_bytes(4, "big") + chunk)
        self._body(bytes(4))
        self._entries.append(Entry(name, size, digest.hexdigest()))

    def finish(self) -> int:
        """Puts it in its place, on the disk; returns its size in bytes."""
        manifest = Manifest(self._slipway, self._created, list(self._entries))
        self.add(MANIFEST, [msgspec.json.encode(manifest)])
        if self._box:
            self._write(self._box.seal(bytes(self._pending), last=True))
        self._out.write(self._hash.digest())
        self._out.flush()
        os.fsync(self._out.fileno())
        size = self._out.tell()
        self._draft.replace(self._target)
        folder = os.open(self._target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._out.close()
        return size

    def give_up(self) -> None:
        """Leaves nothing."""
        self._draft.unlink(missing_ok=True)
        self._out.close()

    def _body(self, data: bytes) -> None:
        if self._box is None:
            self._write(data)
            return
        self._pending += data
        while len(self._pending) > BLOCK:  # the last block is sealed as such, so one is kept
            self._write(self._box.seal(bytes(self._pending[:BLOCK]), last=False))
            del self._pending[:BLOCK]

    def _write(self, data: bytes) -> None:
        self._hash.update(data)
        self._out.write(data)


class Box:
    """Seals and opens the blocks of one body, in their order."""

    def __init__(self, passphrase: bytes, salt: bytes, nonce: bytes) -> None:
        key = pwhash.argon2id.kdf(
            SecretBox.KEY_SIZE,
            passphrase,
            salt,
            opslimit=pwhash.argon2id.OPSLIMIT_MODERATE,
            memlimit=pwhash.argon2id.MEMLIMIT_MODERATE,
        )
        self._box = SecretBox(key)
        self._nonce = nonce
        self._number = 0

    def seal(self, block: bytes, *, last: bool) -> bytes:
        return bytes(self._box.encrypt(block, self._next(last)).ciphertext)

    def open(self, block: bytes, *, last: bool) -> bytes:
        """Raises CryptoError."""
        return bytes(self._box.decrypt(block, self._next(last)))

    def _next(self, last: bool) -> bytes:
        number = self._number.to_bytes(SecretBox.NONCE_SIZE - PREFIX - 1, "big")
        self._number += 1
        return self._nonce + number + bytes([last])


def passphrase_in(path: Path | None) -> bytes:
    """The passphrase in a file, without the newline at its end; empty without a file.

    Raises:
        ConfigError: it cannot be read, or is empty.
    """
    if path is None:
        return b""
    try:
        found = path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise ConfigError(
            f"the passphrase's file {path} cannot be read: {error.strerror}"
        ) from error
    if not found:
        raise ConfigError(f"the passphrase's file {path} is empty")
    return found

"""The private keys that open what is sealed in git: files that only the controller reads.

    <state>/sealing-keys/           0700
        <fingerprint>               0600 JSON: number, time, private key

A key is published only once its file is safely on the disk, and what is published is read from the
folder each time: so whatever a controller was killed at, no value is sealed with a key that nobody
has, and a store that was lost is told anew.
"""

from __future__ import annotations

import os
import secrets
import threading
from pathlib import Path

import msgspec
from nacl.public import PrivateKey
from redis.exceptions import RedisError

from core import logging
from core.errors import ConfigError
from core.models import Struct, now
from core.sealedbox import FINGERPRINT, KeyPair, Place, decoded, encoded, parse
from core.store import Store
from core.store.sealingkeys import PublishedKey

LOOK_EVERY = 1.0
"""Seconds: whoever asks for another key waits for it."""

log = logging.get()


class KeyFile(Struct, frozen=True):
    """What a file holds."""

    number: int
    created_at: str
    key: str
    """The private key in base64url."""

    def pair(self) -> KeyPair:
        """Raises ConfigError."""
        try:
            return KeyPair(decoded(self.key))
        except ValueError:
            raise ConfigError("its key is not base64url") from None


def read_key(data: bytes, fingerprint: str) -> tuple[KeyFile, KeyPair]:
    """A file's content, which has to be the key that it is called by. Raises ConfigError."""
    try:
        file = msgspec.json.decode(data, type=KeyFile)
        pair = file.pair()
    except (msgspec.MsgspecError, RecursionError, ConfigError):
        raise ConfigError(f"{fingerprint} holds no private key: put the right file back") from None
    if pair.fingerprint != fingerprint:
        raise ConfigError(f"{fingerprint} holds another key, {pair.fingerprint}: rename it")
    return file, pair


class SealingKeys:
    """All private keys of one installation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._told = ""

    def open(self, text: str, place: Place) -> bytes:
        """The value.

        Raises:
            InvalidRequest: it was changed, or sealed for another place.
            ConfigError: the key is not there, or damaged.
        """
        sealed = parse(text)
        path = self.folder / sealed.fingerprint
        try:
            _, pair = read_key(path.read_bytes(), sealed.fingerprint)
        except FileNotFoundError:
            raise ConfigError(
                f"the key {sealed.fingerprint} that it is sealed with is not here any more, or was "
                "never this installation's"
            ) from None
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
        return pair.open(sealed, place)

    def follow(self, store: Store, stop: threading.Event) -> None:
        """Does what is wished, until ``stop``."""
        while not stop.is_set():
            try:
                self._tell(self.tend(store))
            except RedisError as error:
                self._tell(f"the store does not answer: {error}")
            except OSError as error:
                self._tell(f"{self.folder}: {error.strerror}")
            except Exception:
                log.exception("sealing_keys_stuck")
            stop.wait(LOOK_EVERY)

    def tend(self, store: Store) -> str:
        """One look: makes a key where one is wanted or none is there, deletes what is not wanted
        any more, and publishes what is there then. Returns which files cannot be used, if any.

        Raises:
            OSError: the folder cannot be written.
            RedisError: the store is away.
        """
        wishes = store.sealing_wishes()
        self._prepare()
        found, trouble = self._all()
        for fingerprint in wishes.unwanted & found.keys():
            (self.folder / fingerprint).unlink()
            _sync(self.folder)
            del found[fingerprint]
            log.info("sealing_key_deleted", fingerprint=fingerprint)
        newest = max((file.number for file, _ in found.values()), default=0)
        if not found or newest < wishes.number:
            fingerprint, made = self._make(max(wishes.number, newest + 1))
            found[fingerprint] = made
            log.info("sealing_key_made", fingerprint=fingerprint)
        published = [
            PublishedKey(
                fingerprint=fingerprint,
                key=encoded(pair.public),
                number=file.number,
                created_at=file.created_at,
            )
            for fingerprint, (file, pair) in found.items()
        ]
        store.publish_sealing_keys(sorted(published, key=lambda e: (e.number, e.fingerprint)))
        return "; ".join(trouble)

    def _prepare(self) -> None:
        """Makes the folder, and removes what a controller that was killed had half written."""
        if not self.folder.is_dir():
            self.folder.mkdir(mode=0o700, parents=True)
            _sync(self.folder.parent)
        for draft in self.folder.glob(".*"):
            draft.unlink(missing_ok=True)

    def _all(self) -> tuple[dict[str, tuple[KeyFile, KeyPair]], list[str]]:
        """Fingerprint → key; and what is wrong with others, which are not published."""
        found, trouble = {}, []
        for path in sorted(self.folder.iterdir()):
            if FINGERPRINT.fullmatch(path.name):
                try:
                    found[path.name] = read_key(path.read_bytes(), path.name)
                except ConfigError as error:
                    trouble.append(str(error))
        return found, trouble

    def _make(self, number: int) -> tuple[str, tuple[KeyFile, KeyPair]]:
        private = bytes(PrivateKey.generate())
        pair = KeyPair(private)
        file = KeyFile(number=number, created_at=now(), key=encoded(private))
        draft = self.folder / f".{secrets.token_hex(6)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(draft, flags, 0o600), "wb") as out:
            out.write(msgspec.json.encode(file) + b"\n")
            out.flush()
            os.fsync(out.fileno())
        draft.rename(self.folder / pair.fingerprint)
        _sync(self.folder)
        return pair.fingerprint, (file, pair)

    def _tell(self, reason: str) -> None:
        """Once for as long as it lasts."""
        if reason and reason != self._told:
            log.warning("sealing_keys", reason=reason)
        self._told = reason


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

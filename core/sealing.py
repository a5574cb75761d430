"""Encryption at rest: the store keeps secrets sealed, with a key that lies outside of it.

XChaCha20-Poly1305 by libsodium. The place that a value belongs to is authenticated along with it,
so that a sealed value that is copied to another place does not open there.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import resource
from pathlib import Path

from nacl.exceptions import CryptoError
from nacl.secret import Aead

from core.errors import ConfigError
from core.signing import secret_file

KEY_BYTES = Aead.KEY_SIZE


class SealingKey:
    """The key in one file: URL-safe base64 of 32 random bytes, as ``secret_file`` makes it."""

    def __init__(self, text: str, path: Path) -> None:
        """This process leaves no core dump from now on: what it opens would be in it.

        Raises:
            ConfigError: the text is no such key.
        """
        self.path = path
        _, most = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, most))
        try:
            key = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != KEY_BYTES:
            raise ConfigError(
                f"{path} holds no key for secrets, which is {KEY_BYTES} bytes in base64: put the "
                "right file back, as a backup holds it"
            )
        self._box = Aead(key)
        self.fingerprint = hashlib.sha256(b"slipway secrets key\0" + key).hexdigest()[:16]
        """Tells keys apart and says nothing of them."""

    def __repr__(self) -> str:
        return f"SealingKey({self.fingerprint})"

    @classmethod
    def read(cls, path: Path) -> SealingKey:
        """Raises ConfigError: the file is missing, cannot be read, or holds no key."""
        if not path.exists():
            raise ConfigError(
                f"the key for secrets is missing: {path} is not there. What is sealed with it "
                "waits in the store: put the file back, as a backup holds it"
            )
        return cls(secret_file(path), path)

    def seal(self, value: bytes, place: str) -> bytes:
        return bytes(self._box.encrypt(value, place.encode()))

    def open(self, sealed: bytes, place: str) -> bytes | None:
        """The value; None where it was not sealed with this key for this place."""
        try:
            return bytes(self._box.decrypt(sealed, place.encode()))
        except (CryptoError, ValueError, TypeError):
            return None

"""Keys, passwords and signatures.

HMAC is SHA-256 everywhere (RFC 2104); comparisons take constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from core.errors import ConfigError

OWNERS_TOKEN = "slipway_"
"""What every token of an owner begins with: core/store/tokens.py."""


def sign(key: bytes, message: bytes) -> str:
    """Returns the hex HMAC-SHA-256 of the message."""
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def verify(key: bytes, message: bytes, signature: str) -> bool:
    """Tells whether ``signature`` (hex) is ours; an empty key verifies nothing."""
    return bool(key) and hmac.compare_digest(
        sign(key, message).encode(), signature.encode("utf-8", "replace")
    )


def same_secret(given: str, expected: str) -> bool:
    """Compares two secrets in constant time; an empty expectation matches nothing."""
    return bool(expected) and hmac.compare_digest(
        given.encode("utf-8", "replace"), expected.encode()
    )


def secret_file(path: Path, *, length: int = 24) -> str:
    """Returns the secret in ``path``, made once (mode 0600) if it is not there.

    ``length`` is in bytes of randomness. Two processes may race: the first file wins.

    Raises:
        ConfigError: the file is empty or cannot be read or made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
        if not path.exists():
            with os.fdopen(
                os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w"
            ) as out:
                out.write(secrets.token_urlsafe(length) + "\n")
                out.flush()
                os.fsync(out.fileno())
            try:
                os.link(draft, path)
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        value = path.read_text().strip()
    except OSError as error:
        raise ConfigError(f"the secret file {path} cannot be used: {error.strerror}") from error
    if not value:
        raise ConfigError(f"the secret file {path} is empty: delete it to have a new one made")
    return value

"""Values that are sealed for one place with a public key, and so can lie in a public repository.

    sealed:1:<fingerprint of the public key>:<base64url of a libsodium sealed box>

In the box is a document in MessagePack: version, namespace, repository, name, value; padded to
steps of 64 bytes (ISO/IEC 7816-4), so that its length tells little of the value's. Whoever has the
public key can seal, so a box says nothing of who made it: that is for the repository's commits to
say. The place is compared after opening, as libsodium's sealed boxes (X25519, XSalsa20-Poly1305)
authenticate nothing beside what is in them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import resource
from typing import NamedTuple

import msgspec
from nacl.bindings import crypto_box_SEALBYTES, sodium_pad, sodium_unpad
from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox

from core.errors import ConfigError, InvalidRequest

VERSION = 1
KEY_BYTES = PublicKey.SIZE
MAX_VALUE = 64 * 1024
"""Bytes: it is part of the function's specification, which lies in the store's memory."""
STEP = 64
FINGERPRINT = re.compile(r"[0-9a-f]{16}")
_PREFIX = f"sealed:{VERSION}:"
_FORM = re.compile(rf"{_PREFIX}({FINGERPRINT.pattern}):([A-Za-z0-9_-]+)")
_OVERHEAD = 1024
"""Bytes that a box has beside the value, at most: names, padding, a key and an authenticator."""
MAX_TEXT = len(_PREFIX) + 17 + -(-(MAX_VALUE + _OVERHEAD) * 4 // 3)


class Place(NamedTuple):
    """The one place at which a sealed value opens."""

    namespace: str
    repository: str
    """``<forge>:<the forge's id of the repository>``: see ``Repositories.repository_id``."""
    name: str


class Sealed(NamedTuple):
    """A text, taken apart."""

    fingerprint: str
    box: bytes


class _Document(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is in the box. Other documents of later versions begin with another number."""

    version: int
    namespace: str
    repository: str
    name: str
    value: bytes


def fingerprint(public: bytes) -> str:
    return hashlib.sha256(b"slipway sealing public key\0" + public).hexdigest()[:16]


def seal(public: bytes, place: Place, value: bytes) -> str:
    """Raises InvalidRequest: the key is none, the value too large or empty."""
    if not value:
        raise InvalidRequest(f"the secret {place.name} has no value: give one")
    if len(value) > MAX_VALUE:
        raise InvalidRequest(
            f"the value of {place.name} has {len(value)} bytes, and {MAX_VALUE} are the most that "
            "can be sealed: use 'slipway secret create', or keep large files elsewhere"
        )
    document = _Document(VERSION, *place, value)
    padded = sodium_pad(msgspec.msgpack.encode(document), STEP)
    try:
        box = SealedBox(PublicKey(public)).encrypt(padded)
    except (CryptoError, ValueError, TypeError) as error:
        raise InvalidRequest(
            f"this is no public key to seal with, which has {KEY_BYTES} bytes: ask the "
            "installation for it"
        ) from error
    return f"{_PREFIX}{fingerprint(public)}:{encoded(bytes(box))}"


def parse(text: str) -> Sealed:
    """Raises InvalidRequest: it has not the form. The text is never shown: it may be a plain value
    that somebody forgot to seal."""
    match = _FORM.fullmatch(text) if len(text) <= MAX_TEXT else None
    try:
        box = decoded(match[2]) if match else b""
    except ValueError:
        box = b""
    if not match or len(box) <= crypto_box_SEALBYTES:
        raise InvalidRequest(
            "it is no sealed value, which begins with 'sealed:1:': write it with 'slipway seal'. "
            "If it is a secret as it is, it is in git now: change it where it is used"
        )
    return Sealed(match[1], box)


class KeyPair:
    """A private key, which alone opens, and its public key."""

    def __init__(self, private: bytes) -> None:
        """This process leaves no core dump from now on: what it opens would be in it.

        Raises:
            ConfigError: it is no key.
        """
        _, most = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, most))
        try:
            key = PrivateKey(private)
        except (CryptoError, ValueError, TypeError):
            raise ConfigError(f"a private key has {KEY_BYTES} bytes") from None
        self._box = SealedBox(key)
        self.public = bytes(key.public_key)
        self.fingerprint = fingerprint(self.public)

    def __repr__(self) -> str:
        return f"KeyPair({self.fingerprint})"

    def open(self, sealed: Sealed, place: Place) -> bytes:
        """The value.

        Raises:
            InvalidRequest: it was not sealed with this key, was changed, or is for another place.
                Which part of the place differs is told, and not what it was sealed for: who copied
                it from somewhere else need not be one who may know.
        """
        document = self._document(sealed.box)
        if document is None:
            raise InvalidRequest(
                "it does not open: a character of it is changed or missing, or it was sealed by "
                "another installation"
            )
        meant = Place(document.namespace, document.repository, document.name)
        parts = zip(Place._fields, meant, place, strict=True)
        if other := [part for part, sealed_for, here in parts if sealed_for != here]:
            raise InvalidRequest(
                f"it was sealed for another {' and '.join(other)} than where it stands, and opens "
                "there alone"
            )
        return document.value

    def _document(self, box: bytes) -> _Document | None:
        try:
            padded = self._box.decrypt(box)
            document = msgspec.msgpack.decode(sodium_unpad(padded, STEP), type=_Document)
        except (CryptoError, ValueError, TypeError, msgspec.MsgspecError):
            return None
        return document if document.version == VERSION else None


def encoded(data: bytes) -> str:
    """base64url without padding (RFC 4648 §5)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decoded(text: str) -> bytes:
    """Raises ValueError: it is not that, or not in its one form."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
    if encoded(data) != text:
        raise ValueError("bits are left over")
    return data

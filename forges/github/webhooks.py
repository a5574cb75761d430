"""GitHub's webhooks: the signature, and what a ``push`` event says.

Source of the formats: GitHub's documentation "Validating webhook deliveries" and "Webhook events
and payloads". Nothing of a payload is trusted but who sent it: which commit is released and from
where it is fetched is decided elsewhere.
"""

from __future__ import annotations

import hashlib
import hmac
import re

import msgspec

from core import names
from core.errors import BadCredentials, InvalidRequest
from core.signing import same_secret

SIGNATURE = "X-Hub-Signature-256"
EVENT = "X-GitHub-Event"
DELIVERY = "X-GitHub-Delivery"
MAX_BODY = 25_000_000
"""Bytes: GitHub caps payloads at 25 MB."""

_LOGIN = re.compile(r"[A-Za-z0-9](?:[-_A-Za-z0-9]{0,98}[-_A-Za-z0-9])?")
_DELIVERY = re.compile(r"[-0-9A-Za-z]{1,64}")
_HEADS = "refs/heads/"


class _Owner(msgspec.Struct):
    id: int
    login: str = ""
    name: str = ""


class _Repository(msgspec.Struct):
    id: int
    name: str
    full_name: str
    owner: _Owner
    default_branch: str = ""


class _Payload(msgspec.Struct):
    ref: str
    after: str
    repository: _Repository
    deleted: bool = False


class Push(msgspec.Struct, frozen=True):
    """What a push event says, checked."""

    full_name: str
    """``owner/name``: each half safe in a path or URL."""
    owner: str
    name: str
    owner_id: int
    repository_id: int
    ref: str
    commit: str
    """The new head: a hint. All zeros where the ref was deleted."""
    default_branch: str
    deleted: bool

    @property
    def branch(self) -> str:
        """The branch that was pushed; empty for tags."""
        return self.ref.removeprefix(_HEADS) if self.ref.startswith(_HEADS) else ""


def check_configured(secret: str, signature: str) -> None:
    """What can be refused before the body is read.

    Raises:
        BadCredentials: there is no secret to check with, or nothing to check.
    """
    if not secret:
        raise BadCredentials(
            "webhooks of GitHub are refused: no secret is set; set SLIPWAY_GITHUB_WEBHOOK_SECRET "
            "to the secret of the webhook"
        )
    if not signature:
        raise BadCredentials(
            f"the header {SIGNATURE} is missing: give the webhook at GitHub a secret, the same as "
            "SLIPWAY_GITHUB_WEBHOOK_SECRET"
        )


def check_signature(secret: str, body: bytes | bytearray, signature: str) -> None:
    """Checks ``sha256=<hex HMAC-SHA-256 of the raw body>`` in constant time.

    Raises:
        BadCredentials: it is missing, of another kind, or not of this body and secret.
    """
    check_configured(secret, signature)
    kind, _, given = signature.partition("=")
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    if kind != "sha256" or not same_secret(given, digest):
        raise BadCredentials(
            f"the signature in {SIGNATURE} is not of this body: is the secret of the webhook the "
            "same as SLIPWAY_GITHUB_WEBHOOK_SECRET?"
        )


def parse_push(body: bytes | bytearray) -> Push:
    """Reads a push event; the signature was checked before.

    Raises:
        InvalidRequest: not JSON, not a push, or a repository name that is none.
    """
    try:
        payload = msgspec.json.decode(body, type=_Payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(
            f"the body is not a push event in JSON: {error}; is the webhook's content type "
            "application/json?"
        ) from error
    repository = payload.repository
    owner, slash, name = repository.full_name.partition("/")
    if not slash or not _LOGIN.fullmatch(owner) or name != repository.name:
        raise InvalidRequest(
            f"{repository.full_name[:100]!r} is not the full name of a repository (owner/name)"
        )
    names.repository_name(name)
    return Push(
        full_name=repository.full_name,
        owner=owner,
        name=name,
        owner_id=repository.owner.id,
        repository_id=repository.id,
        ref=payload.ref,
        commit=names.commit(payload.after),
        default_branch=repository.default_branch,
        deleted=payload.deleted or not payload.after.strip("0"),
    )


def delivery_id(given: str) -> str:
    """The delivery's id, or '' if it is none: it saves work, it proves nothing."""
    return given if _DELIVERY.fullmatch(given) else ""

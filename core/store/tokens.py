"""Owner tokens: each opens one owner's namespaces, as far as its scopes go.

A token is ``slipway_<id>_<secret>``, 256 random bits in hex behind an id: scanners of secrets find
it by its form. It is shown once; kept is its SHA-256, which needs no salt and no slow hash, as
nobody can guess 256 bits.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
from redis.client import Pipeline

from core import keys, names
from core.errors import Conflict, InvalidRequest, NotFound
from core.models import Struct, moment, now
from core.scopes import Scope
from core.signing import OWNERS_TOKEN, same_secret
from core.store.base import encode
from core.store.namespaces import Namespaces

FORM = re.compile(rf"{OWNERS_TOKEN}([0-9a-f]{{12}})_([0-9a-f]{{64}})")
MAX_TOKENS = 100
"""Of one owner."""
MAX_DESCRIPTION = 200
USED_EVERY = 60.0
"""Seconds: the last use is known as exactly as that."""
_TOUCH = """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then
    redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
end
"""


class Token(Struct, frozen=True):
    """What is told of a token."""

    id: str
    namespace: str
    """Of the owner; those derived of it are the owner's as well."""
    description: str
    scopes: list[Scope]
    created_at: str
    expires_at: str | None = None
    """RFC 3339; null: never."""


class ListedToken(Token, frozen=True, kw_only=True):
    """One in a list."""

    last_used_at: str | None = None
    """To the minute; null: it never was."""


class NewToken(Token, frozen=True, kw_only=True):
    """One that was just made."""

    token: str
    """The token itself: it is shown this once."""


class Kept(Token, frozen=True, kw_only=True):
    """One as it is kept."""

    hash: str
    """SHA-256 of the whole token, in hex."""


class Tokens(Namespaces):
    def create_token(
        self,
        namespace: str,
        scopes: Collection[Scope],
        description: str = "",
        expires: datetime | None = None,
    ) -> NewToken:
        """Makes one. Its secret is nowhere but in the answer.

        Raises:
            InvalidRequest: there is no such namespace, or it is no owner's; no scope; a
                description that is none; an expiry that is past.
            Conflict: the owner has as many as may be.
        """
        names.owner_namespace(namespace)
        _check(scopes, description, expires)
        id_ = secrets.token_hex(6)
        whole = f"{OWNERS_TOKEN}{id_}_{secrets.token_hex(32)}"
        kept = Kept(
            id=id_,
            namespace=namespace,
            description=description,
            scopes=[each for each in Scope if each in scopes],
            created_at=now(),
            expires_at=moment(expires.timestamp()) if expires else None,
            hash=_hash(whole),
        )

        def change(pipe: Pipeline) -> None:
            self.require_namespace(namespace)
            held = len([each for each in self._kept_tokens() if each.namespace == namespace])
            pipe.multi()
            if held >= MAX_TOKENS:
                raise Conflict(
                    f"{namespace} has {held} tokens, which is the most: revoke one that nobody uses"
                )
            pipe.hset(keys.TOKENS, id_, encode(kept))

        self._transaction(change, keys.TOKENS, keys.NAMESPACES)
        return NewToken(**_told(kept), token=whole)

    def tokens(self) -> list[ListedToken]:
        """All, the oldest first."""
        used = cast("dict[bytes, bytes]", self.redis.hgetall(keys.TOKENS_USED))
        found = [
            ListedToken(
                **_told(each),
                last_used_at=moment(float(at)) if (at := used.get(each.id.encode())) else None,
            )
            for each in self._kept_tokens()
        ]
        return sorted(found, key=lambda each: (each.created_at, each.id))

    def token(self, id_: str) -> Token:
        """Raises NotFound."""
        raw = cast("bytes | None", self.redis.hget(keys.TOKENS, id_))
        if raw is None:
            raise no_token(id_)
        return msgspec.json.decode(raw, type=Token)

    def revoke_token(self, id_: str) -> None:
        """It opens nothing from now on. Raises NotFound."""
        gone, _ = self._pipeline([("HDEL", keys.TOKENS, id_), ("HDEL", keys.TOKENS_USED, id_)])
        if not gone:
            raise no_token(id_)

    def token_of(self, given: str) -> Token | None:
        """Whose token this is, and what for; None: nobody's, or not any more."""
        match = FORM.fullmatch(given)
        if not match:
            return None
        id_, unix = match[1], time.time()
        raw, used = self._pipeline([("HGET", keys.TOKENS, id_), ("HGET", keys.TOKENS_USED, id_)])
        kept = msgspec.json.decode(raw, type=Kept) if raw else None
        if not same_secret(_hash(given), kept.hash if kept else "") or kept is None:
            return None
        if kept.expires_at and datetime.fromisoformat(kept.expires_at).timestamp() <= unix:
            return None
        if unix - float(used or 0) >= USED_EVERY:
            self.redis.eval(_TOUCH, 2, keys.TOKENS, keys.TOKENS_USED, id_, f"{unix:.0f}")
        return kept

    def _kept_tokens(self) -> list[Kept]:
        rows = cast("list[bytes]", self.redis.hvals(keys.TOKENS))
        return [msgspec.json.decode(raw, type=Kept) for raw in rows]


def no_token(id_: str) -> NotFound:
    return NotFound(f"there is no token {id_}: see 'slipway token list'")


def checked(id_: str, raw: bytes) -> None:
    """Of a backup. Raises ValueError or SlipwayError: it is none."""
    kept = msgspec.json.decode(raw, type=Kept)
    names.owner_namespace(kept.namespace)
    if names.token_id(id_) != kept.id or not re.fullmatch(r"[0-9a-f]{64}", kept.hash):
        raise ValueError(f"the token {id_} is none")


def _check(scopes: Collection[Scope], description: str, expires: datetime | None) -> None:
    if not scopes:
        raise InvalidRequest(f"scopes: name some of {', '.join(Scope)}")
    if len(description) > MAX_DESCRIPTION or not description.isprintable():
        raise InvalidRequest(f"description: one line of at most {MAX_DESCRIPTION} characters")
    if expires and expires <= datetime.now(UTC):
        raise InvalidRequest("expiresAt is past: name a time to come, or none")


def _hash(given: str) -> str:
    return hashlib.sha256(given.encode()).hexdigest()


def _told(kept: Kept) -> dict[str, Any]:
    return {name: getattr(kept, name) for name in Token.__struct_fields__}

"""Public keys that values for git are sealed with, and what is wished of them.

The private keys lie with the controller, which publishes here what it has. Wishes are levels, not
orders: the newest key shall have at least this number, these keys shall be gone. So each may be
asked for twice, and be carried out by whoever comes after one that was killed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import msgspec
from redis.client import Pipeline

from core import keys, sealedbox
from core.errors import Conflict, NotFound, Unavailable
from core.models import FunctionSpec, Struct
from core.names import join_function
from core.store.base import encode, text
from core.store.staging import Staging

MAX_KEYS = 16
"""At once: old ones are to be deleted when nothing is sealed with them any more."""


class PublishedKey(Struct, frozen=True):
    """A public key, as everybody may see it."""

    fingerprint: str
    key: str
    """32 bytes of X25519 in base64url."""
    number: int
    """The highest is the one to seal with."""
    created_at: str


class Wishes(Struct, frozen=True):
    """What the controller is to see to."""

    number: int
    """Of the newest key, at least."""
    unwanted: frozenset[str]
    """Fingerprints of keys to be deleted."""


class SealingKeys(Staging):
    def sealing_keys(self) -> list[PublishedKey]:
        """The oldest first, without those that are being deleted."""
        with self.redis.pipeline(transaction=True) as pipe:
            pipe.hvals(keys.SEALING_KEYS)
            pipe.smembers(keys.SEALING_UNWANTED)
            raws, unwanted = pipe.execute()
        gone = {text(each) for each in unwanted}
        return [each for each in _decoded(raws) if each.fingerprint not in gone]

    def sealing_key_of(self, fingerprint: str = "") -> PublishedKey:
        """The one of that fingerprint, by default the one to seal with.

        Raises:
            Unavailable: there is none yet.
            NotFound: there is none of that fingerprint.
        """
        found = self.sealing_keys()
        if not fingerprint and found:
            return found[-1]
        for each in found:
            if each.fingerprint == fingerprint:
                return each
        if not fingerprint:
            raise Unavailable(
                "there is no key to seal with yet: the runtime makes it when it starts; ask again"
            )
        raise NotFound(f"there is no sealing key {fingerprint}: see 'slipway sealing-keys list'")

    def publish_sealing_keys(self, published: Sequence[PublishedKey]) -> None:
        """For the controller: these are all whose private keys it has safely. What was to be
        deleted and is not among them is done."""
        there = {each.fingerprint for each in published}

        def change(pipe: Pipeline) -> None:
            before = _decoded(cast("list[bytes]", pipe.hvals(keys.SEALING_KEYS)))
            asked = cast("set[bytes]", pipe.smembers(keys.SEALING_UNWANTED))
            done = [each for each in asked if text(each) not in there]
            pipe.multi()
            if before != list(published):
                pipe.delete(keys.SEALING_KEYS)
                for each in published:
                    pipe.hset(keys.SEALING_KEYS, each.fingerprint, encode(each))
            if done:
                pipe.srem(keys.SEALING_UNWANTED, *done)

        self._transaction(change, keys.SEALING_KEYS, keys.SEALING_UNWANTED)

    def sealing_wishes(self) -> Wishes:
        with self.redis.pipeline(transaction=True) as pipe:
            pipe.get(keys.SEALING_WANTED)
            pipe.smembers(keys.SEALING_UNWANTED)
            number, unwanted = pipe.execute()
        return Wishes(number=int(number or 0), unwanted=frozenset(text(each) for each in unwanted))

    def want_new_sealing_key(self) -> int:
        """Asks for a key newer than those there are; returns the least number that it has.

        Raises:
            Conflict: there are as many keys as may be.
        """

        def change(pipe: Pipeline) -> int:
            found = _decoded(cast("list[bytes]", pipe.hvals(keys.SEALING_KEYS)))
            if len(found) >= MAX_KEYS:
                raise Conflict(
                    f"there are {len(found)} sealing keys, which is the most: delete those that "
                    "nothing is sealed with any more, see 'slipway sealing-keys list'"
                )
            number = 1 + max((each.number for each in found), default=0)
            pipe.multi()
            pipe.set(keys.SEALING_WANTED, number)
            return number

        return self._transaction(change, keys.SEALING_KEYS)

    def drop_sealing_key(self, fingerprint: str) -> None:
        """Asks for a key to be deleted: nothing that is sealed with it opens any more. A release
        that is handed over in the same moment fails when it is started.

        Raises:
            NotFound: there is none.
            Conflict: it is the newest, or functions that are live or staged have values of it.
        """

        def change(pipe: Pipeline) -> None:
            self.sealing_key_of(fingerprint)
            if self.sealing_key_of().fingerprint == fingerprint:
                raise Conflict(
                    f"{fingerprint} is what is sealed with now: make a new one first with 'slipway "
                    "sealing-keys rotate'"
                )
            if users := self.sealed_with().get(fingerprint):
                more = f" and {len(users) - 10} more" if len(users) > 10 else ""
                raise Conflict(
                    f"{fingerprint} is still needed by {', '.join(users[:10])}{more}: seal their "
                    "values anew, and push"
                )
            pipe.multi()
            pipe.sadd(keys.SEALING_UNWANTED, fingerprint)

        watched = (keys.SEALING_KEYS, keys.SEALING_UNWANTED, keys.FUNCTIONS, keys.STAGING)
        self._transaction(change, *watched)

    def sealed_with(self) -> dict[str, list[str]]:
        """Fingerprint → functions, live or staged, that have a value sealed with that key."""
        specs = [record.spec for record in self.functions().values()]
        for release in self.staging():
            specs += [each.spec for each in self.artifacts(release.id)]
        found: dict[str, set[str]] = {}
        for spec in specs:
            for print_ in fingerprints(spec):
                found.setdefault(print_, set()).add(join_function(spec.name, spec.namespace))
        return {print_: sorted(users) for print_, users in found.items()}


def fingerprints(spec: FunctionSpec) -> set[str]:
    """Of the keys that a function's values are sealed with."""
    return {sealedbox.parse(each).fingerprint for each in (spec.sealed or {}).values()}


def _decoded(raws: Iterable[bytes]) -> list[PublishedKey]:
    found = [msgspec.json.decode(raw, type=PublishedKey) for raw in raws]
    return sorted(found, key=lambda each: (each.number, each.fingerprint))

"""The policy in force, and what of it is counted: builds of an owner, and how long they took."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import cast

import msgspec
from redis.client import Pipeline

from core import keys, names
from core.models import Release
from core.policy import Held, Policy, in_force
from core.settings import Settings
from core.store.base import Base, encode, text

_COUNTED_FOR = 62 * 24 * 3600
"""Seconds that a month's builds are known."""


class Policies(Base):
    def held_policy(self) -> Held | None:
        """What the gateway read last; None: there is no SLIPWAY_POLICY."""
        raw = self.redis.get(keys.POLICY)
        return None if raw is None else msgspec.json.decode(cast(bytes, raw), type=Held)

    def hold_policy(self, before: Held | None, after: Held | None) -> bool:
        """False: somebody else read it since it was ``before``, and nothing was done."""

        def change(pipe: Pipeline) -> bool:
            now = self.held_policy()
            pipe.multi()
            if now != before:
                return False
            if after is None:
                pipe.delete(keys.POLICY)
            else:
                pipe.set(keys.POLICY, encode(after))
            return True

        return self._transaction(change, keys.POLICY)

    def policy(self, source: str) -> Policy:
        """What is in force; ``source``: ``Settings.policy``."""
        return in_force(self.held_policy() if source else None, source)

    def owner_of(self, namespace: str) -> str:
        """The owner that a namespace counts to: see ``names.owner_of``."""
        if "--" not in namespace:
            return namespace
        return names.owner_of(namespace, self._held_namespaces())

    def _held_namespaces(self) -> set[str]:
        known = cast("Collection[bytes]", self.redis.hkeys(keys.NAMESPACES))
        return {text(each) for each in known}

    def hostless(self, settings: Settings, namespaces: Iterable[str]) -> set[str]:
        """Those whose functions the policy lets answer at no host of their own."""
        if not settings.domain:
            return set()
        policy = self.policy(settings.policy)
        if all(each.domain for each in (policy.default, *policy.policies.values())):
            return set()
        spaces = set(namespaces)
        known = self._held_namespaces() if any("--" in each for each in spaces) else set()
        return {each for each in spaces if not policy.of(names.owner_of(each, known)).domain}

    def functions_url(self, settings: Settings, namespace: str) -> str:
        """What URLs of a namespace's functions begin with, for ``names.function_url``."""
        hostless = self.hostless(settings, [namespace])
        return settings.user_url if hostless else settings.functions_url

    def answering(self, settings: Settings, releases: Sequence[Release]) -> list[Release]:
        """With URLs that answer, also where they were told before the policy took the host."""
        hostless = self.hostless(settings, (each.namespace for each in releases))
        return [_by_path(settings, r) if r.namespace in hostless else r for r in releases]

    def building(self, owner: str) -> int:
        """How many releases of an owner are built now."""
        turns = [keys.turn(each) for each in self._repositories_of(owner)]
        return sum(map(bool, cast("list[bytes]", self.redis.mget(turns)))) if turns else 0

    def count_built(self, owner: str, seconds: float, *, forks: bool = False) -> None:
        """Adds to what builds of an owner took in this month; ``forks``: of requests from forks,
        which are counted apart."""
        key = keys.built_seconds(owner, month(), forks=forks)
        self._pipeline([("INCRBYFLOAT", key, f"{seconds:.3f}"), ("EXPIRE", key, _COUNTED_FOR)])

    def built_seconds(self, owner: str, *, forks: bool = False) -> float:
        """What builds of an owner took in this month; ``forks``: as above."""
        raw = self.redis.get(keys.built_seconds(owner, month(), forks=forks))
        return float(cast("bytes | None", raw) or 0)

    def _repositories_of(self, owner: str) -> list[str]:
        known = cast("Collection[bytes]", self.redis.hkeys(keys.REPOSITORIES))
        found = (text(each) for each in known)
        return [each for each in found if names.is_of(each.partition("/")[0], owner)]


def _by_path(settings: Settings, release: Release) -> Release:
    rows = [
        msgspec.structs.replace(
            row,
            url=row.url and names.function_url(settings.user_url, row.name, release.namespace),
        )
        for row in release.functions
    ]
    return msgspec.structs.replace(release, functions=rows)


def month() -> str:
    """The calendar month, UTC: ``2026-01``."""
    return datetime.fromtimestamp(time.time(), UTC).strftime("%Y-%m")

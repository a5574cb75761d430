"""Who lives and who does what: heartbeats, locks, leases, wake-ups."""

from __future__ import annotations

import time
from typing import Any, cast

from redis.client import Pipeline

from core import keys
from core.store.base import Base, text

BUILDERS = b"builders"
"""A wake-up that tells of a release on its way through the builder: nothing for the controller."""


class Parts(Base):
    def wake(self) -> None:
        """Tells the controller that something changed."""
        self.redis.publish(keys.WAKE, b"")

    def wakes(self) -> Any:
        """A subscription to wake-ups (redis-py PubSub)."""
        subscription = self.redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        subscription.subscribe(keys.WAKE)
        return subscription

    def beat(self, part: str, seconds: float, note: str = "") -> None:
        """Says that a part of the installation lives, for so many seconds."""
        self.redis.hset(keys.BEATS, part, f"{time.time() + seconds:.3f} {note}")

    def beats(self, part: str) -> dict[str, str]:
        """Living parts whose name begins so → their note; forgets those that are gone."""
        living, gone = {}, []
        for raw_name, raw in cast("dict[bytes, bytes]", self.redis.hgetall(keys.BEATS)).items():
            until, _, note = text(raw).partition(" ")
            if float(until) < time.time():
                gone.append(raw_name)
            elif (name := text(raw_name)).startswith(part):
                living[name] = note
        if gone:
            self.redis.hdel(keys.BEATS, *gone)
        return living

    def take(self, key: str, token: str, seconds: float) -> bool:
        """Takes or renews a lock or lease; False if another token has it."""

        def change(pipe: Pipeline) -> bool:
            holder = text(pipe.get(key))
            pipe.multi()
            if holder not in ("", token):
                return False
            pipe.set(key, token, px=int(seconds * 1000))
            return True

        return self._transaction(change, key)

    def once(self, mark: str, seconds: int) -> bool:
        """Whether this is the first time in so many seconds that somebody comes with ``mark``."""
        return bool(self.redis.set(keys.used_once(mark), b"", ex=seconds, nx=True))

    def holder(self, key: str) -> str:
        """The token of a lock or lease, or ''."""
        return text(self.redis.get(key))

    def give_back(self, key: str, token: str) -> None:
        """Ends a lock or lease, if it still is this token's."""

        def change(pipe: Pipeline) -> None:
            holder = text(pipe.get(key))
            pipe.multi()
            if holder == token:
                pipe.delete(key)

        self._transaction(change, key)

    def leased(self, id_: str) -> bool:
        return bool(self.redis.exists(keys.lease(id_)))

    def attempts(self, id_: str) -> int:
        """How often the release was given to a worker."""
        return int(self.redis.hget(keys.release(id_), "attempts") or 0)

    def count_attempt(self, id_: str) -> int:
        """Counts how often the release was given to a worker; returns the new count."""
        return self.redis.hincrby(keys.release(id_), "attempts", 1)

    def count_death(self, id_: str) -> int:
        """Counts a worker that died while it built the release; planned stops do not count."""
        return self.redis.hincrby(keys.DEATHS, id_, 1)

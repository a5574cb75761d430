"""How many requests there were, how they ended and how long they took: counters that never go back.

Whoever sees requests adds them to a ``Tally`` and hands it over from time to time. A batch has a
token that is written in the transaction which counts it: one whose answer was lost is handed over
again and counted once. What was not handed over when its process is killed is lost, so that counts
may be a little too low, never too high.
"""

from __future__ import annotations

import http
import threading
import time
import uuid
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from redis.client import Pipeline

from core import keys
from core.store.base import Base, text

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Upper bounds in seconds: the usual ones of Prometheus' clients, which OpenFaaS' gateway has."""
SYSTEM = "/system"
"""What the requests to our own API are counted under: no function can have this name."""

LOST = "lost"
"""In the place of a status: an edge that was killed had them."""

_REMEMBERED = 86400
"""Seconds after its last batch that a writer is remembered; one that lives writes again."""
_CODES = {int(each) for each in http.HTTPStatus} | {499}


@dataclass
class Series:
    """Requests that ended alike."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    """How many took up to so many seconds and longer than the bucket before; last: above all."""
    microseconds: int = 0
    """All of them together."""

    @property
    def requests(self) -> int:
        return sum(self.buckets)


Traffic = dict[str, dict[str, Series]]
"""``name.namespace`` → status or LOST → series; SYSTEM → ``<status> <method> <route>`` → series."""


def code(status: int) -> str:
    """A status as a label. Functions may answer any number, and must not fill the store with them:
    one that nobody knows counts as the first of its class (RFC 9110 §15)."""
    if status in _CODES:
        return str(status)
    return str(status // 100 * 100 if 100 <= status < 600 else 500)


class Tally:
    """Requests that the store does not have yet; for several threads."""

    def __init__(self, writer: str) -> None:
        """``writer``: who counts. Each start has the token of its last batch in the store: two
        processes of a restart overlap, and one's token must not stand in the other's place."""
        self._writer = f"{writer} {uuid.uuid4().hex}"
        self._fresh: Traffic = {}
        self._batch: tuple[str, Traffic] | None = None
        self._lock = threading.Lock()
        self._handing = threading.Lock()

    def add(self, of: str, labels: str, seconds: float) -> None:
        with self._lock:
            series = self._fresh.setdefault(of, {}).setdefault(labels, Series())
            series.buckets[bisect_left(BUCKETS, seconds)] += 1
            series.microseconds += round(seconds * 1e6)

    def lose(self, of: str, requests: int) -> None:
        """Adds requests whose end nobody saw."""
        with self._lock:
            self._fresh.setdefault(of, {}).setdefault(LOST, Series()).buckets[-1] += requests

    def requests(self, of: str) -> int:
        """How many of these were not handed over yet."""
        with self._lock:
            return _requests(self._fresh.get(of, {}))

    def only(self, names: Collection[str]) -> None:
        """Forgets what was added for others."""
        with self._lock:
            self._fresh = {name: of for name, of in self._fresh.items() if name in names}

    def hand_over(self, store: Metrics) -> None:
        """Raises RedisError where the store is away: the next call goes on."""
        with self._handing:
            for _ in range(2):  # a batch that was left over, and what came since
                if self._batch is None:
                    with self._lock:
                        fresh, self._fresh = self._fresh, {}
                    if not fresh:
                        return
                    self._batch = (uuid.uuid4().hex, fresh)
                store.add_traffic(self._writer, *self._batch)
                self._batch = None


class Metrics(Base):
    def add_traffic(
        self, writer: str, token: str, traffic: Mapping[str, Mapping[str, Series]]
    ) -> None:
        """Adds a batch, unless it is the one that this writer added last."""

        def change(pipe: Pipeline) -> None:
            known = cast("dict[bytes, bytes]", pipe.hgetall(keys.BATCHES))
            pipe.multi()
            if text(known.get(writer.encode())).partition(" ")[0] == token:
                return
            told = int(time.time())
            if gone := [one for one, last in known.items() if told - _moment(last) > _REMEMBERED]:
                pipe.hdel(keys.BATCHES, *gone)
            pipe.hset(keys.BATCHES, writer, f"{token} {told}")
            for of, ended in traffic.items():
                if of != SYSTEM:
                    pipe.hincrby(keys.COUNTS, of, _requests(ended))
                for labels, series in ended.items():
                    for bucket, requests in enumerate(series.buckets):
                        if requests:
                            pipe.hincrby(keys.traffic(of), f"{labels} {bucket}", requests)
                    pipe.hincrby(keys.traffic(of), f"{labels} us", series.microseconds)

        self._transaction(change, keys.BATCHES)

    def traffic(self, names: Collection[str]) -> Traffic:
        """What was counted of these, each with at least one request."""
        rows = self._pipeline([("HGETALL", keys.traffic(each)) for each in names])
        found: Traffic = {}
        for of, row in zip(names, rows, strict=True):
            for raw, number in row.items():
                labels, _, what = text(raw).rpartition(" ")
                series = found.setdefault(of, {}).setdefault(labels, Series())
                if what == "us":
                    series.microseconds = int(number)
                else:
                    series.buckets[int(what)] = int(number)
        return found

    def counts(self) -> dict[str, int]:
        """Requests of each function that had one."""
        rows = cast("dict[bytes, bytes]", self.redis.hgetall(keys.COUNTS))
        return {text(k): int(v) for k, v in rows.items()}

    def counts_of(self, functions: Sequence[str]) -> dict[str, int]:
        """The same of these functions alone."""
        rows = cast("list[bytes | None]", self.redis.hmget(keys.COUNTS, list(functions)))
        return {each: int(row) for each, row in zip(functions, rows, strict=True) if row}

    def forget_traffic(self, kept: Collection[str]) -> None:
        """Drops what was counted of functions that are not among ``kept``: they are gone."""
        known = (text(each) for each in cast("list[bytes]", self.redis.hkeys(keys.COUNTS)))
        gone = [each for each in known if each not in kept]
        if gone:
            self.redis.delete(*map(keys.traffic, gone))
            self.redis.hdel(keys.COUNTS, *gone)  # last: it is what the next look goes by


def _moment(batch: bytes) -> int:
    """When it was handed over: 0 for one of an earlier version."""
    moment = batch.partition(b" ")[2]
    return int(moment) if moment.isdigit() else 0


def _requests(ended: Mapping[str, Series]) -> int:
    return sum(series.requests for series in ended.values())

"""Functions that sleep (desired: no replica) and wake, and who is just calling one past the edge.

Whoever forwards a request by itself says so before it looks where the function answers
(``forwarding``). The controller first tells that it answers nowhere, then asks who forwards
(``forwarded``): whom it does not find there can have no old address any more.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import cast

import msgspec
from redis.client import Pipeline

from core import keys, scaling
from core.models import FunctionRecord
from core.store.base import encode, text
from core.store.functions import Functions

HOLDS = 15.0
"""Seconds after which what a gateway forwards counts no more, unless it is said again."""


class Sleeping(Functions):
    def rouse(self, function: str) -> bool:
        """Makes a function that sleeps have its least replicas again; False: it does not sleep."""

        def change(pipe: Pipeline) -> bool:
            record = self.function(function)
            pipe.multi()
            if record is None or record.replicas:
                return False
            awake = msgspec.structs.replace(record, replicas=scaling.least(record.spec.labels))
            pipe.hset(keys.FUNCTIONS, function, encode(awake))
            pipe.publish(keys.WAKE, function)
            return True

        return self._transaction(change, keys.FUNCTIONS)

    def rescale(
        self,
        seen: FunctionRecord,
        replicas: int,
        most: Callable[[], int] = lambda: scaling.MAX_REPLICAS,
    ) -> int | None:
        """Sets how many replicas there shall be, and returns that: no more than ``most``, where
        there are to be more. None: there is no place for more, or the function is not as it was
        ``seen`` any more, so that nothing was done."""
        function = seen.spec.function

        def change(pipe: Pipeline) -> int | None:
            record = self.function(function)
            to = replicas
            if record == seen and to > seen.replicas:
                to = max(min(to, most()), seen.replicas)
            pipe.multi()
            if record != seen or to == seen.replicas:
                return None
            after = msgspec.structs.replace(seen, replicas=to)
            pipe.hset(keys.FUNCTIONS, function, encode(after))
            pipe.publish(keys.WAKE, b"")
            return to

        return self._transaction(change, keys.FUNCTIONS, keys.STAGING, keys.ROLLING, keys.POLICY)

    def forwarding(self, gateway: str, requests: Mapping[str, int]) -> None:
        """So many requests a gateway forwards to these functions now, which holds for ``HOLDS``
        seconds; 0: none any more."""
        until = f"{time.time() + HOLDS:.3f}"
        commands: list[tuple[str, ...]] = []
        for function, count in requests.items():
            field = f"{function} {gateway}"
            if count:
                commands.append(("HSET", keys.FORWARDED, field, f"{count} {until}"))
            else:
                commands.append(("HDEL", keys.FORWARDED, field))
        if commands:
            self._pipeline(commands)

    def forwarded(self) -> Counter[str]:
        """Function → requests that gateways forward to it; forgets what holds no more."""
        found: Counter[str] = Counter()
        gone = []
        rows = cast("dict[bytes, bytes]", self.redis.hgetall(keys.FORWARDED))
        for field, row in rows.items():
            count, _, until = text(row).partition(" ")
            if float(until) < time.time():
                gone.append(field)
            else:
                found[text(field).partition(" ")[0]] += int(count)
        if gone:
            self.redis.hdel(keys.FORWARDED, *gone)
        return found

"""Asynchronous calls: a Redis stream, and a consumer group that hands each to one worker.

A call stays in the stream until it was made (``done``). A worker says every few seconds that it is
still at it (``keep_calls``); what nobody has spoken for any more is given to another one, so that a
call is made at least once, and twice where a worker dies between the answer and ``done``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, cast

import msgspec
from redis.exceptions import ResponseError

from core import keys, logging
from core.errors import Unavailable
from core.models import Call
from core.store.base import Base, encode, text

log = logging.get()

OVERDUE = 15.0
"""Seconds of silence after which another worker takes a call."""
OVERHEAD = 1024
"""Bytes that a call takes in the store beside its own: so many small ones are bounded as well."""

_WORKER = "worker"
"""One name for all of the group, so that none of them leaves a name behind."""
_DONE = """
redis.call('XACK', KEYS[1], KEYS[1], ARGV[1])
if redis.call('XDEL', KEYS[1], ARGV[1]) == 1 then redis.call('DECRBY', KEYS[2], ARGV[2]) end
"""
"""A call that was made twice gives back its size once."""


@dataclass(frozen=True)
class Taken:
    """A call that a worker has."""

    id: str
    call: Call
    size: int
    times: int
    """How often it was given to a worker."""


class Calls(Base):
    def add_call(self, call: Call, bound: int) -> None:
        """Keeps a call until a worker makes it.

        Raises:
            Unavailable: those that wait have ``bound`` bytes already.
        """
        raw = encode(call)
        size = len(raw) + OVERHEAD
        held = int(cast("bytes | None", self.redis.get(keys.CALLS_SIZE)) or 0)
        if held + size > bound:
            raise Unavailable(
                f"the asynchronous calls that wait have {held} bytes, and {bound} is the limit "
                "(SLIPWAY_ASYNC_QUEUE): call again later, or call /function/ and wait"
            )
        with self.redis.pipeline() as pipe:
            pipe.xadd(keys.CALLS, {"call": raw, "size": size})
            pipe.incrby(keys.CALLS_SIZE, size)
            pipe.execute()

    def next_call(self, seconds: float) -> Taken | None:
        """The oldest that nobody has, or one whose worker died; waits for so long."""
        try:
            if overdue := self._overdue_call():
                return overdue
            found = cast(
                "list[Any] | None",
                self.redis.xreadgroup(
                    keys.CALLS, _WORKER, {keys.CALLS: ">"}, count=1, block=int(seconds * 1000)
                ),
            )
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            self._make_group()
            return None
        return self._taken(found[0][1][0], times=1) if found else None

    def keep_calls(self, ids: Collection[str]) -> None:
        """Says that these are being made."""
        if ids:
            self.redis.xclaim(keys.CALLS, keys.CALLS, _WORKER, 0, list(ids), justid=True)

    def done_call(self, taken: Taken) -> None:
        """Forgets a call; repeating it changes nothing."""
        self.redis.eval(_DONE, 2, keys.CALLS, keys.CALLS_SIZE, taken.id, taken.size)

    def waiting_calls(self) -> int:
        """Calls that were not made yet, those that are just being made among them."""
        return int(self.redis.xlen(keys.CALLS))

    def _overdue_call(self) -> Taken | None:
        silent = int(OVERDUE * 1000)
        for row in self.redis.xpending_range(keys.CALLS, keys.CALLS, "-", "+", 1, idle=silent):
            # Not where another thread was quicker: then it is silent no more.
            claimed = self.redis.xclaim(
                keys.CALLS, keys.CALLS, _WORKER, silent, [row["message_id"]]
            )
            for entry in cast("list[Any]", claimed):
                return self._taken(entry, times=int(row["times_delivered"]) + 1)
        return None

    def _make_group(self) -> None:
        try:
            self.redis.xgroup_create(keys.CALLS, keys.CALLS, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):  # another thread was quicker
                raise

    def _taken(self, entry: tuple[bytes, dict[bytes, bytes]], times: int) -> Taken | None:
        """None for what is no call, as of another version: it is dropped."""
        id_, fields = text(entry[0]), entry[1]
        size = int(fields.get(b"size", b"0"))
        try:
            call = msgspec.json.decode(fields.get(b"call", b""), type=Call)
        except msgspec.MsgspecError as error:
            log.error("call_not_read", entry=id_, reason=str(error))
            self.redis.eval(_DONE, 2, keys.CALLS, keys.CALLS_SIZE, id_, size)
            return None
        return Taken(id=id_, call=call, size=size, times=times)

"""Asynchronous calls: a Redis stream, and a consumer group that hands each to one worker.

A call stays in the stream until it was made (``done``). A worker says every few seconds that it is
still at it (``keep_calls``); what nobody has spoken for any more is given to another one, so that a
call is made at least once, and twice where a worker dies between the answer and ``done``.

A call that has to wait for something of its own (its function's share of the worker, say) is moved
to a stream of those that wait for the same, so that nobody else waits behind it.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, cast

import msgspec
from redis.exceptions import ResponseError

from core import keys, logging, names
from core.errors import InvalidRequest, Unavailable
from core.models import Call
from core.store.base import Base, encode, text

log = logging.get()

OVERDUE = 15.0
"""Seconds of silence after which another worker takes a call."""
OVERHEAD = 1024
"""Bytes that a call takes in the store beside its own: so many small ones are bounded as well."""

_WORKER = "worker"
"""One name for all of the group, so that none of them leaves a name behind."""
_REMEMBERED = 150
"""Seconds in which the client may repeat a command whose answer was lost (see ``connect``)."""
ADD = """
local of, raw, size, bound, remembered = unpack(ARGV)
if redis.call('EXISTS', KEYS[4]) == 1 then return {'', 0} end
local all = tonumber(redis.call('GET', KEYS[2]) or 0)
local own = tonumber(redis.call('HGET', KEYS[3], of) or 0)
if all + size > tonumber(bound) then return {'all', all} end
if own > 0 and own + size > bound / 4 then return {'own', own} end
redis.call('SET', KEYS[4], 1, 'EX', remembered)
redis.call('XADD', KEYS[1], '*', 'call', raw, 'size', size, 'of', of)
redis.call('INCRBY', KEYS[2], size)
redis.call('HINCRBY', KEYS[3], of, size)
return {'', 0}
"""
"""Keeps a call: the script, which others make a part of theirs. ``adding`` has its keys and
arguments; it answers what was full and how full that is, or ''."""
_DONE = """
redis.call('XACK', KEYS[1], KEYS[1], ARGV[1])
if redis.call('XDEL', KEYS[1], ARGV[1]) == 1 then
  redis.call('DECRBY', KEYS[2], ARGV[2])
  if redis.call('HINCRBY', KEYS[3], ARGV[3], -ARGV[2]) <= 0 then
    redis.call('HDEL', KEYS[3], ARGV[3])
  end
end
"""
"""A call that was made twice gives back its size once."""
_PARK = """
local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not found then return end
local fields = {}
for i = 1, #found[2], 2 do
  if found[2][i] ~= 'begun' then
    table.insert(fields, found[2][i])
    table.insert(fields, found[2][i + 1])
  end
end
redis.call('XACK', KEYS[1], KEYS[1], ARGV[1])
redis.call('XDEL', KEYS[1], ARGV[1])
redis.call('XADD', KEYS[2], '*', 'begun', ARGV[2], unpack(fields))
redis.call('SADD', KEYS[3], ARGV[3])
"""
_UNPARK = """
local found = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
if found then
  redis.call('XADD', KEYS[1], '*', unpack(found[2]))
  redis.call('XDEL', KEYS[2], found[1])
end
if redis.call('XLEN', KEYS[2]) > 0 then return 1 end
redis.call('DEL', KEYS[2])
redis.call('SREM', KEYS[3], ARGV[1])
return 0
"""


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
        """Keeps a call until a worker makes it, once, even if the store's answer is lost.

        Raises:
            Unavailable: those that wait have ``bound`` bytes already, or this function's a quarter
                of that: no function shall close the queue for all others.
        """
        held, given = adding(call, bound)
        told = cast("tuple[bytes, int]", self.redis.eval(ADD, len(held), *held, *given))
        refuse_full(call, bound, *told)

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
        self._forget(taken.id, taken.size, _of(taken.call))

    def give_back_call(self, taken: Taken) -> None:
        """Lets another worker have a call that was not begun, at once."""
        silent = int(OVERDUE * 1000) + 1
        self.redis.xclaim(keys.CALLS, keys.CALLS, _WORKER, 0, [taken.id], idle=silent, justid=True)

    def park_call(self, taken: Taken, why: str) -> None:
        """Takes a call that was not begun out of the others' way, to those that wait for the same
        (``why``); it does not count as begun."""
        self.redis.eval(
            _PARK,
            3,
            *(keys.CALLS, keys.parked(why), keys.PARKED),
            *(taken.id, taken.times - 1, why),
        )

    def unpark_call(self, why: str) -> bool:
        """Puts the oldest of those behind all that wait for nothing; False: it was the last."""
        places = (keys.CALLS, keys.parked(why), keys.PARKED)
        return bool(self.redis.eval(_UNPARK, 3, *places, why))

    def parked(self) -> set[str]:
        """What calls wait for."""
        return {text(each) for each in cast("set[bytes]", self.redis.smembers(keys.PARKED))}

    def waiting_calls(self) -> int:
        """Calls that were not made yet, those that are just being made among them."""
        streams = [keys.CALLS, *map(keys.parked, self.parked())]
        return sum(self._pipeline(("XLEN", each) for each in streams))

    def _forget(self, id_: str, size: int, of: str) -> None:
        held = (keys.CALLS, keys.CALLS_SIZE, keys.CALLS_SIZES)
        self.redis.eval(_DONE, 3, *held, id_, size, of)

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
        size = _number(fields.get(b"size"))
        try:
            call = msgspec.json.decode(fields.get(b"call", b""), type=Call)
            _of(call)
        except (msgspec.MsgspecError, UnicodeDecodeError, InvalidRequest) as error:
            log.error("call_not_read", entry=id_, reason=str(error))
            self._forget(id_, size, fields.get(b"of", b"").decode(errors="replace"))
            return None
        times += _number(fields.get(b"begun"))
        return Taken(id=id_, call=call, size=size, times=times)


def adding(call: Call, bound: int) -> tuple[list[str], list[Any]]:
    """Keys and arguments of ``ADD``."""
    raw = encode(call)
    token = keys.call_token(uuid.uuid4().hex)
    held = [keys.CALLS, keys.CALLS_SIZE, keys.CALLS_SIZES, token]
    return held, [_of(call), raw, len(raw) + OVERHEAD, bound, _REMEMBERED]


def refuse_full(call: Call, bound: int, full: bytes, held: int) -> None:
    """Raises Unavailable where ``ADD`` answered that the call was not kept."""
    if full:
        whose, limit = (
            ("the asynchronous calls that wait", f"{bound} is the limit")
            if full == b"all"
            else (
                f"the asynchronous calls of {_of(call)} that wait",
                f"a quarter of {bound} is the limit of one function",
            )
        )
        raise Unavailable(
            f"{whose} have {held} bytes, and {limit} (SLIPWAY_ASYNC_QUEUE): call again later, "
            "or call /function/ and wait"
        )


def _of(call: Call) -> str:
    """Whose share of the queue it takes: ``name.namespace``."""
    return names.join_function(*names.split_function(call.name))


def _number(raw: bytes | None) -> int:
    return int(raw) if raw and raw.isdigit() else 0

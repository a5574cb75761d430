"""Asynchronous calls: a Redis stream, and a consumer group that hands each to one worker.

A call stays in the stream until it was made and its callback told. A worker says every few seconds
that it is still at it (``keep_calls``); what nobody has spoken for any more is given to another
one, so that a call is made at least once, and twice where a worker dies between the answer and
``settle_call`` (core/store/settled.py).

A call that has to wait for something of its own (its function's share of the worker, say) is moved
to a stream of those that wait for the same, so that nobody else waits behind it; one that is tried
again later waits in a sorted set by its time.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, cast

import msgspec
from redis.exceptions import ResponseError

from core import keys, logging, names
from core.errors import InvalidRequest, Unavailable
from core.models import Call, CallState, now
from core.retries import LONGEST_WAIT
from core.store import callscripts
from core.store.base import Base, encode, text
from core.store.callscripts import OVERHEAD

log = logging.get()

INLINE = 16 * 2**10
"""Bytes of a body that are kept in the store; what is larger lies in a file."""
OVERDUE = 15.0
"""Seconds of silence after which another worker takes a call."""

LATEST_DUE = 1.5 * LONGEST_WAIT
"""Seconds from now; with their jitter all are due before."""
SET_ASIDE_FOR = 7 * 24 * 3600.0
"""Seconds that a dead letter is kept which nobody here can read, unless the settings say less."""

_WORKER = "worker"
"""One name for all of the group, so that none of them leaves a name behind."""


def body_file(id_: str) -> str:
    """Name of the file with a call's body, where that is large."""
    return f"{id_}.body"


@dataclass(frozen=True)
class Answered:
    """What came of a call, as it is kept. ``file``: name of the file with the body, else ''."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    file: str
    length: int
    seconds: float


@dataclass(frozen=True)
class Taken:
    """A call that a worker has."""

    id: str
    """Of its entry."""
    call: Call
    times: int
    """How often this entry was given to a worker."""
    retries: int = 0
    """How often it failed before."""
    answered: Answered | None = None
    """It was made by a worker that died before it told the callback: only that is left to do."""


class Calls(Base):
    def add_call(self, call: Call, bound: int) -> None:
        """Keeps a call until a worker makes it; the same ``call.id`` once more changes nothing.

        Anybody may add one whose body is small; the file of a large one has to be there before.

        Raises:
            Unavailable: those that wait have ``bound`` bytes already, this function's a quarter of
                that, or its owner's half: nobody shall close the queue for all others.
        """
        wanted = adding(call, bound)
        told, held = cast("tuple[bytes, int]", self.redis.eval(callscripts.ADD, 0, *wanted))
        if told:
            raise refused(told, held, bound, of_call(call))

    def next_call(self, seconds: float, *, overdue: bool = True) -> Taken | None:
        """The oldest that nobody has, or, with ``overdue``, before it one whose worker died; waits
        for so long."""
        try:
            if overdue and (found_again := self._overdue_call()):
                return found_again
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

    def begin_call(self, taken: Taken) -> int:
        """Says that it is made now. Returns the number of the attempt; 0: it is not to be made any
        more; -1: it was cancelled while another worker made it, which has to be settled."""
        told = self.redis.eval(callscripts.BEGIN, 0, taken.id, taken.call.id, now())
        return int(cast(int, told))

    def keep_calls(self, ids: Collection[str]) -> None:
        """Says that these are being made."""
        if ids:
            self.redis.xclaim(keys.CALLS, keys.CALLS, _WORKER, 0, list(ids), justid=True)

    def cancelled_calls(self, ids: Collection[str]) -> set[str]:
        """Those of these calls that somebody wants to end."""
        wanted = list(ids)
        found = self._pipeline(("HEXISTS", keys.call(each), "cancelled") for each in wanted)
        return {each for each, cancelled in zip(wanted, found, strict=True) if cancelled}

    def forget_call(self, taken: Taken) -> None:
        """Nothing is left to do for it; repeating this changes nothing."""
        self._forget(taken.id, taken.call.id)

    def give_back_call(self, taken: Taken) -> None:
        """Lets another worker have a call that was not begun, at once."""
        silent = int(OVERDUE * 1000) + 1
        self.redis.xclaim(keys.CALLS, keys.CALLS, _WORKER, 0, [taken.id], idle=silent, justid=True)

    def park_call(self, taken: Taken, why: str) -> None:
        """Takes a call that was not begun out of the others' way, to those that wait for the same
        (``why``); it does not count as begun."""
        self.redis.eval(
            callscripts.PARK,
            3,
            *(keys.CALLS, keys.parked(why), keys.PARKED),
            *(taken.id, taken.times - 1, why),
        )

    def unpark_call(self, why: str) -> bool:
        """Puts the oldest of those behind all that wait for nothing; False: it was the last."""
        places = (keys.CALLS, keys.parked(why), keys.PARKED)
        return bool(self.redis.eval(callscripts.UNPARK, 3, *places, why))

    def parked(self) -> set[str]:
        """What calls wait for."""
        return {text(each) for each in cast("set[bytes]", self.redis.smembers(keys.PARKED))}

    def retry_call(self, taken: Taken, due: float, due_text: str, status: int, reason: str) -> bool:
        """Has it made again at ``due`` (Unix time; RFC 3339). False: it was cancelled, or is not
        this worker's any more."""
        told = (taken.id, taken.call.id, due, due_text, status, reason)
        return bool(self.redis.eval(callscripts.RETRY, 0, *told))

    def move_due_calls(self, unix: float) -> int:
        """Puts those whose time has come behind all others; returns how many. Those of a time when
        the clock was wrong are due as well."""
        latest = unix + LATEST_DUE
        return int(cast(int, self.redis.eval(callscripts.MOVE_DUE, 0, unix, latest)))

    def waiting_calls(self) -> int:
        """Calls that are not over yet, those that are just being made among them."""
        streams = [keys.CALLS, *map(keys.parked, self.parked())]
        counts = [*(("XLEN", each) for each in streams), ("ZCARD", keys.CALLS_DUE)]
        return sum(self._pipeline(counts))

    def _forget(self, entry: str, id_: str = "") -> None:
        self.redis.eval(callscripts.FORGET, 0, entry, id_)

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
        """None for what is over, or is no call: its entry is dropped."""
        id_, fields = text(entry[0]), entry[1]
        if size := _number(fields.get(b"size")):  # of the first version, without answers
            of = fields.get(b"of", b"")
            self._pipeline(
                (("DECRBY", keys.CALLS_SIZE, size), ("HINCRBY", keys.CALLS_SIZES, of, -size))
            )
            log.error("call_not_read", entry=id_, reason="it was kept by an older version")
        call_id = fields.get(b"id", b"").decode(errors="replace")
        found = cast("dict[bytes, bytes]", self.redis.hgetall(keys.call(call_id)))
        moving = found.get(b"state", b"").decode() in (CallState.QUEUED, CallState.RUNNING)
        if not moving and b"tell" not in found:  # cancelled, or told already
            self._forget(id_)
            return None
        try:
            call = call_of(found)
            of_call(call)
            answered = None if moving else answered_of(found)
        except (ValueError, InvalidRequest) as error:
            log.error("call_not_read", entry=id_, reason=str(error))
            reason = f"it could not be read: {error}"
            told = (id_, call_id, reason, now(), time.time() + SET_ASIDE_FOR)
            self.redis.eval(callscripts.SET_ASIDE, 0, *told)
            return None
        times += _number(fields.get(b"begun"))
        retries = _number(found.get(b"retries"))
        return Taken(id=id_, call=call, times=times, retries=retries, answered=answered)


def call_of(record: dict[bytes, bytes]) -> Call:
    """Raises ValueError: it is none, as of another version."""
    call = msgspec.json.decode(record.get(b"call", b""), type=Call)
    return msgspec.structs.replace(call, body=record.get(b"body", b""))


def answered_of(record: dict[bytes, bytes]) -> Answered | None:
    """What is kept of the last answer; None: there is none.

    Raises:
        ValueError: it is of another version.
    """
    if b"length" not in record:
        return None
    return Answered(
        status=int(record[b"status"]),
        headers=msgspec.json.decode(record[b"headers"], type=list[tuple[str, str]]),
        body=record.get(b"answer", b""),
        file=text(record.get(b"answer_file")),
        length=int(record[b"length"]),
        seconds=float(record[b"seconds"]),
    )


def adding(call: Call, bound: int) -> tuple[Any, ...]:
    """Arguments of ``callscripts.ADD``."""
    if len(call.body) > INLINE:
        raise ValueError(f"{len(call.body)} bytes are no small body")
    raw = encode(msgspec.structs.replace(call, body=b""))
    file = body_file(call.id) if call.held is not None else ""
    size = len(raw) + call.length + OVERHEAD
    return (call.id, raw, call.body, file, call.length, of_call(call), size, bound, now())


def refused(told: bytes, held: int, bound: int, of: str) -> Unavailable:
    """Why the queue takes no more."""
    whose, limit = {
        b"all": ("the asynchronous calls that wait", f"{bound} is the limit"),
        b"own": (
            f"the asynchronous calls of {of} that wait",
            f"a quarter of {bound} is the limit of one function",
        ),
        b"owner": (
            f"the asynchronous calls of {of.rpartition('.')[2]} that wait",
            f"half of {bound} is the limit of one owner",
        ),
    }[told]
    return Unavailable(
        f"{whose} have {held} bytes, and {limit} (SLIPWAY_ASYNC_QUEUE): call again later, "
        "or call /function/ and wait"
    )


def of_call(call: Call) -> str:
    """Whose share of the queue it takes: ``name.namespace``."""
    return names.join_function(*names.split_function(call.name))


def _number(raw: bytes | None) -> int:
    return int(raw) if raw and raw.isdigit() else 0

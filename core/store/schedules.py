"""Schedules: when functions are called next, and the calls that come of it.

A run is one asynchronous call. One script keeps it and moves ``next`` on, if everything is as it
was when the run was found to be due: of several controllers one makes it, and one that is killed
has either made it whole or leaves it to the next look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import cast

import msgspec
from redis.client import Pipeline

from core import keys
from core.models import Call, FunctionRecord
from core.schedules import Planned
from core.store.base import encode, text
from core.store.calls import Calls, adding, refused
from core.store.callscripts import ADD
from core.store.functions import Functions, batched

_RUN = f"""
local function add(ARGV)
{ADD}
end
local schedules, functions = unpack(KEYS)
local of, before, after = table.remove(ARGV), table.remove(ARGV), table.remove(ARGV)
if redis.call('HGET', schedules, of) ~= before then return {{'moved', 0}} end
if redis.call('HEXISTS', functions, of) == 0 then return {{'moved', 0}} end
local told = add(ARGV)
if told[1] == '' then redis.call('HSET', schedules, of, after) end
return told
"""
"""The arguments are those of ``ADD``; ours come after them, the last first."""


class Schedules(Functions, Calls):
    def planned(self) -> dict[str, Planned]:
        """What is kept of every function that has a schedule."""
        rows = cast("dict[bytes, bytes]", self.redis.hgetall(keys.SCHEDULES))
        found = ((text(function), _planned(raw)) for function, raw in rows.items())
        return {function: planned for function, planned in found if planned}

    def planned_of(self, function: str) -> Planned | None:
        return _planned(cast("bytes | None", self.redis.hget(keys.SCHEDULES, function)))

    def plan(
        self,
        functions: Iterable[str],
        how: Callable[[FunctionRecord | None, Planned | None], Planned | None],
    ) -> None:
        """Writes what is to be kept of these functions; ``how``: from what there is, and what was
        kept. It may be asked again where the store changes meanwhile."""
        for some in batched(functions):
            self._transaction(_planning(self, some, how), keys.FUNCTIONS, keys.SCHEDULES)

    def run_schedule(
        self, function: str, before: Planned, after: Planned, call: Call, bound: int
    ) -> bool:
        """Keeps the call, and ``after`` in the place of ``before``, both or neither. False: another
        controller was quicker, or the function was changed or removed.

        Raises:
            Unavailable: as ``add_call`` does.
        """
        raw = cast("bytes | None", self.redis.hget(keys.SCHEDULES, function))
        if raw is None or _planned(raw) != before:
            return False
        given = (*adding(call, bound), encode(after), raw, function)
        told, held = cast(
            "tuple[bytes, int]",
            self.redis.eval(_RUN, 2, keys.SCHEDULES, keys.FUNCTIONS, *given),
        )
        if told == b"moved":
            return False
        if told:
            raise refused(told, held, bound, function)
        return True


def _planning(
    store: Schedules,
    functions: Sequence[str],
    how: Callable[[FunctionRecord | None, Planned | None], Planned | None],
) -> Callable[[Pipeline], None]:
    def change(pipe: Pipeline) -> None:
        records = store.of_names(functions)
        rows = cast("list[bytes | None]", pipe.hmget(keys.SCHEDULES, list(functions)))
        pipe.multi()
        for function, raw in zip(functions, rows, strict=True):
            planned = how(records.get(function), _planned(raw))
            if planned is None:
                pipe.hdel(keys.SCHEDULES, function)
            elif (new := encode(planned)) != raw:
                pipe.hset(keys.SCHEDULES, function, new)

    return change


def _planned(raw: bytes | None) -> Planned | None:
    """None also for what another version wrote: it is planned anew."""
    try:
        return None if raw is None else msgspec.json.decode(raw, type=Planned)
    except msgspec.MsgspecError:
        return None

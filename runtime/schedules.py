"""Calls functions on their schedules: one thread of the controller.

It sleeps until the next run is due, or a function's schedule is new. A run is one asynchronous
call, kept in the same step that moves the schedule on (``core.store.schedules``), so nothing is
lost or made twice by whoever is killed, and any number of controllers may look side by side.

Runs that nobody made at their time, as the machine was off, are made up for by one call. A clock
that was set back makes none of them again; one that was set back by more than a day was wrong
before, and schedules go by the new time.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice, takewhile

import msgspec
from redis.exceptions import RedisError

from core import logging
from core.errors import InvalidRequest, Unavailable
from core.models import Call, FunctionRecord
from core.schedules import CRON, LastRun, Missed, Planned, Schedule, moment, schedule_of
from core.settings import Settings
from core.store import Store

LOOK_EVERY = 60.0
"""The longest sleep in seconds: clocks jump, other controllers change things."""
AGAIN = 10.0
"""Seconds after which a run is tried again for which the queue had no room."""
LATE = 60
"""Seconds from which on a run was missed. No two runs of a schedule are nearer to one another."""
SET_BACK = 86400
COUNTED = 10_000
"""Missed runs are counted so far."""
HEADERS = [
    ("Host", "localhost"),
    ("Content-Type", "text/plain"),
    ("X-Connector", "cron-connector"),
    ("X-Topic", CRON),
]
"""As OpenFaaS' connectors send them. Who calls without a Host has the same one."""
PLANNED_FOR = "X-Schedule-Time"
"""Our own header: the time for which the run was planned, of several the first."""

log = logging.get()


class Schedules:
    def __init__(
        self, settings: Settings, store: Store, clock: Callable[[], float] = time.time
    ) -> None:
        self.settings = settings
        self.store = store
        self.clock = clock
        self._told: dict[str, Schedule] | None = None
        """The schedules that are desired; None: nobody has told yet."""
        self._warned: dict[str, Schedule] = {}
        self._news = threading.Event()

    def tell(self, records: Mapping[str, FunctionRecord]) -> None:
        """What is desired just now. Costs next to nothing where no schedule is new."""
        told = {
            function: schedule
            for function, record in records.items()
            if record.spec.annotations and (schedule := schedule_of(record.spec.annotations))
        }
        if told != self._told:
            self._told = told
            self._news.set()

    def follow(self, stop: threading.Event) -> None:
        """Makes the runs, until ``stop``."""
        while not stop.is_set():
            self._news.clear()
            pause = AGAIN
            try:
                pause = self.look()
            except RedisError as error:
                log.warning("store_unavailable", error=str(error))
            except Exception:
                log.exception("schedules_failed")
            self._news.wait(min(max(pause, 0.0), LOOK_EVERY))

    def look(self) -> float:
        """Makes the runs that are due; returns the seconds until the next one is."""
        if self._told is None:
            return LOOK_EVERY
        now = self.clock()
        planned = self._plan(self._right(self._told), now)
        due = sorted((each.next, function) for function, each in planned.items())
        following = [
            self._run(function, planned[function], self.clock()) if at <= now else at
            for at, function in due
        ]
        return min(following, default=now + LOOK_EVERY) - self.clock()

    # Inside

    def _right(self, told: Mapping[str, Schedule]) -> dict[str, Schedule]:
        """Without those that are wrong: what was deployed elsewhere may be."""
        right, wrong = {}, {}
        for function, schedule in told.items():
            try:
                _ = schedule.cron
                right[function] = schedule
            except InvalidRequest as error:
                wrong[function] = schedule
                if self._warned.get(function) != schedule:
                    log.warning("schedule_wrong", function=function, reason=str(error))
        self._warned = wrong
        return right

    def _plan(self, right: Mapping[str, Schedule], now: float) -> dict[str, Planned]:
        """What is kept of all schedules, once it says what is desired."""
        planned = self.store.planned()
        odd = [
            function
            for function in right.keys() | planned.keys()
            if (kept := planned.get(function)) is None
            or right.get(function) != kept.schedule
            or _was_set_back(kept, now)
        ]
        if odd:
            self.store.plan(odd, partial(planned_from, now=now))
            planned = self.store.planned()
        return planned

    def _run(self, function: str, due: Planned, now: float) -> float:
        """Makes one run; returns when the next one is due."""
        try:
            after, call = run_of(function, due, now)
            if self.store.run_schedule(function, due, after, call, self.settings.async_queue):
                self._tell_missed(function, due, after)
            return after.next
        except Unavailable as error:
            log.warning("schedule_waits", function=function, reason=str(error))
        except InvalidRequest as error:
            log.warning("schedule_wrong", function=function, reason=str(error))
        return now + AGAIN

    def _tell_missed(self, function: str, due: Planned, after: Planned) -> None:
        if (missed := after.missed) and missed != due.missed:
            log.warning("schedule_missed", function=function, runs=missed.count, since=missed.since)


def planned_from(record: FunctionRecord | None, kept: Planned | None, now: float) -> Planned | None:
    """What is to be kept of a function: of a schedule that stays all of it; a new one begins now.
    None: it has no schedule that could come true."""
    schedule = schedule_of(record.spec.annotations) if record else None
    if schedule is None:
        return None
    if kept and kept.schedule == schedule and not _was_set_back(kept, now):
        return kept
    try:
        following = schedule.cron.after(now)
    except InvalidRequest:
        return None
    new = Planned(schedule=schedule, next=following, looked=int(now))
    return msgspec.structs.replace(new, last=kept.last, missed=kept.missed) if kept else new


def run_of(function: str, due: Planned, now: float) -> tuple[Planned, Call]:
    """What is kept once the run was made, and its call.

    Raises:
        InvalidRequest: the schedule does not come true any more.
    """
    cron = due.schedule.cron
    call = Call(
        id=str(uuid.uuid4()),
        name=function,
        target="/",
        headers=[*HEADERS, (PLANNED_FOR, moment(due.next))],
        body=b"",
    )
    missed = 0
    if due.next <= now - LATE:
        until_late = takewhile(lambda at: at <= now - LATE, cron.times(due.next))
        missed = 1 + sum(1 for _ in islice(until_late, COUNTED - 1))
    after = msgspec.structs.replace(
        due,
        next=cron.after(now - LATE if missed else now),  # one that is not late is made by itself
        looked=int(now),
        last=LastRun(at=moment(now), call_id=call.id),
        missed=Missed(count=missed, since=moment(due.next)) if missed else due.missed,
    )
    return after, call


def _was_set_back(kept: Planned, now: float) -> bool:
    return kept.looked - now > SET_BACK

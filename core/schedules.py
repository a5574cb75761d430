"""Schedules: what functions' annotations say of when they are called, and what became of it.

Format: the annotations of OpenFaaS' cron-connector (https://github.com/openfaas/cron-connector):
``topic`` names ``cron-function``, alone or among others with commas, and ``schedule`` is a cron
line (``core.cron``). It knows no time zones but by a prefix of the line; here they have an
annotation of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from core import cron
from core.errors import InvalidRequest
from core.models import Struct

TOPIC, LINE, ZONE = "topic", "schedule", "com.slipway.schedule.timezone"
"""The annotations."""
CRON = "cron-function"
"""The topic of functions that are called on a schedule."""


class Schedule(Struct, frozen=True):
    """When a function is to be called, as it was written: it may be wrong."""

    line: str
    zone: str = "UTC"

    @property
    def cron(self) -> cron.Cron:
        """Raises InvalidRequest, naming the annotation that is wrong."""
        for told in _mistakes(self):
            raise InvalidRequest(": ".join(told))
        return cron.cron(self.line, self.zone)


class LastRun(Struct, frozen=True):
    """The last call that a schedule made."""

    at: str
    call_id: str


class Missed(Struct, frozen=True):
    """Runs that were not made within a minute of their time, when there last were such. One call
    was made for all of them."""

    count: int
    since: str
    """The time of the first of them."""


class Planned(Struct, frozen=True, omit_defaults=True):
    """What is kept of a function's schedule."""

    schedule: Schedule
    next: int
    """Unix time in seconds, as ``looked``."""
    looked: int
    """When ``next`` was found: a clock that is far behind it was set back."""
    last: LastRun | None = None
    missed: Missed | None = None


class ScheduleStatus(Struct, frozen=True):
    """A function's schedule, as the API tells it. Times are RFC 3339 in UTC."""

    schedule: str
    """As it was written."""
    timezone: str
    next: str | None = None
    """Null where it is wrong, and for the moment in which it is new."""
    last: LastRun | None = None
    missed: Missed | None = None
    error: str | None = None
    """Why it is never called."""


def schedule_of(annotations: Mapping[str, str] | None) -> Schedule | None:
    """The schedule of a function; None: it has none."""
    if not annotations or CRON not in annotations.get(TOPIC, ""):
        return None
    if CRON not in (each.strip() for each in annotations[TOPIC].split(",")):
        return None
    return Schedule(line=annotations.get(LINE, ""), zone=annotations.get(ZONE, "UTC"))


def mistakes(annotations: Mapping[str, str] | None) -> Iterator[tuple[str, str]]:
    """(annotation, what is wrong with it) of functions that cannot be deployed so."""
    if schedule := schedule_of(annotations):
        if LINE in (annotations or {}):
            yield from _mistakes(schedule)
        else:
            yield (
                TOPIC,
                f"it names {CRON}, and there is no annotation {LINE!r}: write a cron line there",
            )


def warnings(annotations: Mapping[str, str] | None) -> Iterator[tuple[str, str]]:
    """(annotation, why it has no effect)."""
    annotations = annotations or {}
    if schedule_of(annotations) is None:
        for name in (LINE, ZONE):
            if name in annotations:
                yield name, f"has no effect: the annotation {TOPIC!r} does not name {CRON}"


def status(annotations: Mapping[str, str] | None, planned: Planned | None) -> ScheduleStatus | None:
    """What is told of a function; ``planned``: what is kept of it. None: it has no schedule."""
    schedule = schedule_of(annotations)
    if schedule is None:
        return None
    error = "; ".join(f"{name}: {told}" for name, told in mistakes(annotations)) or None
    due = planned.next if planned and planned.schedule == schedule and not error else None
    return ScheduleStatus(
        schedule=schedule.line,
        timezone=schedule.zone,
        next=None if due is None else moment(due),
        last=planned.last if planned else None,
        missed=planned.missed if planned else None,
        error=error,
    )


def moment(unix: float) -> str:
    """A Unix time as the API tells it, to the second."""
    return datetime.fromtimestamp(int(unix), UTC).isoformat().replace("+00:00", "Z")


def _mistakes(schedule: Schedule) -> Iterator[tuple[str, str]]:
    for name, check, text in (
        (LINE, cron.check_line, schedule.line),
        (ZONE, cron.check_zone, schedule.zone),
    ):
        try:
            check(text)
        except InvalidRequest as error:
            yield name, str(error)

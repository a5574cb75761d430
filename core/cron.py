"""Cron lines and time zones: when a line comes true next.

Format: the five fields of crontab(5) as Debian reads them, and the descriptors that OpenFaaS'
cron-connector takes. What a schedule may not say (seconds, ``@every``, ``L``, ``?``) is refused,
so that a line means one thing wherever it is written.

Where clocks change, a line does as with Debian's cron: one of whose fields for minute and hour
none begins with ``*`` comes true once a day, right after the gap where its time is left out, the
first time where it is there twice. All others go by what the clock shows.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, tzinfo
from functools import cache, lru_cache
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from core.errors import InvalidRequest

DESCRIPTORS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
MAX_LINE = 256
_FIELDS = (
    ("minute", "[0-9]{1,2}", "0-59"),
    ("hour", "[0-9]{1,2}", "0-23"),
    ("day of the month", "[0-9]{1,2}", "1-31"),
    ("month", "[0-9]{1,2}|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC", "1-12 or JAN-DEC"),
    ("day of the week", "[0-9]|SUN|MON|TUE|WED|THU|FRI|SAT", "0-7 or SUN-SAT"),
)
_SOME_DAY = datetime(2000, 1, 1, tzinfo=UTC)
_NO_ZONES = {"localtime", "Factory"}
"""They lie among the zones, and mean something else on every machine."""


class Cron:
    """A line in a time zone. Made by ``cron``, which says what is wrong with one."""

    def __init__(self, fields: str, zone: tzinfo) -> None:
        self._fields = fields
        self._zone = zone

    def after(self, moment: float) -> int:
        """When it comes true first after ``moment``; Unix times in seconds, always later ones.

        Raises:
            InvalidRequest: never.
        """
        try:
            return next(self.times(moment))
        except (OverflowError, ValueError, OSError) as error:  # beyond the year 9999
            raise InvalidRequest(f"it does not come true after {moment:g}: {error}") from error
        except StopIteration:
            raise InvalidRequest("it never comes true") from None

    def times(self, moment: float) -> Iterator[int]:
        """All when it comes true after ``moment``. Raises OverflowError, ValueError, OSError:
        beyond the year 9999."""
        for found in CronSim(self._fields, datetime.fromtimestamp(moment, self._zone)):
            # Of a time that is there twice the first is told, though it may be over.
            if (at := int(found.timestamp())) > moment:
                yield at


@lru_cache(4096)
def cron(line: str, zone: str = "UTC") -> Cron:
    """Reads a line and the name of a time zone.

    Raises:
        InvalidRequest: one of them is none.
    """
    read = Cron(_fields(line), _zone(zone))
    try:
        read.after(0)
    except (CronSimError, InvalidRequest) as error:
        raise InvalidRequest(f"{_shown(line)} never comes true: there is no such day") from error
    return read


def check_line(line: str) -> None:
    """Raises InvalidRequest."""
    cron(line)


def check_zone(zone: str) -> None:
    """Raises InvalidRequest."""
    _zone(zone)


def _fields(line: str) -> str:
    if len(line) > MAX_LINE:
        raise InvalidRequest(f"it has {len(line)} characters, and {MAX_LINE} are allowed")
    line = line.strip(" \t")
    if line.startswith("@"):
        if line not in DESCRIPTORS:
            known = ", ".join(DESCRIPTORS)
            raise InvalidRequest(f"{_shown(line)} is none of {known}: write one of them, or a line")
        return DESCRIPTORS[line]
    if re.match(r"(CRON_)?TZ=", line):
        raise InvalidRequest(
            f"{_shown(line)} names a time zone: that has an annotation of its own, "
            "com.slipway.schedule.timezone"
        )
    fields = re.split(r"[ \t]+", line)
    if len(fields) != len(_FIELDS):
        names = ", ".join(name for name, _, _ in _FIELDS)
        raise InvalidRequest(
            f"{_shown(line)} has {len(fields) if line else 0} fields: a cron line has five "
            f"({names}), and no seconds"
        )
    for position, text in enumerate(fields):
        _check_field(position, text)
    return " ".join(fields)


def _check_field(position: int, text: str) -> None:
    name, value, values = _FIELDS[position]
    term = rf"(\*|({value})(-({value}))?)(/[0-9]{{1,2}})?"
    if re.fullmatch(rf"{term}(,{term})*", text, re.ASCII | re.IGNORECASE):
        # The others are *: a day that no month has is told of the whole line.
        alone = " ".join(text if n == position else "*" for n in range(len(_FIELDS)))
        with suppress(CronSimError):
            CronSim(alone, _SOME_DAY)
            return
    raise InvalidRequest(
        f"the {name}, {_shown(text)}, is none: write {values}, *, ranges such as 1-5, steps such "
        "as */2, or several of them with commas"
    )


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    if name not in _zones():
        lower = {each.lower(): each for each in _zones()}
        near = difflib.get_close_matches(name[:80].lower(), lower, n=1)
        hint = f": did you mean {lower[near[0]]!r}?" if near else " such as 'Europe/Berlin'"
        raise InvalidRequest(f"{_shown(name)} is not the name of an IANA time zone{hint}")
    return ZoneInfo(name)


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones() - _NO_ZONES)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")

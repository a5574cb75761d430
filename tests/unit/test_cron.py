"""When cron lines come true, what clocks' changes do to them, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from core.cron import DESCRIPTORS, check_zone, cron
from core.errors import InvalidRequest

BERLIN = "Europe/Berlin"


def times(line: str, zone: str, since: str, count: int) -> list[str]:
    """The next times of a line as that zone's clock shows them."""
    at, found = datetime.fromisoformat(since).replace(tzinfo=UTC).timestamp(), []
    for _ in range(count):
        at = cron(line, zone).after(at)
        local = datetime.fromtimestamp(at, ZoneInfo(zone))
        found.append(local.strftime("%m-%d %H:%M %z"))
    return found


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("*/5 * * * *", ["01-31 23:50", "01-31 23:55", "02-01 00:00"]),
        ("0,30 22-23 * * *", ["02-01 22:00", "02-01 22:30", "02-01 23:00"]),
        ("7/20 * * * *", ["01-31 23:47", "02-01 00:07", "02-01 00:27"]),
        ("0 9 * * MON-FRI", ["02-02 09:00", "02-03 09:00", "02-04 09:00"]),
        ("0 9 * * 7", ["02-01 09:00", "02-08 09:00", "02-15 09:00"]),
        ("0 0 13 * fri", ["02-06 00:00", "02-13 00:00", "02-20 00:00"]),
        ("  0\t0 1 jan,Dec * ", ["12-01 00:00", "01-01 00:00", "12-01 00:00"]),
        ("0 0 29 2 *", ["02-29 00:00", "02-29 00:00", "02-29 00:00"]),
        ("@hourly", ["02-01 00:00", "02-01 01:00", "02-01 02:00"]),
        ("@daily", ["02-01 00:00", "02-02 00:00", "02-03 00:00"]),
        ("@weekly", ["02-01 00:00", "02-08 00:00", "02-15 00:00"]),
        ("@monthly", ["02-01 00:00", "03-01 00:00", "04-01 00:00"]),
        ("@yearly", ["01-01 00:00", "01-01 00:00", "01-01 00:00"]),
    ],
)
def test_lines_come_true(line: str, expected: list[str]) -> None:
    assert times(line, "UTC", "2026-01-31T23:46:30", 3) == [f"{each} +0000" for each in expected]


def test_zones_count() -> None:
    assert times("0 9 * * *", "Asia/Kathmandu", "2026-01-01T00:00:00", 1) == ["01-01 09:00 +0545"]


@pytest.mark.parametrize(
    ("line", "since", "expected"),
    [  # 2026-03-29 02:00 is 03:00; on 2026-10-25 03:00 is 02:00 once more
        ("30 2 * * *", "2026-03-28T02:00:00", ["03-29 03:00 +0200", "03-30 02:30 +0200"]),
        ("10,40 2 * * *", "2026-03-28T02:00:00", ["03-29 03:00 +0200", "03-30 02:10 +0200"]),
        ("30 2 * * *", "2026-10-24T02:00:00", ["10-25 02:30 +0200", "10-26 02:30 +0100"]),
        ("*/30 2 * * *", "2026-03-28T02:00:00", ["03-30 02:00 +0200", "03-30 02:30 +0200"]),
        (
            "*/30 2 * * *",
            "2026-10-24T23:00:00",
            ["10-25 02:00 +0200", "10-25 02:30 +0200", "10-25 02:00 +0100", "10-25 02:30 +0100"],
        ),
        (
            "0 * * * *",
            "2026-10-24T23:30:00",
            ["10-25 02:00 +0200", "10-25 02:00 +0100", "10-25 03:00 +0100"],
        ),
        ("0 * * * *", "2026-03-29T00:30:00", ["03-29 03:00 +0200", "03-29 04:00 +0200"]),
        # Seen in the hour that is there for the second time: it was due in the first.
        ("30 2 * * *", "2026-10-25T01:10:00", ["10-26 02:30 +0100"]),
    ],
)
def test_clocks_change_as_with_debian_s_cron(line: str, since: str, expected: list[str]) -> None:
    assert times(line, BERLIN, since, len(expected)) == expected


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "has 0 fields: a cron line has five"),
        ("* * * *", "has 4 fields"),
        ("0 * * * * *", "has 6 fields: a cron line has five"),
        ("* * * * * * *", "and no seconds"),
        ("@reboot", "is none of @hourly, @daily"),
        ("@every 5m", "is none of @hourly, @daily"),
        ("@Daily", "is none of"),
        ("CRON_TZ=Europe/Berlin 0 9 * * *", "that has an annotation of its own"),
        ("60 * * * *", "the minute, '60', is none: write 0-59"),
        ("0 24 * * *", "the hour, '24', is none: write 0-23"),
        ("0 0 0 * *", "the day of the month, '0', is none: write 1-31"),
        ("0 0 * 13 *", "the month, '13', is none: write 1-12 or JAN-DEC"),
        ("0 0 * MON *", "the month, 'MON', is none"),
        ("0 0 * * 8", "the day of the week, '8', is none: write 0-7 or SUN-SAT"),
        ("0 0 * * FR\u0131", "the day of the week"),
        ("\u0663 * * * *", "the minute"),
        ("5-1 * * * *", "the minute, '5-1', is none"),
        ("*/0 * * * *", "the minute"),
        ("*/99999999999 * * * *", "the minute"),
        ("1,,2 * * * *", "the minute"),
        ("-1 * * * *", "the minute"),
        ("1/2/3 * * * *", "the minute"),
        ("0 0 L * *", "the day of the month, 'L', is none"),
        ("0 0 * * MON#1", "the day of the week"),
        ("0 0 ? * *", "the day of the month, '?'"),
        ("0 0 30 2 *", "'0 0 30 2 *' never comes true: there is no such day"),
        ("0 0 31 4,6,9,11 *", "never comes true"),
        ("1" * 5000, "it has 5000 characters, and 256 are allowed"),
        ("*\n* * * *", "has 4 fields"),
        ("*\0 * * * *", "the minute"),
    ],
)
def test_what_is_none_is_refused(line: str, told: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        cron(line)
    assert told in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("zone", "told"),
    [
        ("europe/berlin", "did you mean 'Europe/Berlin'?"),
        ("", "such as 'Europe/Berlin'"),
        ("../../../etc/passwd", "is not the name of an IANA time zone"),
        ("/etc/localtime", "is not the name"),
        ("localtime", "is not the name"),
        ("America", "is not the name"),
        ("UTC\0", "is not the name"),
        ("+02:00", "is not the name"),
        ("x" * 10_000, "is not the name"),
    ],
)
def test_what_is_no_zone_is_refused(zone: str, told: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_zone(zone)
    assert told in str(caught.value)


FIELDS = [
    st.one_of(
        st.just("*"),
        st.integers(2, 40).map("*/{}".format),
        st.integers(low, high).map(str),
        st.tuples(st.integers(low, high), st.integers(low, high)).map(
            lambda pair: f"{min(pair)}-{max(pair)}"
        ),
        st.lists(st.integers(low, high), min_size=1, max_size=4).map(
            lambda found: ",".join(map(str, found))
        ),
    )
    for low, high in ((0, 59), (0, 23), (1, 28), (1, 12), (0, 7))
]
LINES = st.one_of(st.tuples(*FIELDS).map(" ".join), st.sampled_from(sorted(DESCRIPTORS)))
ZONES = st.sampled_from([BERLIN, "America/Havana", "Africa/Cairo", "Pacific/Apia", "UTC"])
MOMENTS = st.floats(1.6e8, 2.05e9)
"""1975 to 2034."""
CHANGES = st.sampled_from(
    [datetime(2026, month, day, tzinfo=UTC) for month, day in ((3, 29), (4, 24), (10, 25))]
)
NEAR_CHANGES = st.tuples(CHANGES, st.integers(-10_000, 10_000)).map(
    lambda pair: pair[0].timestamp() + pair[1]
)


@given(LINES, ZONES, st.one_of(MOMENTS, NEAR_CHANGES))
def test_the_next_time_is_later_and_each_a_minute_on(line: str, zone: str, moment: float) -> None:
    found = [moment]
    for _ in range(4):
        found.append(cron(line, zone).after(found[-1]))
    assert all(later > earlier for earlier, later in pairwise(found))
    assert all(later - earlier >= 60 for earlier, later in pairwise(found[1:]))
    assert all(each % 60 == 0 for each in found[1:])


@given(LINES, ZONES, NEAR_CHANGES, st.integers(0, 7200))
def test_nothing_is_passed_over(line: str, zone: str, moment: float, ahead: int) -> None:
    """Whoever looks again before a time is due finds the same one."""
    at = cron(line, zone).after(moment)
    assert cron(line, zone).after(min(moment + ahead, at - 0.5)) == at


@given(FIELDS[0], FIELDS[1], st.sampled_from([BERLIN, "America/Havana"]), NEAR_CHANGES)
def test_a_line_with_a_star_goes_by_what_the_clock_shows(
    minute: str, hour: str, zone: str, moment: float
) -> None:
    """Held against looking at every minute of two days."""
    if not (minute.startswith("*") or hour.startswith("*")):
        return
    shows = CronSim(f"{minute} {hour} * * *", datetime(2026, 1, 1, tzinfo=UTC))
    at = int(moment) // 60 * 60
    for _ in range(2 * 24 * 60):
        at += 60
        local = datetime.fromtimestamp(at, ZoneInfo(zone))
        if local.minute in shows.minutes and local.hour in shows.hours:
            break
    else:
        return
    assert cron(f"{minute} {hour} * * *", zone).after(moment) == at


def test_every_zone_can_be_read() -> None:
    for zone in available_timezones() - {"localtime", "Factory"}:
        assert cron("30 2 * * *", zone).after(0) > 0


def test_after_the_end_of_time_nothing_breaks() -> None:
    for moment in (253_402_300_790, 1e20):
        with pytest.raises(InvalidRequest):
            cron("* * * * *", BERLIN).after(moment)

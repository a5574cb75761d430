"""What annotations say of a schedule, what is wrong with them, and what is told of it."""

from __future__ import annotations

import msgspec
import pytest

from core import stackfile
from core.deployments import spec_of
from core.errors import InvalidRequest, InvalidStack
from core.models import FunctionRecord, FunctionSpec
from core.openfaas import FunctionDeployment
from core.schedules import LastRun, Missed, Planned, Schedule, schedule_of, status
from runtime.schedules import planned_from, run_of

ZONE = "com.slipway.schedule.timezone"
NOON = 1_767_268_800
"""2026-01-01T12:00:00Z."""


def spec(annotations: dict[str, str]) -> FunctionSpec:
    given = FunctionDeployment(service="tick", image="tick", annotations=annotations)
    return spec_of(given, "ann", "d1")


def record(line: str, zone: str = "UTC") -> FunctionRecord:
    spec = FunctionSpec(
        name="tick",
        namespace="ann",
        artifact="a",
        annotations={"topic": "cron-function", "schedule": line, ZONE: zone},
    )
    return FunctionRecord(spec=spec, release="r1", replicas=1, created_at="x")


@pytest.mark.parametrize(
    ("topic", "counts"),
    [
        ("cron-function", True),
        (" orders , cron-function", True),
        ("cron-functions", False),
        ("cron function", False),
        ("", False),
    ],
)
def test_topic_names_the_connector(topic: str, counts: bool) -> None:
    found = schedule_of({"topic": topic, "schedule": "@daily"})
    assert found == (Schedule(line="@daily") if counts else None)


def test_a_schedule_without_the_topic_does_nothing() -> None:
    assert spec({"schedule": "when it rains", ZONE: "Mars"}).annotations
    assert schedule_of({"schedule": "@daily"}) is None
    assert status({"schedule": "@daily"}, None) is None


@pytest.mark.parametrize(
    ("annotations", "told"),
    [
        ({"schedule": "* * * *"}, ["annotations: schedule: '* * * *' has 4 fields"]),
        (
            {"schedule": "@every 5m", ZONE: "Mars"},
            ["annotations: schedule: '@every 5m'", f"annotations: {ZONE}: 'Mars' is not the name"],
        ),
        ({ZONE: "UTC"}, ["annotations: topic: it names cron-function, and there is no annotation"]),
    ],
)
def test_a_deploy_by_api_is_told_all_of_it(annotations: dict[str, str], told: list[str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        spec({"topic": "cron-function", **annotations})
    lines = str(caught.value).splitlines()
    assert [line[: len(text)] for line, text in zip(lines, told, strict=True)] == told


STACK = """\
version: 1.0
provider:
  name: openfaas
functions:
  early:
    lang: python3-http
    handler: ./early
    annotations:
      topic: cron-function
      schedule: "0 0 30 2 *"
  late:
    lang: python3-http
    handler: ./late
    annotations:
      com.slipway.schedule.timezone: Europe/Berlim
      schedule: "@daily"
      topic: cron-function
  idle:
    lang: python3-http
    handler: ./idle
    annotations:
      schedule: "@daily"
      topic: orders
"""


def test_a_stack_file_is_told_all_of_it_with_lines() -> None:
    with pytest.raises(InvalidStack) as caught:
        stackfile.parse(STACK.encode(), "stack.yml", max_functions=9)
    assert [each.line for each in caught.value.mistakes] == [10, 15]
    assert "early.annotations.schedule: '0 0 30 2 *' never comes true" in str(caught.value)
    assert "did you mean 'Europe/Berlin'?" in str(caught.value)
    right = STACK.replace("30 2", "29 2").replace("Berlim", "Berlin")
    stack, warnings = stackfile.parse(right.encode(), "stack.yml", max_functions=9)
    assert [each.line for each in warnings] == [22]
    assert "idle.annotations.schedule has no effect" in warnings[0].text
    assert schedule_of(stack.functions[1].annotations) == Schedule(
        line="@daily", zone="Europe/Berlin"
    )


# What becomes of it


def test_a_new_schedule_begins_now_and_the_same_one_goes_on() -> None:
    kept = planned_from(record("@hourly"), None, NOON + 1)
    assert kept == Planned(schedule=Schedule(line="@hourly"), next=NOON + 3600, looked=NOON + 1)
    assert planned_from(record("@hourly"), kept, NOON + 9999) == kept, "it is overdue, not new"
    ran = msgspec.structs.replace(kept, last=LastRun(at="x", call_id="y"))
    other = planned_from(record("@hourly", "Asia/Kathmandu"), ran, NOON + 9999)
    assert other
    assert other.next == NOON + 11_700, "a quarter past three is three o'clock there"
    assert other.last == ran.last
    assert planned_from(None, ran, NOON) is None
    assert planned_from(record("@never"), ran, NOON) is None


def test_a_clock_that_was_set_back_makes_nothing_twice() -> None:
    kept = planned_from(record("@hourly"), None, NOON + 1)
    assert planned_from(record("@hourly"), kept, NOON - 80_000) == kept
    corrected = planned_from(record("@hourly"), kept, NOON - 90_000)
    assert corrected
    assert corrected.next == NOON - 86_400, "it had been a day ahead: that time was wrong"


@pytest.mark.parametrize(
    ("line", "late", "missed"),
    [
        ("@hourly", 0, None),
        ("@hourly", 59, None),
        ("@hourly", 60, 1),
        ("@hourly", 3659, 1),
        ("@hourly", 2 * 3600 + 1800, 3),
        ("* * * * *", 59, None),
        ("* * * * *", 90, 1),
        ("* * * * *", 600, 10),
        ("* * * * *", 400 * 86400, 10_000),
    ],
)
def test_missed_runs_are_one(line: str, late: int, missed: int | None) -> None:
    schedule = Schedule(line=line)
    due = Planned(schedule=schedule, next=NOON, looked=NOON - 1)
    after, call = run_of("tick.ann", due, NOON + late)
    assert after.missed == (missed and Missed(count=missed, since="2026-01-01T12:00:00Z"))
    least = NOON + late - (59 if missed else 0)  # one that is not late is made by itself
    assert least <= after.next <= least + 3600
    assert after.last
    assert after.last.call_id == call.id
    assert (call.name, call.target, call.body, call.callback) == ("tick.ann", "/", b"", "")
    told = dict(call.headers)
    assert told["X-Topic"] == "cron-function"
    assert told["X-Connector"] == "cron-connector"
    assert told["X-Schedule-Time"] == "2026-01-01T12:00:00Z"
    on_time, _ = run_of("tick.ann", after, after.next)
    assert on_time.missed == after.missed, "it stays to be seen"


def test_what_is_told() -> None:
    annotations = {"topic": "cron-function", "schedule": "@hourly"}
    last, missed = LastRun(at="a", call_id="b"), Missed(count=2, since="c")
    kept = Planned(schedule=Schedule(line="@hourly"), next=NOON, looked=1, last=last, missed=missed)
    told = msgspec.to_builtins(status(annotations, kept))
    assert told == {
        "schedule": "@hourly",
        "timezone": "UTC",
        "next": "2026-01-01T12:00:00Z",
        "last": {"at": "a", "callId": "b"},
        "missed": {"count": 2, "since": "c"},
        "error": None,
    }
    other = status({**annotations, "schedule": "@daily"}, kept)
    assert other
    assert (other.next, other.last) == (None, last), "it was deployed just now"
    wrong = status({**annotations, "schedule": "@never", ZONE: "Mars"}, kept)
    assert wrong
    assert wrong.error
    assert wrong.error.startswith("schedule: '@never' is none of")
    assert "; com.slipway.schedule.timezone: 'Mars' is not" in wrong.error
    assert wrong.next is None

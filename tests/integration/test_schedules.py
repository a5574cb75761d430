"""Runs of schedules against a real store: each once, whoever is killed, and none lost."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from core import keys
from core.models import Call, CallState, FunctionRecord, FunctionSpec
from core.schedules import Missed, moment
from core.settings import ROOT, Settings
from core.store import Store
from core.store.calls import Answered
from runtime.schedules import AGAIN, LOOK_EVERY, Schedules
from tests.waiting import until

NOON = 1_767_268_800
"""2026-01-01T12:00:00Z."""


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def put(store: Store, name: str, line: str, zone: str = "UTC", **more: str) -> None:
    """Makes a function desired, as if it had been deployed."""
    annotations = {
        "topic": "cron-function",
        "schedule": line,
        "com.slipway.schedule.timezone": zone,
        **more,
    }
    spec = FunctionSpec(name=name, namespace="ann", artifact="a", annotations=annotations)
    record = FunctionRecord(spec=spec, release="r1", replicas=0, created_at="x")
    store.redis.hset(keys.FUNCTIONS, spec.function, msgspec.json.encode(record))


def calls(store: Store) -> list[Call]:
    ids = [fields[b"id"].decode() for _, fields in store.redis.xrange(keys.CALLS)]
    raw = [store.redis.hget(keys.call(id_), "call") for id_ in ids]
    return [msgspec.json.decode(each, type=Call) for each in raw]


def planned_for(store: Store, function: str) -> list[str]:
    """The times for which its calls were made."""
    made = [dict(call.headers) for call in calls(store) if call.name == function]
    return [headers["X-Schedule-Time"] for headers in made]


def looked(schedules: Schedules, store: Store) -> float:
    schedules.tell(store.functions())
    return schedules.look()


def test_a_run_is_a_call_and_is_told(store: Store, settings: Settings) -> None:
    clock = Clock(NOON + 1)
    schedules = Schedules(settings, store, clock)
    assert schedules.look() == LOOK_EVERY, "nobody told what there is"
    put(store, "tick", "*/5 * * * *")
    put(store, "tock", "@hourly")
    assert looked(schedules, store) == 299
    assert calls(store) == []
    clock.now = NOON + 300.25
    assert looked(schedules, store) == 299.75
    assert looked(schedules, store) == 299.75, "once is enough"
    (call,) = calls(store)
    assert call.name == "tick.ann"
    planned = store.planned()["tick.ann"]
    assert planned.next == NOON + 600
    assert planned.last
    assert (planned.last.call_id, planned.last.at) == (call.id, moment(NOON + 300))
    assert planned.missed is None
    assert until(lambda: store.next_call(0.01)).call == call, "the queue's worker can read it"
    assert store.planned_of("tock.ann") == store.planned()["tock.ann"]


def test_a_new_schedule_begins_now_and_a_removed_one_leaves_nothing(
    store: Store, settings: Settings
) -> None:
    clock = Clock(NOON + 1)
    schedules = Schedules(settings, store, clock)
    put(store, "tick", "@hourly")
    looked(schedules, store)
    clock.now = NOON + 1800
    put(store, "tick", "@hourly", other="annotation")
    looked(schedules, store)
    assert store.planned()["tick.ann"].next == NOON + 3600
    put(store, "tick", "0 13 * * *", "Europe/Berlin")
    looked(schedules, store)
    assert store.planned()["tick.ann"].next == NOON + 86400
    put(store, "tick", "@hourly", topic="orders")
    looked(schedules, store)
    assert store.planned() == {}
    put(store, "tick", "@hourly")
    looked(schedules, store)
    store.redis.hdel(keys.FUNCTIONS, "tick.ann")
    looked(schedules, store)
    assert not store.redis.exists(keys.SCHEDULES)
    assert calls(store) == []


def test_what_was_changed_or_removed_meanwhile_is_not_called(
    store: Store, settings: Settings
) -> None:
    """As another controller, or a client, may do between a look and a run."""
    clock = Clock(NOON + 1)
    schedules = Schedules(settings, store, clock)
    put(store, "tick", "@hourly")
    looked(schedules, store)
    due = store.planned()["tick.ann"]
    store.redis.hdel(keys.FUNCTIONS, "tick.ann")
    clock.now = NOON + 3600
    schedules.look()
    assert calls(store) == []
    put(store, "tick", "@daily")
    looked(schedules, store)
    call = Call(id="x", name="tick.ann", target="/", headers=[], body=b"")
    assert not store.run_schedule("tick.ann", due, due, call, 2**20)
    assert store.planned()["tick.ann"].schedule.line == "@daily"


def test_missed_runs_are_made_up_for_by_one(
    store: Store, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(NOON + 1)
    put(store, "tick", "@hourly")
    looked(Schedules(settings, store, clock), store)
    clock.now = NOON + 5 * 3600 + 1800
    later = Schedules(settings, store, clock)
    assert looked(later, store) == 1800
    assert planned_for(store, "tick.ann") == [moment(NOON + 3600)]
    missed = Missed(count=5, since=moment(NOON + 3600))
    assert store.planned()["tick.ann"].missed == missed
    told = capsys.readouterr()
    assert "schedule_missed" in told.out + told.err
    clock.now = NOON + 6 * 3600
    looked(later, store)
    assert len(calls(store)) == 2
    assert store.planned()["tick.ann"].missed == missed
    clock.now = NOON - 3600
    looked(later, store)
    clock.now = NOON + 6 * 3600 + 1800
    looked(later, store)
    assert len(calls(store)) == 2, "the clock was set back: nothing is run again"


def test_a_full_queue_lets_a_run_wait_and_stops_no_other(store: Store, settings: Settings) -> None:
    clock = Clock(NOON + 1)
    small = dataclasses.replace(settings, async_queue=6 * 1024)
    schedules = Schedules(small, store, clock)
    put(store, "many", "* * * * *")
    put(store, "tock", "3 * * * *")
    looked(schedules, store)
    for minute in (1, 2, 3):
        clock.now = NOON + 60 * minute
        pause = looked(schedules, store)
    assert pause == AGAIN
    assert planned_for(store, "many.ann") == [moment(NOON + 60)], "a quarter of the queue"
    assert planned_for(store, "tock.ann") == [moment(NOON + 180)]
    for _ in range(2):
        taken = until(lambda: store.next_call(0.01))
        store.settle_call(taken, CallState.DONE, "", Answered(200, [], b"", "", 0, 0.0), settings)
    looked(schedules, store)
    assert planned_for(store, "many.ann") == [moment(NOON + 120)]
    assert store.planned()["many.ann"].missed == Missed(count=1, since=moment(NOON + 120))


def test_what_is_wrong_or_of_another_version_stops_nothing(
    store: Store, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(NOON + 1)
    schedules = Schedules(settings, store, clock)
    put(store, "bad", "@every 5m")
    put(store, "lost", "@hourly", "Mars/Olympus")
    put(store, "tick", "@hourly")
    store.redis.hset(keys.SCHEDULES, "tick.ann", b'{"next":"soon"}')
    store.redis.hset(keys.SCHEDULES, "gone.ann", b"\xff")
    for _ in range(3):
        assert looked(schedules, store) == 3599
    assert list(store.planned()) == ["tick.ann"]
    told = capsys.readouterr()
    assert (told.out + told.err).count("schedule_wrong") == 2, "each is told once"


def test_the_thread_wakes_for_news_and_for_what_is_due(store: Store, settings: Settings) -> None:
    clock, stop = Clock(NOON + 1), threading.Event()
    schedules = Schedules(settings, store, clock)
    thread = threading.Thread(target=schedules.follow, args=(stop,))
    thread.start()
    try:
        put(store, "tick", "@hourly")
        schedules.tell(store.functions())
        until(store.planned, why=lambda: "a new schedule is news")
        clock.now = NOON + 3599.7
        put(store, "tock", "@hourly")
        schedules.tell(store.functions())
        until(lambda: len(store.planned()) == 2)
        clock.now = NOON + 3600
        until(lambda: len(calls(store)) == 2, why=lambda: "it slept until then")
    finally:
        stop.set()
        schedules.tell({})
        thread.join(10)
    assert not thread.is_alive()


def test_ten_thousand_functions_without_a_schedule_cost_nothing(settings: Settings) -> None:
    """Nothing is asked of the store for them: this one does not answer."""
    spec = FunctionSpec(name="f", namespace="ann", artifact="a", annotations={"topic": "orders"})
    record = FunctionRecord(spec=spec, release="r1", replicas=1, created_at="x")
    schedules = Schedules(settings, Store(None))  # type: ignore[arg-type]  # nobody asks it
    schedules.tell({f"f{number}.ann": record for number in range(10_000)})
    schedules.tell({f"f{number}.ann": record for number in range(10_000)})


@contextmanager
def killed_at_random(url: str, clock: Path, dice: random.Random) -> Iterator[list[int]]:
    """Two controllers' schedules, of which now one, now the other is killed and started anew;
    yields a list with an entry a kill."""
    kills: list[int] = []
    over = threading.Event()

    def start() -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "tests.integration.schedulers", url, str(clock)]
        return subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.DEVNULL)

    def kill() -> None:
        while not over.wait(dice.uniform(0.0, 0.7)):
            number = dice.randrange(2)
            running[number].kill()
            kills.append(running[number].wait())
            running[number] = start()

    running = [start(), start()]
    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield kills
    finally:
        over.set()
        thread.join()
        for process in running:
            process.kill()
            process.wait()


def test_killed_controllers_run_each_time_once(valkey: str, store: Store, short_tmp: Path) -> None:
    """The clock goes on once all of a time's runs were made: whatever is made twice or lost shows,
    and how quick the machine is does not."""
    clock = short_tmp / "clock"
    clock.write_text(str(NOON + 1))
    lines = {"a": "* * * * *", "b": "*/2 * * * *", "c": "* * * * *"}
    for name, line in lines.items():
        put(store, name, line)
    expected: dict[str, list[str]] = {name: [] for name in lines}

    def made() -> bool:
        return all(len(planned_for(store, f"{n}.ann")) >= len(expected[n]) for n in lines)

    with killed_at_random(valkey, clock, random.Random(7)) as kills:
        until(lambda: len(store.planned()) == len(lines), 20)
        minute = 0
        while len(kills) < 12 or minute < 60:
            minute += 1
            at = NOON + 60 * minute
            for name in lines:
                if name != "b" or minute % 2 == 0:
                    expected[name].append(moment(at))
            (short_tmp / "new").write_text(str(at + 0.5))
            (short_tmp / "new").rename(clock)
            until(made, 20)
    found = {name: planned_for(store, f"{name}.ann") for name in lines}
    assert found == expected
    assert all(each.missed is None for each in store.planned().values())
    assert len({call.id for call in calls(store)}) == sum(map(len, expected.values()))
    for function, planned in store.planned().items():
        last = [call for call in calls(store) if call.name == function][-1]
        assert planned.last
        assert planned.last.call_id == last.id

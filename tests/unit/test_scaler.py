"""What is decided from what was measured, on a clock that the tests turn."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import scaling
from core.models import FunctionRecord, FunctionSpec
from core.scaling import IDLE, MAX, MIN, TARGET, TYPE, WINDOW, ZERO
from runtime.scaler import LOOK_EVERY, History

GROWS = {TARGET: "10", MAX: "8", WINDOW: "30s"}
START = 1000.0


class World:
    """One function, its load, and a scaler that looks at it."""

    def __init__(self, **labels: str) -> None:
        spec = FunctionSpec(name="f", namespace="ann", artifact="bundle:sha256:0", labels=labels)
        record = FunctionRecord(spec=spec, release="r1", replicas=1, created_at="")
        self.now = START
        self.rule = scaling.rule(labels)
        self.history = History(record, self.rule, since=self.now, called=self.now)
        self.requests = self.refused = 0.0
        self.told: list[int] = []
        """Replicas after each look."""

    @property
    def replicas(self) -> int:
        return self.history.record.replicas

    def set(self, replicas: int) -> None:
        record = FunctionRecord(
            spec=self.history.record.spec, release="r1", replicas=replicas, created_at=""
        )
        self.history.follow(record, self.rule, self.now)

    def run(
        self,
        seconds: float,
        *,
        rps: float = 0,
        under_way: Callable[[float], int] = lambda _: 0,
        cpu: float = 0,
        refused: float = 0,
    ) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += LOOK_EVERY
            self.requests += rps * LOOK_EVERY
            self.refused += refused * LOOK_EVERY
            counts = int(self.requests), int(self.refused)
            self.history.see(self.now, *counts, under_way(self.now), cpu)
            if (to := self.history.decide(self.now)) != self.replicas:
                self.set(to)
            self.told.append(self.replicas)


@pytest.mark.parametrize(
    ("kind", "load"),
    [
        ("rps", {"rps": 26}),
        ("capacity", {"under_way": lambda _: 26}),
        ("cpu", {"cpu": 26}),
    ],
)
def test_there_are_as_many_as_the_load_asks_for(kind: str, load: dict[str, float]) -> None:
    world = World(**GROWS, **{TYPE: kind})
    world.run(2.5, **load)  # type: ignore[arg-type]
    assert world.replicas == 3, "26, and 9 for each"


def test_a_burst_is_met_at_once_and_its_end_waited_for() -> None:
    world = World(**GROWS)
    world.run(20, under_way=lambda _: 1)
    world.run(1.5, under_way=lambda _: 70)
    assert world.replicas == 8, "no step by step, and never above the most"
    world.run(28, under_way=lambda _: 1)
    assert world.replicas == 8
    world.run(5, under_way=lambda _: 1)
    assert world.replicas == 1


def test_what_is_refused_is_load_too() -> None:
    """Requests under way are never more than all replicas take: they tell of no burst."""
    world = World(**GROWS)
    world.run(5, under_way=lambda _: 1)
    world.run(1.75, under_way=lambda _: 8, refused=100)
    assert world.replicas == 8, "twice as many, and again"
    world.run(100, under_way=lambda _: 55)
    assert world.replicas == 7
    world.run(40, rps=50, under_way=lambda _: 1)
    assert world.replicas == 1


def test_dips_within_the_window_end_nothing() -> None:
    world = World(**GROWS)
    world.run(5, under_way=lambda _: 35)
    world.run(300, under_way=lambda now: 35 if now % 20 < 5 else 0)
    assert set(world.told[40:]) == {4}


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 90), st.floats(0.0, 0.3), st.integers())
def test_a_steady_load_moves_nothing_once_it_is_met(load: int, noise: float, seed: int) -> None:
    random = Random(seed)

    def jitter(_: float) -> int:
        return round(load * (1 + noise * (2 * random.random() - 1)))

    world = World(**GROWS)
    world.run(60, under_way=jitter)
    world.told.clear()
    world.run(120, under_way=jitter)
    steps = sum(a != b for a, b in pairwise(world.told))
    assert steps <= 1, world.told
    assert all(1 <= each <= 8 for each in world.told)


def test_what_was_set_by_hand_holds_for_a_window() -> None:
    world = World(**GROWS)
    world.run(60, under_way=lambda _: 1)
    world.set(5)
    world.run(29, under_way=lambda _: 1)
    assert world.replicas == 5
    world.run(3, under_way=lambda _: 1)
    assert world.replicas == 1


def test_a_load_of_another_kind_is_measured_anew() -> None:
    world = World(**{**GROWS, TYPE: "rps"})
    world.run(60, rps=9)
    world.requests += 10**6
    world.run(60, rps=9)
    world.rule = scaling.rule({**GROWS, TYPE: "capacity"})
    world.set(1)
    world.run(60, under_way=lambda _: 9)
    assert max(world.told[-200:]) == 1, "requests so far are no requests under way"


def test_a_new_rule_ends_nothing_before_its_window() -> None:
    world = World(**{**GROWS, TYPE: "capacity"})
    world.run(60, under_way=lambda _: 60)
    assert world.replicas == 7
    world.rule = scaling.rule({**GROWS, TYPE: "capacity", TARGET: "20"})
    world.set(7)
    world.told.clear()
    world.run(29)
    assert set(world.told) == {7}
    world.run(5)
    assert world.replicas == 1


def test_without_a_label_that_says_so_load_changes_nothing() -> None:
    world = World(**{MIN: "2"})
    world.run(60, under_way=lambda _: 500)
    assert world.replicas == 1


def test_it_falls_asleep_when_nobody_calls() -> None:
    world = World(**{ZERO: "true", IDLE: "10s"})
    world.run(9)
    assert world.replicas == 1
    world.run(1, rps=4)
    world.run(9)
    assert world.replicas == 1
    world.run(60, under_way=lambda _: 1)
    assert world.replicas == 1, "one request that lasts"
    world.run(11)
    assert world.replicas == 0
    world.run(60, rps=4)
    assert world.replicas == 0, "to wake it is a caller's"
    world.set(1)
    world.run(9)
    assert world.replicas == 1, "its time begins anew"


def test_it_never_sleeps_unless_it_says_so() -> None:
    world = World(**{IDLE: "1s"})
    world.run(100)
    assert world.replicas == 1


def test_a_new_revision_is_awake_for_its_time() -> None:
    world = World(**{ZERO: "true", IDLE: "10s"})
    world.run(9)
    spec = FunctionSpec(
        name="f",
        namespace="ann",
        artifact="bundle:sha256:1",
        labels=world.history.record.spec.labels,
    )
    record = FunctionRecord(spec=spec, release="r2", replicas=1, created_at="")
    world.history.follow(record, world.rule, world.now)
    world.run(9)
    assert world.replicas == 1

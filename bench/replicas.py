"""How many replicas a function has while a load runs, and how those fare who are that load."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

from bench.figures import percentile
from bench.harness import BenchError, Platform
from bench.openloop import Measured
from bench.repository import OWNER

EVERY = 0.25
"""Seconds between two looks."""


@dataclass(frozen=True)
class Look:
    """What the API told."""

    at: float
    """Seconds from the load's beginning."""
    desired: int
    available: int


@dataclass(frozen=True)
class Row:
    """One look, and the second before it."""

    seconds: float
    offered: int
    """Requests that were due."""
    desired: int
    available: int
    p50: float | None
    """Milliseconds, of what was answered; None: nothing was."""
    p95: float | None
    failed: int
    """Of those that were due."""


@dataclass
class Watcher:
    """Asks the API over and over."""

    platform: Platform
    name: str
    _seen: list[Look] = field(default_factory=list)
    """By the clock of this machine, still."""

    @contextmanager
    def looking(self) -> Iterator[None]:
        ended = threading.Event()
        failed: list[BaseException] = []

        def follow() -> None:
            try:
                while not ended.wait(EVERY - time.monotonic() % EVERY):
                    told = self.platform.api(f"/system/function/{self.name}?namespace={OWNER}")
                    available = told.get("availableReplicas", 0)
                    self._seen.append(Look(time.monotonic(), told["replicas"], available))
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=follow)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        if failed:
            raise BenchError(f"the API did not tell of {self.name}: {failed[0]}") from failed[0]

    def looks(self, begun: float) -> list[Look]:
        """All since the load began."""
        looks = [Look(each.at - begun, each.desired, each.available) for each in self._seen]
        return [each for each in looks if each.at >= 0]


def rows(looks: Iterable[Look], load: Measured) -> list[Row]:
    """Each look, with what the load saw in the second before it."""
    dues = sorted(due for due, _ in (*load.answered, *load.failed))
    bad = sorted(due for due, _ in load.failed)
    answered = sorted((due + took, took * 1000) for due, took in load.answered)
    ends = [end for end, _ in answered]
    found = []
    for look in looks:
        begins = look.at - 1
        span = slice(bisect_right(ends, begins), bisect_right(ends, look.at))
        took = [each for _, each in answered[span]]
        found.append(
            Row(
                seconds=round(look.at, 3),
                offered=bisect_right(dues, look.at) - bisect_right(dues, begins),
                desired=look.desired,
                available=look.available,
                p50=round(percentile(took, 0.5), 2) if took else None,
                p95=round(percentile(took, 0.95), 2) if took else None,
                failed=bisect_right(bad, look.at) - bisect_right(bad, begins),
            )
        )
    return found


def p95(load: Measured, begins: float, ends: float) -> float:
    """Milliseconds, of what was due in between and answered.

    Raises:
        BenchError: that is too little.
    """
    took = [each * 1000 for due, each in load.answered if begins <= due < ends]
    if len(took) < 20:
        raise BenchError(f"{len(took)} answers are too few for a p95")
    return percentile(took, 0.95)


def within(looks: Sequence[Look], begins: float, ends: float) -> list[Look]:
    at = [each.at for each in looks]
    return list(looks[bisect_left(at, begins) : bisect_left(at, ends)])


def reached(looks: Sequence[Look], number: Callable[[Look], int]) -> float:
    """When the number came to be, to stay, what it is in the last look.

    Raises:
        BenchError: it never was another one.
    """
    others = [place for place, each in enumerate(looks) if number(each) != number(looks[-1])]
    if not others:
        raise BenchError(f"the load moved nothing: {number(looks[-1])} replicas all the time")
    return looks[others[-1] + 1].at


def changes(looks: Sequence[Look]) -> int:
    """How often another number was desired."""
    return sum(before.desired != after.desired for before, after in pairwise(looks))

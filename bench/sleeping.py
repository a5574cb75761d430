"""Functions that are put to sleep, and who wakes them: what the benches of sleeping share."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field

from bench import containers, elsewhere, harness
from bench.figures import Aim, Figure, percentile
from bench.harness import BenchError, Platform
from bench.repository import OWNER

MOST = 100
"""Wakes that are measured of each kind."""
CALLERS = 100
SETTLES = 0.25
"""Seconds that a function has slept before it is called: what ends it is over."""
_LOOK = 0.05
TEXT = "awake"
HANDLER = f"""\
def handle(event, context):
    return {TEXT!r}
"""


@dataclass
class Wakes:
    """Seconds from just before a caller connects to the last byte of the answer."""

    ours: list[float] = field(default_factory=list)
    by_hand: list[float] = field(default_factory=list)
    """A start by hand to the first 200, right after each."""

    def figures(self, what: str, reference: str, p50: Aim, p99: Aim | None) -> list[Figure]:
        """In milliseconds, each with what is aimed at."""
        hand = [each * 1000 for each in self.by_hand]
        ours = [each * 1000 for each in self.ours]
        parts = {"unit": "ms", "reference": reference}
        return [
            Figure(name=f"{what}, p50", samples=ours, reference_samples=hand, aim=p50, **parts),
            Figure(
                name=f"{what}, p99",
                samples=[percentile(ours, 0.99)],
                reference_samples=[statistics.median(hand)],
                aim=p99,
                **parts,
            ),
        ]


def wakes(
    platform: Platform,
    name: str,
    count: int,
    by_hand: Callable[[Executor], float],
    *,
    ended: bool = False,
) -> Wakes:
    """Wakes ``name`` so many times after a first one, each beside a start by hand. ``by_hand`` is
    given who asks: on a machine of its own, as it were. ``ended``: not even paused."""
    seen = Wakes()
    with ThreadPoolExecutor(1, initializer=elsewhere.ahead) as caller:
        for _ in range(count + 1):
            put_to_sleep(platform, [name], ended=ended)
            time.sleep(SETTLES)
            seen.ours.append(caller.submit(call, platform.url, path(name)).result())
            seen.by_hand.append(by_hand(caller))
    return Wakes(seen.ours[1:], seen.by_hand[1:])


def crowd(url: str, path: str) -> float:
    """``CALLERS`` callers at once, each on a connection of its own: seconds until the last of them
    has its answer, which all have to get."""
    begun: list[float] = []
    together = threading.Barrier(CALLERS, action=lambda: begun.append(time.monotonic()))

    def one() -> float:
        together.wait(60)
        call(url, path)
        return time.monotonic()

    with ThreadPoolExecutor(CALLERS, initializer=elsewhere.ahead) as callers:
        ended = [each.result() for each in [callers.submit(one) for _ in range(CALLERS)]]
    return max(ended) - begun[0]


def call(url: str, path: str) -> float:
    """Seconds of one call on a fresh connection.

    Raises:
        BenchError: another answer than the function's.
    """
    begun = time.perf_counter()
    status, body = harness.get(url, path, timeout=60)
    took = time.perf_counter() - begun
    if (status, body) != (200, TEXT.encode()):
        raise BenchError(f"{path} answered {status}: {body[:300]!r}")
    return took


def first_answer(caller: Executor, url: str) -> float:
    """When something that was started by hand answered (monotonic)."""
    return caller.submit(harness.await_answer, url, "/", TEXT).result()


def path(name: str) -> str:
    return f"/function/{name}.{OWNER}"


def put_to_sleep(
    platform: Platform, names: Sequence[str], *, ended: bool = False, timeout: float = 120
) -> None:
    """Scales them to zero, and waits until the API tells so and none of them runs; ``ended``: nor
    is paused."""
    for name in names:
        platform.post(
            f"/system/scale-function/{name}",
            {"serviceName": name, "namespace": OWNER, "replicas": 0},
        )
    deadline = time.monotonic() + timeout
    while awake := _awake(platform, names, paused=ended):
        if time.monotonic() > deadline:
            raise BenchError(f"these did not fall asleep in {timeout:g} s: {', '.join(awake)}")
        time.sleep(_LOOK)


def _awake(platform: Platform, names: Sequence[str], *, paused: bool) -> list[str]:
    """What the API calls awake, or, where nothing is, what runs all the same."""
    told = {
        each["name"]: (each["replicas"], each.get("availableReplicas", 0))
        for each in platform.api(f"/system/functions?namespace={OWNER}")
    }
    begins = tuple(f"{name}.{OWNER}-" for name in names)
    return [name for name in names if told[name] != (0, 0)] or [
        each for each in running(platform, paused=paused) if each.startswith(begins)
    ]


def running(platform: Platform, *, paused: bool = False) -> list[str]:
    """Ids of all replicas that are not gone, nor paused unless those count."""
    if platform.settings.runtime == "process":
        return [each.name for each in platform.settings.instances.iterdir()]
    return [
        each["Names"][0].removeprefix("/")
        for each in containers.of_functions(platform.settings)
        if paused or each["State"] != "paused"
    ]

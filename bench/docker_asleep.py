"""The same as asleep.py on Docker, where a function that sleeps is paused first, and later removed.

The reference is `docker start` of a stopped container of the same image, made once by `docker
create`, until its first 200.
"""

from __future__ import annotations

import time
from concurrent.futures import Executor

from bench import containers, harness, sleeping
from bench.figures import Figure, Result, most
from bench.repository import Repository

FUNCTION = "plain"
WAYS = (
    ("paused", {"SLIPWAY_PAUSE": "1h"}, most(60)),
    ("removed", {"SLIPWAY_PAUSE": "0s"}, most(1000)),
)
"""How it sleeps, the setting that makes it, and what is aimed at, in milliseconds."""


def run(repeat: int) -> Result:
    """100 wakes each way where ``repeat`` ≥ 10; fewer rounds measure fewer of them."""
    count = min(sleeping.MOST, 10 * repeat)
    figures: list[Figure] = []
    for way, env, aim in WAYS:
        seen = _wakes(way, env, count)
        figures += seen.figures(f"asleep, {way}", "docker start of a stopped one, p50", aim, None)
    return Result(
        figures=figures,
        notes=[
            f"{count} wakes each way, each beside a start by hand; a call counts from just before "
            "it connects to the last byte. Who calls runs at once, as if on another machine."
        ],
    )


def _wakes(way: str, env: dict[str, str], count: int) -> sleeping.Wakes:
    with harness.scratch() as folder, containers.running(folder, env) as platform:
        repository = Repository(folder, platform, "asleep")
        repository.write_stack([FUNCTION])
        repository.write_code(FUNCTION, sleeping.HANDLER)
        repository.commit()
        repository.finish(repository.push())
        (running,) = containers.of_functions(platform.settings)
        hand = containers.Container(folder / "by-hand", platform.settings)

        def by_hand(caller: Executor) -> float:
            begun = time.monotonic()
            try:
                hand.start_again()
                return sleeping.first_answer(caller, hand.url) - begun
            finally:
                hand.stop()

        try:
            hand.create(running["ImageID"])
            return sleeping.wakes(platform, FUNCTION, count, by_hand, ended=way == "removed")
        finally:
            hand.remove()

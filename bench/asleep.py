"""From zero: a function that sleeps is called, and answers.

It is put to sleep, so that no process of it is left; then one caller connects, and is timed until
the last byte. The reference is the same function started by hand, `python3 index.py`, until its
first 200. And a hundred callers at once, beside the same hundred once it is awake.
"""

from __future__ import annotations

import time
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from bench import byhand, harness, sleeping
from bench.figures import Aim, Figure, Result, most
from bench.harness import Platform
from bench.repository import Repository

CROWDS = 5
"""At most."""


@dataclass(frozen=True)
class Kind:
    """One function, and what is aimed at."""

    name: str
    about: str
    imports: str
    packages: tuple[str, ...]
    p50: Aim
    p99: Aim | None

    @property
    def code(self) -> str:
        return f"{self.imports}\n\n\n{sleeping.HANDLER}"


KINDS = (
    Kind("plain", "standard library", "import json\nimport re", (), most(20), most(60)),
    Kind("fetch", "imports requests", "import requests", ("requests",), most(60), None),
)


def run(repeat: int) -> Result:
    """100 wakes of each kind where ``repeat`` ≥ 10; fewer rounds measure fewer of them."""
    count = min(sleeping.MOST, 10 * repeat)
    figures = []
    with harness.scratch() as folder, harness.running(folder) as platform:
        repository = Repository(folder, platform, "asleep")
        repository.write_stack([kind.name for kind in KINDS])
        for kind in KINDS:
            repository.write_code(kind.name, kind.code)
            for package in kind.packages:
                repository.require(kind.name, package)
        repository.commit()
        repository.finish(repository.push())
        for kind in KINDS:
            seen = _wakes(folder, platform, kind, count)
            figures += seen.figures(
                f"asleep, {kind.about}", "start by hand, p50", kind.p50, kind.p99
            )
        crowds, awake = _crowds(platform, KINDS[0].name, min(repeat, CROWDS))
    figures.append(
        Figure(
            name=f"{sleeping.CALLERS} callers at once, until the last is answered",
            unit="ms",
            samples=[each * 1000 for each in crowds],
            reference="the same, once it is awake",
            reference_samples=[each * 1000 for each in awake],
        )
    )
    return Result(
        figures=figures,
        notes=[
            f"{count} wakes of each kind, each beside a start by hand; a call counts from just "
            "before it connects to the last byte. Who calls runs at once, as if on another "
            "machine. requests is of the version that the installation has, and so in a warm "
            "parent; any other one is imported as the function wakes."
        ],
    )


def _wakes(folder: Path, platform: Platform, kind: Kind, count: int) -> sleeping.Wakes:
    server = byhand.Server(
        folder / f"by-hand-{kind.name}", harness.clean_environment(folder / "home")
    )
    server.write_code(kind.code, kind.packages)
    server.install()

    def by_hand(caller: Executor) -> float:
        begun = time.monotonic()
        try:
            server.start()
            return sleeping.first_answer(caller, server.url) - begun
        finally:
            server.stop()

    return sleeping.wakes(platform, kind.name, count, by_hand)


def _crowds(platform: Platform, name: str, count: int) -> tuple[list[float], list[float]]:
    """Seconds of a hundred callers of one that sleeps, and of one that is awake."""
    asleep, awake = [], []
    for _ in range(count):
        sleeping.put_to_sleep(platform, [name])
        time.sleep(sleeping.SETTLES)
        asleep.append(sleeping.crowd(platform.url, sleeping.path(name)))
        awake.append(sleeping.crowd(platform.url, sleeping.path(name)))
    return asleep, awake

"""What a hundred functions hold in memory awake and asleep, each by itself as processes.

Counted is what the platform has for functions: all processes in the control groups of functions,
whatever they are there for, and bubblewrap outside of each (PSS: shared pages count by how many
share them). The reference is one such function started by hand, beside those that are awake.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from bench import byhand, census, harness, processes, sleeping
from bench.figures import Figure, Result
from bench.harness import BenchError, Platform
from bench.repository import Repository

COUNT = 100
NAMES = [f"f{number:03}" for number in range(COUNT)]
ROUNDS = 2
"""At most."""
SETTLES = 10.0
"""Seconds without a request before memory is read."""


def run(repeat: int) -> Result:
    """Wakes all and puts them to sleep again, at most ``ROUNDS`` times."""
    awake: list[float] = []
    asleep: list[float] = []
    by_hand: list[float] = []
    with harness.scratch() as folder, harness.running(folder) as platform:
        push(folder, platform)
        server = byhand.Server(folder / "by-hand", harness.clean_environment(folder / "home"))
        server.write_code(sleeping.HANDLER)
        server.install()
        for _ in range(min(repeat, ROUNDS)):
            wake(platform)
            try:
                server.start()
                harness.await_answer(server.url, "/", sleeping.TEXT)
                time.sleep(SETTLES)
                by_hand.append(server.memory() / 2**20)
            finally:
                server.stop()
            running = census.function_processes(platform)
            if len(running) < COUNT:
                raise BenchError(f"{len(running)} processes were found of {COUNT} functions")
            awake.append(_megabytes(running))
            sleeping.put_to_sleep(platform, NAMES)
            time.sleep(SETTLES)
            left = census.function_processes(platform)
            asleep.append(_megabytes(left))
    return Result(
        figures=[figure("awake", awake, by_hand), figure("asleep", asleep, by_hand)],
        notes=[
            f"Processes: {len(running)} of {COUNT} awake, bubblewrap's among them, {len(left)} of "
            f"{COUNT} asleep. One by hand is started beside those that are awake."
        ],
    )


def push(folder: Path, platform: Platform) -> None:
    repository = Repository(folder, platform, "sleepers")
    repository.write_stack(NAMES)
    for name in NAMES:
        repository.write_code(name, f"# No other is the same: {name}\n{sleeping.HANDLER}")
    repository.commit()
    repository.finish(repository.push(), timeout=1200)


def wake(platform: Platform) -> None:
    for name in NAMES:
        sleeping.call(platform.url, sleeping.path(name))


def figure(
    how: str, samples: list[float], by_hand: list[float], reference: str = "one by hand"
) -> Figure:
    """Of one function, in MB."""
    return Figure(
        name=f"memory of a function, {COUNT} {how}",
        unit="MB",
        samples=samples,
        reference=reference,
        reference_samples=by_hand,
    )


def _megabytes(pids: Sequence[int]) -> float:
    """Of each function, in the middle."""
    return sum(map(processes.pss, pids)) / COUNT / 2**20

"""Fifty functions in one repository, nothing built before.

Each round is a fresh platform: no dependencies, no bundles, no package cache. From `git push` until
all fifty have answered. The reference is the same one after another by hand, with a warm package
cache: copy, install, start, ask until it answers.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass

from bench import byhand, harness, processes
from bench.figures import Figure, Result
from bench.processes import PeakMemory
from bench.repository import Repository

COUNT = 50


@dataclass(frozen=True)
class Round:
    seconds: float
    peak: int
    """Bytes at most: of the workers, or of one install by hand."""
    idle: int = 0
    """Bytes of the workers before."""


def run(repeat: int) -> Result:
    """Measures both in turns, ``repeat`` rounds after one that warms up."""
    pushed: list[Round] = []
    by_hand: list[Round] = []
    for _ in range(repeat + 1):
        pushed.append(_push())
        by_hand.append(_by_hand())
    del pushed[0], by_hand[0]
    return Result(
        figures=[
            Figure(
                name=f"{COUNT} functions, push to all answer",
                unit="s",
                samples=[each.seconds for each in pushed],
                reference="one after another by hand",
                reference_samples=[each.seconds for each in by_hand],
            ),
            Figure(
                name="peak memory of the workers (PSS)",
                unit="MB",
                samples=[each.peak / 2**20 for each in pushed],
                reference="one install by hand",
                reference_samples=[each.peak / 2**20 for each in by_hand],
            ),
        ],
        notes=[f"The workers before the push: {pushed[0].idle / 2**20:.0f} MB."],
    )


def _push() -> Round:
    """A fresh platform, one push."""
    names = [f"f{number:02}" for number in range(COUNT)]
    with harness.scratch() as folder, harness.running(folder) as platform:
        repository = Repository(folder, platform, "fifty")
        repository.write_stack(names)
        for name in names:
            repository.write_function(name, name)
        repository.commit()
        workers = platform.parts()["workers"]
        with PeakMemory(workers) as before:
            time.sleep(1)
        with PeakMemory(workers) as memory:
            begun = time.monotonic()
            repository.finish(repository.push())
            for name in names:
                harness.await_answer(platform.url, repository.path(name), name)
            ended = time.monotonic()
    return Round(ended - begun, memory.peak, before.peak)


def _by_hand() -> Round:
    """Fifty servers, each with dependencies of its own out of a warm cache."""
    with harness.scratch() as folder, contextlib.ExitStack() as held:
        env = harness.clean_environment(folder / "home")
        for name in ("cold", "warm"):
            server = byhand.Server(folder / name, env)
            server.write(name)
            own = processes.pss(os.getpid())
            with PeakMemory([os.getpid()], every=0.02) as memory:
                server.install()
        begun = time.monotonic()
        for number in range(COUNT):
            server = byhand.Server(folder / f"f{number:02}", env)
            server.write(f"f{number:02}")
            server.install()
            held.callback(server.stop)
            server.start()
            harness.await_answer(server.url, "/", f"f{number:02}")
        ended = time.monotonic()
    return Round(ended - begun, memory.peak - own)

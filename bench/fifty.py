"""Fifty functions in one repository, nothing built before.

Each round is a fresh platform: no dependencies, no bundles, no package cache. From `git push` until
all fifty have answered. The reference is the same one after another by hand, with a warm package
cache: copy, install, start, ask until it answers.
"""

from __future__ import annotations

import contextlib
import os
import time

from bench import byhand, harness, processes
from bench.figures import Figure, Result
from bench.processes import PeakMemory
from bench.repository import Repository

COUNT = 50
ROUNDS = 3
"""At most: a round takes a minute, and its length varies little."""


def run(repeat: int) -> Result:
    """Measures both in turns; a round is long, so there are few, and none to warm up."""
    seconds, peaks, idle = [], [], []
    byhand_seconds, byhand_peaks = [], []
    for _ in range(min(repeat, ROUNDS)):
        took, peak, before = _pushed()
        seconds.append(took)
        peaks.append(peak / 2**20)
        idle.append(before / 2**20)
        took, peak = _by_hand()
        byhand_seconds.append(took)
        byhand_peaks.append(peak / 2**20)
    return Result(
        figures=[
            Figure(
                name=f"{COUNT} functions, push to all answer",
                unit="s",
                samples=seconds,
                reference="one after another by hand",
                reference_samples=byhand_seconds,
            ),
            Figure(
                name="peak memory of the workers (PSS)",
                unit="MB",
                samples=peaks,
                reference="one install by hand",
                reference_samples=byhand_peaks,
            ),
        ],
        notes=[f"The workers idle before the push: {idle[0]:.0f} MB."],
    )


def _pushed() -> tuple[float, int, int]:
    """Seconds, peak bytes of the workers, and their bytes before."""
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
    return ended - begun, memory.peak, before.peak


def _by_hand() -> tuple[float, int]:
    """Seconds, and peak bytes of one install with a warm cache."""
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
    return ended - begun, memory.peak - own

"""A hundred idle functions on Docker: what each weighs, and what watching over them costs.

Memory of a function is what its control group is charged less the page cache that could go, and
beside it the engine's shim. Processor time of the controller and of the engine (dockerd,
containerd) over half a minute in which nobody calls. One pass of a controller is timed in this
process, on the same store, engine and edge, while the platform's own stands still. The reference of
memory is one container of the same image by a bare `docker run`; of the engine's time the same
half minute without a function.
"""

from __future__ import annotations

import os
import signal
import statistics
import time

from bench import containers, harness, processes
from bench.figures import Figure, Result
from bench.harness import BenchError, Platform
from bench.repository import Repository
from core.signing import secret_file
from core.store import Store, connect
from runtime.controller import Controller
from runtime.edge import make_edge
from runtime.providers.registry import make_provider

COUNT = 100
WATCHED = 30.0
"""Seconds over which processor time is read."""
SETTLES = 15.0
PASSES = 20


def run(repeat: int) -> Result:
    """Measures once: ``repeat`` bounds the passes that are timed."""
    with harness.scratch() as folder, containers.running(folder) as platform:
        time.sleep(SETTLES)
        _, engine_before = _watch(platform)
        names = [f"f{number:03}" for number in range(COUNT)]
        repository = Repository(folder, platform, "idle")
        repository.write_stack(names)
        for name in names:
            repository.write_function(name, name)
        repository.commit()
        repository.finish(repository.push(), timeout=1200)
        for name in names:
            harness.await_answer(platform.url, repository.path(name), name)
        time.sleep(SETTLES)
        controller, engine = _watch(platform)
        memory = containers.memory_of_functions(platform.settings)
        if len(memory) != COUNT:
            raise BenchError(f"{len(memory)} containers were found where {COUNT} should run")
        shims = containers.shim_memory(
            each["Id"] for each in containers.of_functions(platform.settings)
        )
        passes = _passes(platform, min(max(repeat, 3), PASSES))
        with containers.by_hand(folder, platform.settings) as hand:
            time.sleep(SETTLES)
            bare = containers.memory_of(platform.settings, hand.name)
    return Result(
        figures=[
            Figure(
                name="memory of an idle function",
                unit="MB",
                samples=[each / 2**20 for each in memory],
                reference="a bare docker run",
                reference_samples=[bare / 2**20],
            ),
            Figure(
                name=f"processor time of the engine, {COUNT} idle",
                unit="% of a CPU",
                samples=[engine / WATCHED * 100],
                reference="without a function",
                reference_samples=[max(engine_before, 0.01) / WATCHED * 100],
            ),
            Figure(
                name=f"processor time of the controller, {COUNT} idle",
                unit="% of a CPU",
                samples=[controller / WATCHED * 100],
            ),
            Figure(name=f"one pass over {COUNT} functions", unit="ms", samples=passes),
        ],
        notes=[
            f"The shim that the engine keeps beside each function: "
            f"{statistics.median(shims) / 2**20:.1f} MB (PSS, median)."
        ],
    )


def _watch(platform: Platform) -> tuple[float, float]:
    """Processor seconds of the controller and of the engine over ``WATCHED`` seconds."""
    controller = platform.parts()["controller"]
    engine = containers.engine_processes(platform.settings)
    before = [sum(map(processes.cpu_seconds, each)) for each in (controller, engine)]
    time.sleep(WATCHED)
    after = [sum(map(processes.cpu_seconds, each)) for each in (controller, engine)]
    return after[0] - before[0], after[1] - before[1]


def _passes(platform: Platform, count: int) -> list[float]:
    """Milliseconds of ``count`` passes that find nothing to do."""
    settings = platform.settings
    theirs = platform.parts()["controller"]
    for pid in theirs:
        os.kill(pid, signal.SIGSTOP)
    try:
        key = secret_file(settings.state / "spec-key", length=32).encode()
        provider = make_provider(settings, key)
        store = Store(connect(settings.store_url))
        controller = Controller(settings, store, provider, make_edge(settings), None)
        controller._adopt()
        time.sleep(2.0)  # the first health looks
        took = []
        for _ in range(count + 3):
            begun = time.perf_counter()
            controller.pass_()
            took.append((time.perf_counter() - begun) * 1000)
            time.sleep(0.2)
        controller.replicas.close()
        provider.close()
    finally:
        for pid in theirs:
            os.kill(pid, signal.SIGCONT)
    return took[3:]

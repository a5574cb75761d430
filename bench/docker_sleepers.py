"""The same as sleepers.py on Docker, where functions that sleep are paused first and later removed.

Counted is what the control group of each container is charged, less the page cache that could go,
and the engine's shim beside it. The reference is one container of the same function by a bare
`docker run`, with its shim.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from bench import containers, harness, sleeping
from bench.figures import Result
from bench.harness import BenchError, Platform
from bench.sleepers import COUNT, NAMES, ROUNDS, SETTLES, figure, push, wake
from core.settings import Settings

PAUSE = 120.0
"""Seconds for which they stay paused: long enough to pause all of them and to look."""
_ENV = {"SLIPWAY_PAUSE": f"{PAUSE:g}s", "SLIPWAY_PAUSED_MEMORY": "16Gi"}


def run(repeat: int) -> Result:
    """Wakes all and puts them to sleep again, at most ``ROUNDS`` times."""
    awake: list[float] = []
    paused: list[float] = []
    removed: list[float] = []
    bare: list[float] = []
    with harness.scratch() as folder, containers.running(folder, _ENV) as platform:
        push(folder, platform)
        for _ in range(min(repeat, ROUNDS)):
            wake(platform)
            with containers.by_hand(folder, platform.settings) as hand:
                time.sleep(SETTLES)
                awake.append(_memory(platform, ["running"] * COUNT))
                bare.append(_weight(platform.settings, [hand.id()]))
            sleeping.put_to_sleep(platform, NAMES)
            time.sleep(SETTLES)
            paused.append(_memory(platform, ["paused"] * COUNT))
            sleeping.put_to_sleep(platform, NAMES, ended=True, timeout=PAUSE + 120)
            time.sleep(SETTLES)
            removed.append(_memory(platform, []))
    reference = "one by a bare docker run"
    return Result(
        figures=[
            figure("awake", awake, bare, reference),
            figure("paused", paused, bare, reference),
            figure("removed", removed, bare, reference),
        ]
    )


def _memory(platform: Platform, states: Sequence[str]) -> float:
    """Megabytes of each, in the middle, of containers that have to be in these states."""
    found: list[Any] = containers.of_functions(platform.settings)
    if [each["State"] for each in found] != list(states):
        raise BenchError(f"{len(found)} containers: {[each['State'] for each in found]}")
    return _weight(platform.settings, [each["Id"] for each in found]) / COUNT


def _weight(settings: Settings, ids: Sequence[str]) -> float:
    """Megabytes of containers and their shims together."""
    groups = sum(containers.memory_of(settings, id_) for id_ in ids)
    return (groups + sum(containers.shim_memory(ids))) / 2**20

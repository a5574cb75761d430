"""A function that grows with its load, sleeps and wakes, against as many replicas all the time.

    steady ── burst, ten times that at once ── ramp up and down ── idle ── one call that wakes it

Its handler sleeps for 100 ms, and a replica runs 32 at once: the burst is more than the replica of
the steady load can do. Requests come at fixed times, whether or not those before were answered, and
are timed from when they were due. What is desired and available is asked of the API four times a
second. Then the same load, but for the idle phase, goes to the same function with as many replicas
from the beginning as the burst needed.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import harness, openloop, plot, replicas, sleeping
from bench.figures import RESULTS, Figure, Result, most
from bench.harness import BenchError, Platform
from bench.openloop import Measured, Stretch
from bench.replicas import EVERY, Look, Row, Watcher
from bench.repository import Repository

RATE, BURST = 40.0, 400.0
"""Requests a second."""
SHARES = {"steady": 0.3, "burst": 0.2, "up": 0.15, "down": 0.15, "idle": 0.2}
"""Of the whole time."""
THREADS = 256
"""Requests that the client has under way, at most."""
_BY_ITSELF = {
    "type": "capacity",
    "target": "8",  # of which it fills 0.9: forty requests under way are six replicas
    "max": "6",
    "down.window": "10s",
    "zero": "true",
    "zero-duration": "5s",
}
"""Labels, by what comes after com.openfaas.scale."""
_CODE = f"""\
import time


def handle(event, context):
    time.sleep(0.1)
    return {sleeping.TEXT!r}
"""


@dataclass(frozen=True)
class Seen:
    """What one run saw; times are seconds from the load's beginning."""

    phases: Mapping[str, Stretch]
    looks: Sequence[Look]
    by_itself: Measured
    fixed: Measured
    """The same load on as many replicas all the time."""
    woken: float
    """Seconds of the call that woke it."""
    awake: float
    """Seconds of the next one."""


def run(minutes: int, max_inflight: int = 0) -> Result:
    """The load takes so many minutes, and without its idle phase most of them again.
    ``max_inflight``: requests of one replica beyond which it answers 429; 0: any number."""
    phases = _phases(minutes * 60)
    load = [stretch for name, stretch in phases.items() if name != "idle"]
    with harness.scratch() as folder, harness.running(folder) as platform:
        repository = Repository(folder, platform, "scaling")
        _deploy(repository, {"grows": _BY_ITSELF}, max_inflight)
        watcher = Watcher(platform, "grows")
        with watcher.looking():
            by_itself = _ask(platform, "grows", load)
            time.sleep(phases["idle"].seconds)
        looks = watcher.looks(by_itself.begun)
        if (looks[-1].desired, looks[-1].available) != (0, 0):
            raise BenchError(f"it was not asleep {phases['idle'].seconds:g} s after the last call")
        woken, awake = (sleeping.call(platform.url, sleeping.path("grows")) for _ in range(2))
        needed = str(replicas.within(looks, *_burst(phases))[-1].desired)
        as_many = {"min": needed, "max": needed}
        _deploy(repository, {"grows": _BY_ITSELF, "fixed": as_many}, max_inflight)
        fixed = _ask(platform, "fixed", load)
    seen = Seen(phases, looks, by_itself, fixed, woken, awake)
    rows = replicas.rows(looks, by_itself)
    _save(rows, RESULTS / "scaling-samples.json")
    plot.scaling(phases.values(), rows, replicas.rows(looks, fixed), RESULTS / "scaling.svg")
    return _told(seen, max_inflight)


def _phases(seconds: float) -> dict[str, Stretch]:
    rates = {"burst": (BURST, BURST), "up": (RATE, BURST), "down": (BURST, RATE), "idle": (0, 0)}
    return {
        name: Stretch(seconds * share, *rates.get(name, (RATE, RATE)))
        for name, share in SHARES.items()
    }


def _burst(phases: Mapping[str, Stretch]) -> tuple[float, float]:
    begins = phases["steady"].seconds
    return begins, begins + phases["burst"].seconds


def _deploy(
    repository: Repository, functions: Mapping[str, Mapping[str, str]], max_inflight: int
) -> None:
    """Pushes functions with these labels."""
    repository.write_stack(list(functions))
    stack = repository.folder / "stack.yml"
    text = stack.read_text()
    for name, labels in functions.items():
        repository.write_code(name, _CODE)
        told = {f"com.openfaas.scale.{label}": value for label, value in labels.items()}
        more = f"    labels: {json.dumps(told)}\n"
        if max_inflight:
            more += f"    environment: {{max_inflight: '{max_inflight}'}}\n"
        text = text.replace(f"  {name}:\n", f"  {name}:\n{more}")
    stack.write_text(text)
    repository.commit()
    repository.finish(repository.push())


def _ask(platform: Platform, name: str, load: Sequence[Stretch]) -> Measured:
    return openloop.follow(platform.url, sleeping.path(name), load, threads=THREADS)


def _save(rows: Sequence[Row], path: Path) -> None:
    """One line a look, so that two runs can be compared in git."""
    columns = [each.name for each in dataclasses.fields(Row)]
    lines = ",\n".join(json.dumps(dataclasses.astuple(each)) for each in rows)
    path.write_text(f'{{"columns": {json.dumps(columns)}, "rows": [\n{lines}\n]}}\n')


def _told(seen: Seen, max_inflight: int) -> Result:
    begins, ends = _burst(seen.phases)
    burst = replicas.within(seen.looks, begins - EVERY, ends)
    desired = replicas.reached(burst, lambda look: look.desired) - begins
    available = replicas.reached(burst, lambda look: look.available) - begins
    steady = replicas.within(seen.looks, 0, begins)
    failed = seen.by_itself.bad
    calm = replicas.p95(seen.by_itself, 0, begins)
    as_many = f"{burst[-1].desired} replicas all the time"
    figures = [
        Figure(
            name=f"burst, until {burst[-1].desired} replicas are desired",
            unit="s",
            samples=[desired],
            aim=most(2),
        ),
        Figure(
            name="burst, until they are available",
            unit="s",
            samples=[available],
            reference="until they are desired",
            reference_samples=[desired],
        ),
        Figure(
            name="changes of the number desired, steady",
            unit="",
            samples=[replicas.changes(steady)],
            aim=most(0),
        ),
        Figure(name="failed requests", unit="", samples=[len(failed)], aim=most(0)),
        Figure(
            name="p95 in the burst, once they are available",
            unit="ms",
            samples=[replicas.p95(seen.by_itself, begins + available, ends)],
            reference="steady",
            reference_samples=[calm],
        ),
        *(
            Figure(
                name=f"p95 {when}",
                unit="ms",
                samples=[replicas.p95(seen.by_itself, *span)],
                reference=as_many,
                reference_samples=[replicas.p95(seen.fixed, *span)],
            )
            for when, span in (
                ("steady", (0, begins)),
                ("in the whole burst", (begins, ends)),
                ("up and down", (ends, float("inf"))),
            )
        ),
        Figure(
            name="the call that wakes it",
            unit="ms",
            samples=[seen.woken * 1000],
            reference="the next one",
            reference_samples=[seen.awake * 1000],
        ),
    ]
    told = Counter(failed).most_common(3)
    lateness = max(seen.by_itself.late, seen.fixed.late)
    return Result(
        figures=figures,
        notes=[
            f"{len(seen.by_itself.answered) + len(failed):,} requests, "
            + ", ".join(f"{name} {each.seconds:g} s" for name, each in seen.phases.items())
            + f"; {RATE:g}/s steady, {BURST:g}/s in the burst. max_inflight: "
            f"{max_inflight or 'none'}. Looked at every {EVERY:g} s.",
            "Failed: "
            + ("; ".join(f"{what} ({count})" for what, count in told) or "none")
            + f"; of the {as_many} {len(seen.fixed.bad)}. The client itself began a request "
            f"{lateness * 1000:.1f} ms late at most.",
        ],
    )

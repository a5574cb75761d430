"""One edit in a repository of a hundred and fifty functions, against one in a repository of one.

Each has a platform of its own, both run all the time. The 150 are released once; then each round
changes one function of theirs and the one of the other, from `git push` to the first good answer of
the new code. That exactly one function is built each time is not measured but demanded. How long
the plan takes, which decides what is built, is what the workers' log says of that step.
"""

from __future__ import annotations

import time
from pathlib import Path

from bench import harness
from bench.figures import Figure, Result, most
from bench.harness import BenchError, Platform
from bench.push import Change, push_change, told
from bench.repository import OWNER, Repository

COUNT = 150
PLAN = 100
"""Milliseconds."""
RATIO = 1.3
_ENV = {"SLIPWAY_WATCH": "0s", "SLIPWAY_WARM": "0s"}
"""No push waits for a verdict, and nothing that was replaced goes on running beside the next."""
_OTHER = {"SLIPWAY_SUBNET": "10.110.0.0/16"}


def run(repeat: int) -> Result:
    """Measures ``repeat`` edits of each after one that warms up, in turns."""
    with (
        harness.scratch() as folder,
        harness.scratch() as other,
        harness.running(folder, _ENV) as large,
        harness.running(other, _ENV | _OTHER) as small,
    ):
        many, first = _released(folder, large, COUNT)
        one, _ = _released(other, small, 1)
        plans: list[tuple[float, float]] = []
        for number in range(repeat + 1):
            text = f"version {number}"
            for platform, change in ((large, many), (small, one)):
                push_change(platform, change, text)
                _demand_one_build(platform, change)
            plans.append((_planned(large), _planned(small)))
    return Result(
        figures=[
            Figure(
                name=f"push to first answer, one edit in {COUNT} functions",
                unit="s",
                samples=many.seconds[1:],
                reference="in a repository of one",
                reference_samples=one.seconds[1:],
                aim=most(RATIO, of="ratio"),
            ),
            Figure(
                name=f"the plan of {COUNT} functions",
                unit="ms",
                samples=[large_ for large_, _ in plans[1:]],
                reference="of one",
                reference_samples=[small_ for _, small_ in plans[1:]],
                aim=most(PLAN),
            ),
        ],
        notes=[
            f"The first release of the {COUNT}, until all answered: {first:.1f} s. Each edit "
            "built exactly one function.",
            told(many),
            told(one),
        ],
    )


def _released(folder: Path, platform: Platform, count: int) -> tuple[Change, float]:
    """A repository whose functions are all live, the first of them to be changed; and the seconds
    that took."""
    repository = Repository(folder, platform, f"of-{count}")
    names = [f"f{number:03}" for number in range(count)]
    repository.write_stack(names)
    for name in names:
        repository.write_function(name, name)
    repository.commit()
    begun = time.monotonic()
    repository.finish(repository.push(), timeout=1200)
    for name in names:
        harness.await_answer(platform.url, repository.path(name), name)
    return Change(repository, names[0], test=False), time.monotonic() - begun


def _demand_one_build(platform: Platform, change: Change) -> None:
    path = f"/system/releases?namespace={OWNER}&repository={change.repository.name}&limit=1"
    built = [row["name"] for row in platform.api(path)[0]["functions"] if row["build"] != "reused"]
    if built != [change.function]:
        raise BenchError(f"one edit of {change.function} built {built}")


def _planned(platform: Platform) -> float:
    """Milliseconds of the newest plan."""
    plans = [line for line in platform.log("workers") if line.get("step") == "plan"]
    if not plans:
        raise BenchError("the workers' log tells of no plan")
    return float(plans[-1]["seconds"]) * 1000

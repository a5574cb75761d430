"""A seed → what a run does: which change, who is killed, and at which step of the release."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from core.failpoints import STEPS

GOOD = ("edit", "config", "add", "drop", "twice", "cancel", "gone")
"""Changes of which one can go live; ``gone``: the deploy branch is deleted."""
BAD = ("bad-stack", "bad-build", "bad-test", "dies", "hangs")
"""In the order of the step that finds it; the last two never become healthy."""
PUSHES = GOOD + BAD
BACK = ("back", "back-one")
"""A rollback of the repository, or of one function."""
KINDS = (*PUSHES, "branch", *BACK, "worse")
"""``branch``: one that is not deployed; ``worse``: goes live, answers 500, and is taken back."""

_BUILT = ("edit", "add", "twice", "cancel", "bad-build", "bad-test", "dies", "hangs")
_STARTED = ("edit", "config", "add", "twice", "dies", "hangs", *BACK)
_LIVE = ("edit", "config", "add", "drop", "twice", "gone")
_REPLACING = ("edit", "config", "drop", "twice", "gone", *BACK)

_KINDS: dict[str, Sequence[str]] = {
    "push-stored": (*PUSHES, "branch"),
    **dict.fromkeys(("release-created", "turn-taken", "enqueued", "job-begun"), PUSHES),
    "checked-out": tuple(each for each in PUSHES if each != "gone"),
    "planned": tuple(each for each in PUSHES if each not in ("bad-stack", "gone")),
    "context-written": _BUILT,
    "assembled": tuple(each for each in _BUILT if each != "bad-build"),
    **dict.fromkeys(
        ("tested", "published", "artifact-saved"),
        tuple(each for each in _BUILT if each not in ("bad-build", "bad-test")),
    ),
    "failing": ("bad-stack", "bad-build", "bad-test"),
    **dict.fromkeys(
        ("handing-over", "artifacts-put", "handed-over"), (*_LIVE, "cancel", "dies", "hangs")
    ),
    "cancelled": ("cancel",),
    **dict.fromkeys(
        ("start-asked", "document-written", "container-created", "replica-started"), _STARTED
    ),
    "replica-healthy": ("edit", "config", "add", "twice", *BACK),
    "failing-start": ("dies", "hangs"),
    "switched": _LIVE,
    **dict.fromkeys(("routes-prepared", "routes-moved"), (*_LIVE, *BACK)),
    **dict.fromkeys(("routes-told", "receipt-written"), (*_LIVE, *BACK)),
    "live-said": _LIVE,
    **dict.fromkeys(("old-asked", "old-removed"), _REPLACING),
    **dict.fromkeys(("old-ended", "container-ended"), (*_REPLACING, "dies")),
    "cooled": ("edit", "config", "drop"),
    "watch-kept": ("edit", "config"),
    "given-back": ("worse",),
    **dict.fromkeys(("rollback-created", "rollback-switched", "rollback-done"), BACK),
}
"""Step → the kinds of change that get there."""

ONLY = {
    "process": {"document-written", "old-ended"},
    "docker": {"container-created", "container-ended"},
}
"""Steps of one runtime alone."""
WATCHED = ("cooled", "watch-kept", "given-back")
"""Steps where installations watch and keep warm; a part of the others happens there as well."""
_WATCHED_SHARE = 0.1

VICTIMS = ("horse", "worker", "workers", "controller", "gateway", "edge", "store")
"""The process of one build; who watches over it; the pool of those; the parts."""
HARD = ("supervisor", "everything")
"""After which `slipway up` has to be called again; functions outlive the first."""


@dataclass(frozen=True)
class Scenario:
    seed: int
    kind: str
    step: str
    victim: str
    watched: bool
    """Whether the installation watches what went live, and keeps warm what it replaced."""
    pause: float
    """Seconds from the kill until who stands at the step goes on, where that is another one."""

    def __str__(self) -> str:
        return f"{self.seed}: {self.kind}, {self.victim} killed at {self.step}"


def steps(runtime: str) -> list[str]:
    """Those that there are with this runtime, in their order."""
    others = set().union(*(names for name, names in ONLY.items() if name != runtime))
    return [step for step in STEPS if step not in others]


def scenario(seed: int, runtime: str = "process") -> Scenario:
    chance = random.Random(f"slipway {seed}")
    step = chance.choice(steps(runtime))
    part = STEPS[step].partition(":")[0].partition(",")[0]
    weights = {
        **dict.fromkeys(VICTIMS, 1.0),
        **dict.fromkeys(HARD, 0.6),
        "horse": 0.0,
        "worker": 0.0,
    }
    if part == "worker":
        weights |= {"horse": 3.0, "worker": 1.0, "workers": 2.0}
    if part in ("gateway", "controller"):
        weights[part] = 4.0
    victim = chance.choices(list(weights), list(weights.values()))[0]
    return Scenario(
        seed=seed,
        kind=chance.choice(_KINDS[step]),
        step=step,
        victim=victim,
        watched=step in WATCHED or chance.random() < _WATCHED_SHARE,
        pause=chance.choice([0.0, 0.05, 0.3, 1.0]),
    )


def sample(count: int, runtime: str = "process") -> Iterator[int]:
    """Seeds in which every step, every victim and every kind occurs, as far as so many can."""
    missing: set[str] = {*steps(runtime), *VICTIMS, *HARD, *KINDS}
    chosen: set[int] = set()
    for wanted in (3, 2, 1, 0):
        for seed in range(1, 2000):
            found = scenario(seed, runtime)
            new = missing & {found.step, found.victim, found.kind}
            if seed not in chosen and len(new) >= wanted and len(chosen) < count:
                chosen.add(seed)
                missing -= new
                yield seed

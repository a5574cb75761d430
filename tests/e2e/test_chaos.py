"""Thirty kills, of all victims and at nearly all steps; `make chaos` does a thousand."""

from __future__ import annotations

import pytest

from tests.chaos import report
from tests.chaos.campaign import campaign
from tests.chaos.run import Outcome
from tests.chaos.scenario import HARD, VICTIMS, sample, scenario, steps

pytestmark = [pytest.mark.root, pytest.mark.alone]

RUNS = 30
SEEDS = list(sample(RUNS))


def test_the_sample_has_every_victim_and_most_steps() -> None:
    found = [scenario(seed) for seed in SEEDS]
    assert len(set(SEEDS)) == RUNS
    assert {each.victim for each in found} == {*VICTIMS, *HARD}
    assert len({each.step for each in found}) >= 0.8 * len(steps("process"))


@pytest.mark.timeout(900)
def test_whoever_is_killed_wherever_all_comes_right() -> None:
    done: list[Outcome] = []
    campaign(SEEDS, "process", 2, done.append)
    wrong = [
        f"python -m tests.chaos --seed {each.seed}: {' | '.join(each.complaints)}"
        for each in done
        if each.complaints
    ]
    assert not wrong, "\n".join(wrong)
    assert {each.seed for each in done} == set(SEEDS)
    assert sum(each.reached for each in done) >= 0.9 * RUNS, report.table(done)

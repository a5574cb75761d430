"""The auditor of tests/chaos knows what may not be, and a seed always says the same."""

from __future__ import annotations

from dataclasses import replace

from core.failpoints import STEPS
from tests.chaos.history import BASE, Commit, History
from tests.chaos.scenario import _KINDS, KINDS, ONLY, scenario, steps


def test_a_seed_says_all_and_always_the_same() -> None:
    assert scenario(7) == scenario(7)
    found = [scenario(seed) for seed in range(1, 1001)]
    assert {each.step for each in found} == set(steps("process"))
    assert {each.kind for each in found} == set(KINDS)
    docker = {scenario(seed, "docker").step for seed in range(1, 1001)}
    assert docker == set(steps("docker")) == set(STEPS) - ONLY["process"]


def test_every_step_is_reached_by_some_kind_of_change() -> None:
    assert _KINDS.keys() == STEPS.keys()
    assert all(set(kinds) <= set(KINDS) and kinds for kinds in _KINDS.values())


def pushed(history: History, id_: str, kind: str = "edit") -> set[str]:
    return history.allowed(history.accept(replace(BASE, id=id_, kind=kind)))


def test_the_last_good_push_must_be_live_and_a_bad_one_must_not() -> None:
    history = History()
    assert pushed(history, "1") == {"live"}
    assert pushed(history, "2", "bad-test") == {"failed"}
    assert history.allowed(history.pushes[0]) == {"live", "replaced", "superseded"}
    assert pushed(history, "3") == {"live"}
    assert history.allowed(history.pushes[1]) == {"failed", "superseded"}


def test_what_users_asked_for_is_held_against_the_states() -> None:
    history = History()
    last = history.accept(replace(BASE, id="1"))
    last.cancelled = True
    assert history.allowed(last) == {"cancelled"}
    last.cancelled = None  # the answer got lost
    assert history.allowed(last) == {"live", "cancelled"}
    last.cancelled, last.left = False, True
    assert history.allowed(last) == {"rolled-back"}


def test_each_kind_of_change_is_a_change() -> None:
    for seed in range(1, 400):
        found = scenario(seed)
        if found.kind == "branch":
            continue
        changes = BASE.changed(found)
        assert changes
        for each in changes:
            assert each.functions != BASE.functions
        texts = [str(Commit(each.functions).files()) for each in changes]
        assert len(set(texts)) == len(texts)

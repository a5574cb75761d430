"""Heads of deployed branches at forges are found whatever became of their events: a real git server
that stands for the forge, a real gateway between."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from builder import forgeheads
from builder.forgeheads import ForgeHeads
from core import keys, queues
from core.models import State
from core.repositories import Repository, Request
from core.settings import Settings
from core.store import Store
from tests.e2e.forge import Forge, Project, serving


@pytest.fixture
def forge(short_tmp: Path) -> Iterator[Forge]:
    with serving(short_tmp / "forge") as there:
        yield there


@pytest.fixture
def project(forge: Forge) -> Project:
    return forge.repository("Alice/fns")


Sweep = Callable[..., ForgeHeads]


@pytest.fixture
def sweep(settings: Settings, store: Store, forge: Forge, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """A worker's sweep, its first turn taken, as after a start; each turn waits for its answers."""
    monkeypatch.setattr(forgeheads, "WAIT", 30.0)

    def turn(**given: Any) -> ForgeHeads:
        store.redis.delete(keys.lock("forge-heads"))
        here = replace(settings, github_url=forge.url, **({"sweep": 0.2} | given))
        made = ForgeHeads(here, store)
        made.run()
        return made

    return turn


HUB = Repository(
    namespace="alice",
    name="fns",
    source="github",
    full_name="Alice/fns",
    deploy_branch="master",
    public=True,
)


def commits(store: Store) -> list[str]:
    return [release.commit for release in store.releases("alice", "fns")]


def test_an_event_that_was_lost_is_found_at_the_forge(
    store: Store, project: Project, sweep: Sweep
) -> None:
    store.save_repository(HUB)
    old = project.commit({"x": "1"})
    sweep()
    assert commits(store) == [old]
    assert queues.waits_in_queue(store, store.releases("alice", "fns")[0].id, 1)
    sweep()
    assert commits(store) == [old], "it has a release"
    new = project.commit({"x": "2"})
    sweep()
    assert commits(store) == [new, old]


def test_a_head_that_failed_is_not_tried_for_ever(
    store: Store, project: Project, sweep: Sweep
) -> None:
    store.save_repository(HUB)
    release = store.create_release(HUB, project.commit({"x": "1"}), "master")
    store.move(release.id, [State.QUEUED], State.FAILED, "its own fault")
    sweep()
    assert len(commits(store)) == 1


def test_what_the_event_said_is_not_what_was_released(
    store: Store, project: Project, sweep: Sweep
) -> None:
    """The forge showed the old head as the build began, longer than it was asked again."""
    store.save_repository(HUB)
    old, new = project.commit({"x": "1"}), project.commit({"x": "2"})
    release = store.create_release(HUB, new, "master")
    store.move(release.id, [State.QUEUED], State.BUILDING)
    store.set_commit(release.id, old)
    sweep()
    assert commits(store) == [new, old]


def test_an_event_that_came_late_has_nothing_released_again(
    store: Store, project: Project, sweep: Callable[[], ForgeHeads]
) -> None:
    store.save_repository(HUB)
    old, new = project.commit({"x": "1"}), project.commit({"x": "2"})
    made = store.create_release(HUB, new, "master")
    store.move(made.id, [State.QUEUED], State.FAILED, "its own fault")
    late = store.create_release(HUB, old, "master")
    store.end_late(late.id, new, f"{new} is live already")
    assert store.head(HUB.key) == new
    sweep()
    assert commits(store) == [old, new]


def test_a_head_that_gave_way_to_the_admin_s_choice_stays_so(
    store: Store, project: Project, sweep: Callable[[], ForgeHeads]
) -> None:
    store.save_repository(HUB)
    old, new = project.commit({"x": "1"}), project.commit({"x": "2"})
    store.create_release(HUB, new, "master")
    store.create_release(HUB, old, "master", pinned=True)
    assert store.releases("alice", "fns")[1].state is State.SUPERSEDED
    sweep()
    assert commits(store) == [old, new]


def test_an_older_commit_that_the_admin_released_stays(
    store: Store, project: Project, sweep: Sweep
) -> None:
    store.save_repository(HUB)
    old, new = project.commit({"x": "1"}), project.commit({"x": "2"})
    for commit, pinned in ((new, False), (old, True)):
        release = store.create_release(HUB, commit, "master", again=True, pinned=pinned)
        store.move(release.id, [State.QUEUED], State.FAILED)
    sweep()
    assert commits(store) == [old, new]


def test_all_are_asked_again_and_again(
    store: Store, forge: Forge, project: Project, sweep: Sweep
) -> None:
    store.save_repository(HUB)
    other = msgspec.structs.replace(HUB, name="other")
    store.save_repository(other)
    first = project.commit({"x": "1"})
    calm = sweep(sweep=600.0)
    assert commits(store) == [first]
    assert len(store.releases("alice", "other")) == 1
    before = len(forge.asked)
    calm.run()
    assert len(forge.asked) == before, "not before its time"
    mine = sweep()
    for number in (2, 3):
        until_released(mine, store, project.commit({"x": str(number)}))


def test_a_forge_that_hangs_holds_up_no_other(
    store: Store,
    project: Project,
    sweep: Sweep,
    short_tmp: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forgeheads, "WAIT", 0.1)
    monkeypatch.setattr(forgeheads, "TIMEOUT", 3.0)
    with serving(short_tmp / "tea") as tea:
        tea.slow = 60.0
        for number in range(20):
            at = {"name": f"site{number}", "full_name": f"Alice/site{number}"}
            store.save_repository(msgspec.structs.replace(HUB, source="gitea", **at))
        store.save_repository(HUB)
        first = project.commit({"x": "1"})
        mine = sweep(gitea_url=tea.url)
        for commit in (first, project.commit({"x": "2"})):
            until_released(mine, store, commit, seconds=6)
        assert tea.asked
        assert len(tea.asked) <= 12, "no more than a few at once"
        mine.settings = replace(mine.settings, sweep=0)
        mine.run()  # asks nothing more


def until_released(mine: ForgeHeads, store: Store, commit: str, seconds: float = 5) -> float:
    """Runs the sweep until the commit has a release; returns how long that took."""
    begun = time.monotonic()
    while commit not in commits(store):
        assert time.monotonic() - begun < seconds
        mine.run()
        time.sleep(0.05)
    return time.monotonic() - begun


def test_a_forge_that_is_away_is_asked_less_often(
    store: Store, forge: Forge, project: Project, sweep: Sweep
) -> None:
    store.save_repository(HUB)
    head = project.commit({"x": "1"})
    forge.away = True
    mine = sweep()
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        mine.run()
        time.sleep(0.02)
    assert 2 <= len(forge.asked) <= 6, "0.4, 0.8, 1.6 s between them; each asks once or twice"
    forge.away = False
    until_released(mine, store, head)


def show(project: Project, commit: str) -> None:
    argv = ["git", "update-ref", f"refs/heads/{project.branch}", commit]
    subprocess.run(argv, cwd=project.bare, check=True)


def test_a_server_that_lags_turns_nothing_back(
    store: Store,
    project: Project,
    sweep: Sweep,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forgeheads, "LAG", 1.0)
    store.save_repository(HUB)
    old, new = project.commit({"x": "1"}), project.commit({"x": "2"})
    mine = sweep()
    assert commits(store) == [new]
    show(project, old)
    end = time.monotonic() + 0.7
    while time.monotonic() < end:
        mine.run()
        time.sleep(0.02)
    assert commits(store) == [new], "it is in the history of what was released"
    show(project, new)
    time.sleep(0.4)
    mine.run()
    assert commits(store) == [new]
    show(project, old)
    took = until_released(mine, store, old)
    assert took > 0.9, "a forced push, which stays"


def test_a_forced_push_to_another_history_counts_at_once(
    store: Store, project: Project, sweep: Sweep
) -> None:
    store.save_repository(HUB)
    project.commit({"x": "1"})
    mine = sweep()
    argv = ["git", "commit", "--quiet", "--amend", "-m", "another", "--author=A <a@example.com>"]
    who = ("-c", "user.name=Ann", "-c", "user.email=ann@example.com")
    subprocess.run(["git", *who, *argv[1:]], cwd=project.work, check=True)
    push = ["git", "push", "--quiet", "--force", str(project.bare), f"HEAD:{project.branch}"]
    subprocess.run(push, cwd=project.work, check=True)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=project.work, check=True, capture_output=True, text=True
    ).stdout.strip()
    until_released(mine, store, head, seconds=3)


def test_what_is_gone_is_not_asked_for(
    store: Store, forge: Forge, project: Project, sweep: Sweep
) -> None:
    project.commit({"x": "1"})
    store.save_repository(msgspec.structs.replace(HUB, gone="it was deleted"))
    sweep()
    assert (forge.asked, commits(store)) == ([], [])


def test_requests_that_may_not_be_built_are_not_asked_for(
    store: Store, forge: Forge, project: Project, sweep: Sweep
) -> None:
    project.commit({"x": "1"})
    request = Request(number=5, commit="a" * 40, fork=True)
    at = {"parent": HUB.key, "deploy_branch": "refs/pull/5/head"}
    waiting = msgspec.structs.replace(HUB, namespace="alice--pr-5", request=request, **at)
    own = msgspec.structs.replace(request, fork=False)
    for each in (
        waiting,
        msgspec.structs.replace(waiting, namespace="alice--pr-6", request=own, gone="too old"),
    ):
        store.save_repository(each)
    sweep()
    assert forge.asked == []
    approved = msgspec.structs.replace(request, approved=request.commit)
    store.save_repository(msgspec.structs.replace(waiting, request=approved))
    sweep()
    assert forge.asked

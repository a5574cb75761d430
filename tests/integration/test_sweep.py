"""What nobody does although somebody should is found: against a real store and real git."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from builder import sweep as module
from builder.sweep import ATTEMPTS, Sweep
from core import keys, queues
from core.models import Repository, State
from core.settings import Settings
from core.store import Store

FNS = Repository(namespace="alice", name="fns", source="git", deploy_branch="main")


@pytest.fixture(autouse=True)
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE", 0.0)


def git(*argv: str, cwd: Path) -> str:
    env = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "GIT_CONFIG_NOSYSTEM": "1"}
    who = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    return subprocess.run(
        ["git", *who, *argv], cwd=cwd, env=env, check=True, capture_output=True, text=True
    ).stdout.strip()


def stored_push(settings: Settings) -> str:
    """A push that was stored although no release was made of it."""
    bare = settings.git_folder / "alice" / "fns.git"
    bare.mkdir(parents=True)
    git("init", "--bare", "-b", "main", cwd=bare)
    tree = git("mktree", cwd=bare)
    commit = git("commit-tree", tree, "-m", "x", cwd=bare)
    git("update-ref", "refs/heads/main", commit, cwd=bare)
    return commit


def turns(sweep: Sweep, times: int) -> None:
    for _ in range(times):
        sweep.run()


def test_a_release_whose_worker_died_is_queued_again(settings: Settings, store: Store) -> None:
    store.save_repository(FNS)
    release = store.create_release(FNS, "a" * 40, "main")
    queues.dispatch(store, FNS.key)
    store.move(release.id, [State.QUEUED], State.BUILDING)
    queues.builds(store).empty()  # the worker took the job, and is gone
    turns(Sweep(settings, store), 2)
    assert store.attempts(release.id) == 2
    assert queues.waits_in_queue(store, release.id, 2)


def test_a_release_that_is_being_built_is_left_alone(settings: Settings, store: Store) -> None:
    store.save_repository(FNS)
    release = store.create_release(FNS, "a" * 40, "main")
    queues.dispatch(store, FNS.key)
    queues.builds(store).empty()
    store.take(keys.lease(release.id), "worker", 5)
    turns(Sweep(settings, store), 3)
    assert store.attempts(release.id) == 1


def test_a_build_that_kills_its_workers_is_given_up(settings: Settings, store: Store) -> None:
    store.save_repository(FNS)
    release = store.create_release(FNS, "a" * 40, "main")
    sweep = Sweep(settings, store)
    queues.dispatch(store, FNS.key)
    for _ in range(ATTEMPTS):
        queues.builds(store).empty()
        turns(sweep, 2)
    done = store.release(release.id)
    assert done.state is State.FAILED
    assert "worker died 3 times" in done.reason


def test_a_crash_between_release_and_queue_is_repaired(settings: Settings, store: Store) -> None:
    store.save_repository(FNS)
    release = store.create_release(FNS, "a" * 40, "main")  # never dispatched
    Sweep(settings, store).run()
    assert queues.waits_in_queue(store, release.id, 1)
    other = Repository(namespace="bob", name="fns", source="git", deploy_branch="main")
    store.save_repository(other)
    second = store.create_release(other, "b" * 40, "main")
    store.take_turn(other.key)  # and died before the job was enqueued
    sweep = Sweep(settings, store)
    store.redis.delete(keys.lock("sweep"))
    turns(sweep, 2)
    assert queues.waits_in_queue(store, second.id, 1)


def test_a_stored_push_without_a_release_gets_one(settings: Settings, store: Store) -> None:
    commit = stored_push(settings)
    store.save_repository(FNS)
    Sweep(settings, store).run()
    newest = store.newest_release(FNS.key)
    assert newest is not None
    assert newest.commit == commit
    store.redis.delete(keys.lock("sweep"))
    Sweep(settings, store).run()
    assert len(store.releases("alice", "fns")) == 1


def test_one_worker_sweeps_at_a_time(settings: Settings, store: Store) -> None:
    store.save_repository(FNS)
    first, second = Sweep(settings, store), Sweep(settings, store)
    first.run()
    store.create_release(FNS, "a" * 40, "main")
    second.run()
    assert store.turn(FNS.key) == "", "the second has no duty while the first has it"
    deadline = time.monotonic() + 5
    while not store.turn(FNS.key) and time.monotonic() < deadline:
        second.run()
        time.sleep(0.1)
    assert store.turn(FNS.key), "the duty passes on when its holder is silent"

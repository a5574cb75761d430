"""Pushes that were stored and got no release: found by the gateway, with a real store and git."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import msgspec
import pytest
from redis.exceptions import RedisError

from core.errors import Conflict, SlipwayError
from core.repositories import Repository
from core.settings import Settings
from core.store import Store
from gateway import bare, heads
from gateway.app import create_app
from gateway.context import here
from tests.integration.gateway.harness import running

FNS = Repository(namespace="alice", name="fns", source="git", deploy_branch="main")


def git(*argv: str, cwd: Path) -> str:
    env = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "GIT_CONFIG_NOSYSTEM": "1"}
    who = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    return subprocess.run(
        ["git", *who, *argv], cwd=cwd, env=env, check=True, capture_output=True, text=True
    ).stdout.strip()


def stored_push(settings: Settings, name: str = "fns") -> str:
    """A push that was stored although no release was made of it."""
    bare = settings.git_folder / "alice" / f"{name}.git"
    bare.mkdir(parents=True)
    git("init", "--bare", "-b", "main", cwd=bare)
    tree = git("mktree", cwd=bare)
    commit = git("commit-tree", tree, "-m", "x", cwd=bare)
    git("update-ref", "refs/heads/main", commit, cwd=bare)
    return commit


def replaced(repository: Repository, name: str) -> Repository:
    return msgspec.structs.replace(repository, name=name)


def test_a_stored_push_without_a_release_gets_one(settings: Settings, store: Store) -> None:
    commit = stored_push(settings)
    store.save_repository(FNS)
    heads.compare(settings, store)
    newest = store.newest_release(FNS.key)
    assert newest is not None
    assert newest.commit == commit
    heads.compare(settings, store)
    assert len(store.releases("alice", "fns")) == 1


def test_a_deploy_branch_that_was_deleted_gets_a_release(settings: Settings, store: Store) -> None:
    commit = stored_push(settings)
    store.save_repository(FNS)
    heads.compare(settings, store)
    bare = settings.git_folder / "alice/fns.git"
    git("branch", "main2", "main", cwd=bare)
    git("update-ref", "-d", "refs/heads/main", cwd=bare)
    heads.compare(settings, store)
    heads.compare(settings, store)
    made = [release.commit for release in store.releases("alice", "fns")]
    assert made == ["0" * 40, commit], "one, whoever looks how often"
    git("update-ref", "refs/heads/main", commit, cwd=bare)
    heads.compare(settings, store)
    assert store.releases("alice", "fns")[0].commit == commit, "it is deployed again"


def test_hooks_in_another_order_than_the_pushes(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = stored_push(settings)
    store.save_repository(FNS)
    bare = settings.git_folder / "alice/fns.git"
    second = git("commit-tree", f"{first}^{{tree}}", "-p", first, "-m", "y", cwd=bare)
    ask = heads.local_head

    def newer_comes(settings: Settings, repository: Repository) -> str:
        monkeypatch.setattr(heads, "local_head", ask)
        found = ask(settings, repository)
        git("update-ref", "refs/heads/main", second, cwd=bare)
        assert heads.release(settings, store, FNS, second)
        return found

    monkeypatch.setattr(heads, "local_head", newer_comes)
    assert heads.release(settings, store, FNS, first) is None, "it looked just before"
    assert heads.release(settings, store, FNS, first) is None
    assert [release.commit for release in store.releases("alice", "fns")] == [second]
    assert heads.release(settings, store, FNS, "0" * 40) is None, "deleted, and pushed again"
    git("update-ref", "-d", "refs/heads/main", cwd=bare)
    gone = heads.release(settings, store, FNS, "0" * 40)
    assert gone is not None
    heads.compare(settings, store)
    assert len(store.releases("alice", "fns")) == 2


def test_a_push_that_is_forced_back_while_its_hook_looks(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head that was released is the same before and after."""
    first = stored_push(settings)
    store.save_repository(FNS)
    standing = heads.release(settings, store, FNS, first)
    bare = settings.git_folder / "alice/fns.git"
    second = git("commit-tree", f"{first}^{{tree}}", "-p", first, "-m", "y", cwd=bare)
    git("update-ref", "refs/heads/main", second, cwd=bare)
    ask, looks = heads.local_head, iter([False, True])

    def forced_back(settings: Settings, repository: Repository) -> str:
        found = ask(settings, repository)
        if next(looks, False):
            git("update-ref", "refs/heads/main", first, cwd=bare)
            assert heads.release(settings, store, FNS, first) == standing
        return found

    monkeypatch.setattr(heads, "local_head", forced_back)
    assert heads.release(settings, store, FNS, second) is None
    assert store.releases("alice", "fns") == [standing]


def test_a_repository_that_lacks_its_commits_takes_nothing_down(
    settings: Settings, store: Store
) -> None:
    """A backup holds what is deployed, and not what was pushed."""
    for name in ("away", "anew", "broken", "unreadable", "packed"):
        stored_push(settings, name)
        store.save_repository(replaced(FNS, name))
    heads.compare(settings, store)
    before = [release.id for release in store.releases("alice")]
    folder = settings.git_folder / "alice"
    (folder / "away.git").rename(folder / "elsewhere")
    (folder / "anew.git").rename(folder / "old")
    (folder / "anew.git").mkdir()
    git("init", "--bare", "-b", "main", cwd=folder / "anew.git")  # as an attempt to push does
    (folder / "broken.git/refs/heads/main").write_bytes(b"")  # as a power cut may leave it
    (folder / "unreadable.git/refs/heads/main").unlink()
    (folder / "unreadable.git/HEAD").write_bytes(b"\xff")
    (folder / "packed.git/refs/heads/main").unlink()
    (folder / "packed.git/packed-refs").write_bytes(b"\xff\xfe no refs\n")
    heads.compare(settings, store)
    assert [release.id for release in store.releases("alice")] == before


def test_trouble_of_one_repository_is_not_the_others(settings: Settings, store: Store) -> None:
    for name in ("a-broken", "b-folder", "fns"):
        store.save_repository(replaced(FNS, name))
        stored_push(settings, name)
    branch = "refs/heads/main"
    (settings.git_folder / "alice/a-broken.git" / branch).write_bytes(b"\xff\x00" * 20)
    (settings.git_folder / "alice/b-folder.git" / branch).unlink()
    (settings.git_folder / "alice/b-folder.git" / branch).mkdir()
    heads.compare(settings, store)
    made = [release.repository for release in store.releases("alice")]
    assert made == ["fns"]


def test_heads_of_many_repositories_take_no_processes(settings: Settings, store: Store) -> None:
    stored_push(settings)
    for number in range(300):
        name = f"f{number}"
        (settings.git_folder / f"alice/{name}.git").symlink_to(
            settings.git_folder / "alice/fns.git"
        )
        store.save_repository(replaced(FNS, name))
    before = os.times()
    heads.compare(settings, store)
    after = os.times()
    assert after.children_user + after.children_system == (
        before.children_user + before.children_system
    )
    assert len(store.releases("alice", limit=500)) == 300


def test_a_disk_that_hangs_holds_up_nothing_else(
    settings: Settings, short_tmp: Path, valkey: str, store: Store
) -> None:
    """Here: a pipe that nobody writes to, in the place of a branch."""
    stored_push(settings)
    branch = settings.git_folder / "alice/fns.git/refs/heads/main"
    branch.unlink()
    os.mkfifo(branch)
    store.save_repository(FNS)
    with running(short_tmp, valkey) as gateway:
        assert gateway.anonymous("GET", "/healthz").status_code == 503
        assert gateway.call("GET", "/system/releases").json() == []


def test_the_head_of_a_branch(settings: Settings) -> None:
    first = stored_push(settings)
    path = settings.git_folder / "alice/fns.git"
    team = msgspec.structs.replace(FNS, deploy_branch="team/main")
    assert heads.local_head(settings, team) == ""
    git("branch", "team/main", "main", cwd=path)
    git("branch", "team/main2", "main", cwd=path)
    assert heads.local_head(settings, team) == first
    git("pack-refs", "--all", cwd=path)
    assert not (path / "refs/heads/team").exists()
    assert heads.local_head(settings, team) == first
    second = git("commit-tree", f"{first}^{{tree}}", "-p", first, "-m", "y", cwd=path)
    git("update-ref", "refs/heads/team/main", second, cwd=path)
    assert heads.local_head(settings, team) == second != first
    assert heads.local_head(settings, msgspec.structs.replace(FNS, name="gone")) == ""
    for odd in ("../../../alice/fns.git/refs/heads/main", "..", ""):
        outside = msgspec.structs.replace(FNS, deploy_branch=odd)
        assert heads.local_head(settings, outside) == ""


def test_what_a_gateway_that_was_killed_left_aside_comes_back_or_goes(
    settings: Settings, store: Store
) -> None:
    """Killed before the namespace was deleted, and after it; or while a repository was made."""
    commit = stored_push(settings)
    stored_push(settings, "gone")
    store.save_repository(FNS)
    folder = settings.git_folder / "alice"
    for name in ("fns", "gone"):
        (folder / f"{name}.git").rename(folder / f".0123456789abcdef~{name}.git")
    (folder / ".fedcba9876543210").mkdir()
    bare.sweep(settings, store)
    assert [each.name for each in folder.iterdir()] == ["fns.git"]
    assert heads.local_head(settings, FNS) == commit


def test_a_push_meets_no_repository_that_was_deleted_and_loses_none(
    settings: Settings, store: Store
) -> None:
    """Where the sweep has not come by yet."""
    commit = stored_push(settings)
    stored_push(settings, "gone")
    store.save_repository(FNS)
    folder = settings.git_folder / "alice"
    for name in ("fns", "gone"):
        (folder / f"{name}.git").rename(folder / f".0123456789abcdef~{name}.git")
        bare.create(settings, store, "alice", name)
    assert sorted(each.name for each in folder.iterdir()) == ["fns.git", "gone.git"]
    assert heads.local_head(settings, FNS) == commit
    assert heads.local_head(settings, replaced(FNS, "gone")) == ""


def test_a_repository_that_is_being_removed_is_back_whatever_goes_wrong(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = stored_push(settings)
    path = bare.folder(settings, "alice", "fns")
    with pytest.raises(Conflict, match="still has refs/heads/main"), bare.removing(settings, [FNS]):
        pass
    assert heads.local_head(settings, FNS) == commit
    git("update-ref", "refs/heads/slipway/rollback-b1", commit, cwd=path)
    git("update-ref", "-d", "refs/heads/main", cwd=path)

    def away() -> None:
        with bare.removing(settings, [FNS]):
            assert not path.exists(), "nobody pushes to it any more"
            raise RedisError

    with pytest.raises(RedisError):
        away()
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SlipwayError, match="git could not be run"), bare.removing(settings, [FNS]):
        pass
    monkeypatch.undo()
    assert git("rev-parse", "slipway/rollback-b1", cwd=path) == commit
    with bare.removing(settings, [FNS]):
        pass
    assert not list(path.parent.iterdir())
    assert store.find_repository(FNS.key) is None


def test_a_namespace_to_which_somebody_pushes_stays(settings: Settings, store: Store) -> None:
    commit = stored_push(settings)
    path = bare.folder(settings, "alice", "fns")
    git("update-ref", "refs/heads/slipway/rollback-b1", commit, cwd=path)
    git("update-ref", "-d", "refs/heads/main", cwd=path)
    store.claim_namespace("alice", "git", FNS)
    app = create_app(settings, store)
    with app.app_context():
        pushes = here().pushes
    push = pushes.open("alice", "fns")
    admin = ("admin", settings.password_file.read_text().strip())
    client = app.test_client()
    refused = client.delete("/system/namespace/alice", auth=admin)
    assert (refused.status_code, "somebody pushes to alice/fns" in refused.text) == (409, True)
    assert path.is_dir()
    assert store.find_repository(FNS.key)
    pushes.close(push)
    pushes.open("bob", "fns")
    assert client.delete("/system/namespace/alice", auth=admin).status_code == 202
    assert not path.exists()

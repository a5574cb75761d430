"""What the builder and the gateway remove, and how they are asked: real store, git, files."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from builder import diskbound, folders, pruning, registrygarbage
from builder.mirror import Mirror
from builder.sweep import Upkeep
from cli import prune as cli_prune
from core import disk, keys
from core.bundle import HALF_MADE, Bundle, Layer
from core.errors import Conflict, NotFound, Unavailable
from core.models import State
from core.pruning import Answer, Ask, Candidate, Pruned, of_each, prune
from core.repositories import Repository
from core.settings import Settings
from core.store import Store
from gateway import prune as gateway_prune
from gateway.app import create_app
from gateway.rollbackbranch import PREFIX
from runtime import ballast
from tests.unit.repositories import BareRepository

SHOP = Repository(namespace="ann", name="shop", source="git", deploy_branch="main")
LONG_AGO = 90 * 86400.0


def aged(path: Path, seconds: float = LONG_AGO) -> Path:
    at = time.time() - seconds
    os.utime(path, (at, at))
    return path


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def layer(settings: Settings, text: str, age: float = LONG_AGO) -> Path:
    folder = settings.layers / "ann" / digest(text)
    folder.mkdir(parents=True)
    (folder / "module.py").write_bytes(b"x" * 10_000)
    folders.freeze(folder)
    return aged(folder, age)


def bundle(settings: Settings, text: str, *layers: Path) -> Path:
    folder = settings.bundles / "ann" / digest(text)
    folder.mkdir(parents=True)
    told = Bundle(
        template="t",
        process=["x"],
        layers=[Layer(kind="python", digest=each.name) for each in layers],
    )
    (folder / "bundle.json").write_bytes(msgspec.json.encode(told))
    return folder


def pruned(settings: Settings, store: Store, *, pressed: bool = False) -> list[tuple[str, str]]:
    """What goes: what a dry run right before tells."""
    dry = prune(pruning.candidates(settings, store, pressed=pressed), dry=True)
    assert prune(pruning.candidates(settings, store, pressed=pressed)) == dry
    return [(each.kind, each.name) for each in dry.pruned]


def test_dependencies_go_once_no_bundle_has_them_and_no_build_uses_them(
    settings: Settings, store: Store
) -> None:
    named, lately, gone = (layer(settings, text) for text in ("named", "lately", "gone"))
    bundle(settings, "b", named)
    dropped = bundle(settings, "c", gone)
    dropped.rename(dropped.with_name(f"{HALF_MADE}{dropped.name}-0"))
    assert folders.used(lately), "a build has just found it"
    assert pruned(settings, store) == [("dependencies", f"ann/{gone.name}")]
    assert named.is_dir()
    assert lately.is_dir()
    assert not gone.exists()
    assert not folders.used(gone)
    assert pruned(settings, store) == []


def test_what_a_build_comes_to_use_while_it_is_removed_stays(
    settings: Settings, store: Store
) -> None:
    found = layer(settings, "found")
    (candidate,) = pruning.candidates(settings, store)
    assert folders.used(found)
    assert not candidate.remove()
    asked: list[Path] = []

    def old(folder: Path) -> bool:
        """Somebody uses it between the two looks."""
        asked.append(folder)
        return len(asked) == 1

    assert not folders.retire(found, old)
    assert (found / "module.py").is_file()
    assert asked[1] != found, "by then no new build finds it"


def test_little_room_shortens_what_is_kept_but_not_below_a_build(
    settings: Settings, store: Store
) -> None:
    at_work = layer(settings, "at work", 3600.0)
    idle = layer(settings, "idle", pruning.LAYER_UNUSED_PRESSED + 60)
    assert pruned(settings, store) == []
    assert pruned(settings, store, pressed=True) == [("dependencies", f"ann/{idle.name}")]
    assert at_work.is_dir()


def test_a_cache_goes_when_it_is_too_large_and_nobody_uses_it(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = settings.caches / "ann" / "uv"
    cache.mkdir(parents=True)
    (cache / "wheel").write_bytes(b"x" * 50_000)
    (cache / "shared").write_bytes(b"x" * 500_000)
    (settings.state / "layer").hardlink_to(cache / "shared")  # nothing is won by removing that
    monkeypatch.setattr(pruning, "CACHE", 100_000)
    assert pruned(settings, store) == []
    monkeypatch.setattr(pruning, "CACHE", 10_000)
    with folders.using(folders.cache_lock(settings, "ann", "uv")):
        assert prune(pruning.candidates(settings, store)).pruned == []
        assert (cache / "wheel").is_file()
    assert pruned(settings, store) == [("cache", "ann/uv")]
    assert not cache.exists()


def test_mirrors_of_what_is_gone_or_rests_go(settings: Settings, store: Store) -> None:
    own = BareRepository(settings.git_folder / "ann" / "shop.git")
    commit = own.commit({"x": "1"})
    for name in ("shop", "resting", "gone"):
        store.save_repository(msgspec.structs.replace(SHOP, name=name))
        mirror = Mirror(settings, "ann", name)
        mirror.fetch(str(own.path), commit, local=True).close()
        release = store.create_release(store.repository("ann", name), commit, "main")
        store.move(release.id, [State.QUEUED], State.FAILED, "no")
        if name == "resting":
            old = msgspec.structs.replace(
                store.release(release.id), created_at="2020-01-01T00:00:00.000Z"
            )
            store.redis.hset(keys.release(release.id), "doc", msgspec.json.encode(old))
    store.redis.hdel(keys.REPOSITORIES, "ann/gone")
    held = Mirror(settings, "ann", "resting").fetch(str(own.path), commit, local=True)
    assert prune(pruning.candidates(settings, store)).pruned[0].name == "ann/gone"
    assert held.read("x", 10) == b"1", "a build reads it"
    held.close()
    assert pruned(settings, store) == [("mirror", "ann/resting")]
    assert Mirror(settings, "ann", "shop").has(commit)


def test_old_locks_go(settings: Settings, store: Store) -> None:
    lock = settings.caches / "ann" / "locks" / "abc.lock"
    with folders.turn(lock):
        pass
    assert pruned(settings, store) == []
    aged(lock)
    with folders.turn(lock):  # which counts as a use
        pass
    assert pruned(settings, store) == []
    aged(lock)
    assert pruned(settings, store) == [("lock", "ann/abc.lock")]


def test_one_bad_thing_holds_up_no_other(settings: Settings, store: Store) -> None:
    gone = layer(settings, "gone")
    bundle(settings, "b")
    of_bob = settings.layers / "bob" / gone.name
    of_bob.mkdir(parents=True)
    aged(of_bob)
    damaged = settings.bundles / "bob" / digest("c")
    damaged.mkdir(parents=True)
    (damaged / "bundle.json").write_bytes(b"{")
    (settings.mirrors / "No Name" / "x.git").mkdir(parents=True)
    (settings.caches / "ann" / "locks").mkdir(parents=True)
    (settings.caches / "ann" / "locks" / "a.lock").symlink_to("nothing")
    lock = settings.caches / "ann" / "locks" / "b.lock"
    lock.touch()
    aged(lock)
    assert pruned(settings, store) == [("dependencies", f"ann/{gone.name}"), ("lock", "ann/b.lock")]
    assert of_bob.is_dir(), "nobody knows what that bundle stands on"


def test_candidates_are_found_up_to_what_fails_but_not_without_the_store() -> None:
    def find(place: int) -> Iterator[Candidate]:
        yield Candidate("kind", f"{place}", lambda: bool(3 // place))
        if place == 2:
            raise NotFound("it just went")

    told = [each.name for each in prune(of_each("kind", (0, 1, 2, 3), find)).pruned]
    assert told == ["1", "2", "3"]

    def away(_: int) -> Iterator[Candidate]:
        raise RedisConnectionError

    with pytest.raises(RedisConnectionError):
        prune(of_each("kind", (1,), away))


def test_branches_of_rollbacks_go_but_for_the_newest(settings: Settings, store: Store) -> None:
    store.save_repository(SHOP)
    own = BareRepository(settings.git_folder / "ann" / "shop.git")
    store.save_repository(msgspec.structs.replace(SHOP, name="broken"))
    broken = settings.git_folder / "ann" / "broken.git"
    broken.mkdir()
    (broken / "HEAD").write_text("nonsense")
    commit = own.commit({"x": "1"})
    numbers = range(1, gateway_prune.BRANCHES + 4)
    lines = "".join(f"create refs/heads/{PREFIX}b{n} {commit}\n" for n in numbers)
    lines += f"create refs/heads/{PREFIX}mine {commit}\n"
    git = ["git", "-C", str(own.path), "update-ref", "--stdin"]
    subprocess.run(git, input=lines.encode(), check=True)
    found = prune(gateway_prune.branches(settings, store), dry=True)
    assert prune(gateway_prune.branches(settings, store)) == found
    told = [each.name for each in found.pruned]
    assert told == [f"ann/shop {PREFIX}b{number}" for number in (3, 2, 1)]
    assert prune(gateway_prune.branches(settings, store)).pruned == []


# Asking for it.


@contextmanager
def answering(store: Store, **answers: Answer) -> Iterator[list[tuple[str, Ask]]]:
    """Parts that answer when they are asked."""
    over = threading.Event()
    asked: list[tuple[str, Ask]] = []

    def serve() -> None:
        while not over.wait(0.01):
            for part, answer in answers.items():
                if ask := store.take_prune(part):
                    asked.append((part, ask))
                    store.answer_prune(part, ask, answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield asked
    finally:
        over.set()
        thread.join()


def told(kind: str, size: int, *, more: bool = False) -> Answer:
    return Answer(pruned=[Pruned(kind=kind, name=kind, bytes=size)], more=more)


def test_all_parts_are_asked_one_after_the_other(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = create_app(settings, store).test_client()
    admin = ("admin", settings.password_file.read_text().strip())
    with answering(store, controller=told("release", 0), builder=told("cache", 7)) as asked:
        answer = client.post("/system/prune", json={"dryRun": True}, auth=admin)
    assert answer.status_code == 200, answer.text
    assert answer.json == {
        "dryRun": True,
        "pruned": [
            {"kind": "cache", "name": "cache", "bytes": 7},
            {"kind": "release", "name": "release", "bytes": 0},
        ],
        "bytes": 7,
        "more": False,
        "missing": [],
    }
    assert [part for part, _ in asked] == ["builder", "controller"]
    assert all(ask.dry and not ask.pressed for _, ask in asked)
    monkeypatch.setattr(gateway_prune, "PATIENCE", 0.3)
    with answering(store, controller=told("release", 0, more=True)):
        answer = client.post("/system/prune", json={}, auth=admin)
    assert (answer.json or {})["missing"] == ["builder"]
    assert (answer.json or {})["more"] is True
    store.take_prune("builder")
    answer = client.post("/system/prune", json={}, auth=admin)
    assert answer.status_code == 503
    assert "no part has answered" in answer.text
    assert answer.headers["Retry-After"]
    assert store.take(keys.lock("prune"), "another", 10)
    answer = client.post("/system/prune", json={}, auth=admin)
    assert (answer.status_code, "somebody prunes already" in answer.text) == (503, True)
    assert client.post("/system/prune", json={}).status_code == 401
    assert client.post("/system/prune", json={"dry": 1}, auth=admin).status_code == 400


def test_the_command_waits_longer_than_the_gateway() -> None:
    served = gateway_prune.PATIENCE * len(gateway_prune.PARTS) + 4 * gateway_prune._GIT_SECONDS
    assert served <= cli_prune.PATIENCE


def test_the_builder_answers_when_it_is_asked(settings: Settings, store: Store) -> None:
    gone = layer(settings, "gone")
    upkeep = Upkeep(settings, store)
    for dry in (True, False):
        ask = Ask(id=f"id{dry}", dry=dry)
        store.ask_to_prune("builder", ask)
        upkeep.run()
        answer = store.await_prune("builder", ask, 0.0)
        assert answer is not None
        assert [each.name for each in answer.pruned] == [f"ann/{gone.name}"]
        assert answer.pruned[0].bytes > 10_000
        assert gone.exists() == dry
        store.take_prune("builder")


def test_the_builder_answers_before_it_collects_the_registry_and_keeps_its_duty(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    collected: list[tuple[bool, bool]] = []

    def collect(_: Settings, *, pressed: bool, check: Callable[[], object]) -> bool:
        collected.append((bool(store.redis.exists(keys.pruned("first", "builder"))), pressed))
        assert check() is True, "the duty is kept meanwhile"
        return True

    monkeypatch.setattr(registrygarbage, "collect", collect)
    upkeep = Upkeep(settings, store)
    store.ask_to_prune("builder", Ask(id="first", pressed=True))
    upkeep.run()
    assert collected == [(True, True)]
    store.ask_to_prune("builder", Ask(id="second", dry=True))
    upkeep.run()
    assert len(collected) == 1, "a dry run removes nothing"


def test_of_two_who_ask_at_once_both_are_answered(store: Store) -> None:
    """A push that finds no room, and 'slipway prune'."""
    asks = [Ask(id="build", pressed=True), Ask(id="command", dry=True)]
    for ask in asks:
        store.ask_to_prune("controller", ask)
    store.redis.rpush(keys.asks_to_prune("controller"), "nobody waits for it any more")
    assert [store.take_prune("controller") for _ in range(3)] == [*asks, None]
    assert store.take_prune("builder") is None


# The limit.


def test_over_the_limit_a_build_makes_room_or_fails(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diskbound, "PATIENCE", 5.0)
    limited = replace(settings, disk_limit=2**20)
    diskbound.check(limited, store)
    old = layer(settings, "old")
    (settings.state / "filler").write_bytes(b"")
    discarded = settings.bundles / "ann" / f"{HALF_MADE}{'a' * 64}-0"
    discarded.mkdir(parents=True)
    (discarded / "large").write_bytes(b"x" * 2 * 2**20)
    store.redis.delete(keys.DISK_USED)
    with answering(store, controller=Answer()) as asked:
        diskbound.check(limited, store)
        assert [(part, ask.pressed) for part, ask in asked] == [("controller", True)]
    assert not old.exists()
    assert not discarded.exists()
    needed = bundle(settings, "needed")
    (needed / "large").write_bytes(b"x" * 2 * 2**20)
    store.redis.delete(keys.DISK_USED)
    with answering(store, controller=Answer()), pytest.raises(Unavailable) as caught:
        diskbound.check(limited, store)
    assert "builds may take 1 MiB of the disk" in str(caught.value)
    assert "bundles 2 MiB" in str(caught.value)
    assert "SLIPWAY_DISK_LIMIT" in str(caught.value)
    assert needed.is_dir()
    diskbound.check(settings, store)


def test_who_is_cancelled_makes_no_room(settings: Settings, store: Store) -> None:
    """Neither while the controller is waited for nor between two things that go."""
    limited = replace(settings, disk_limit=1)
    old = layer(settings, "old")

    def once_asked() -> None:
        if store.redis.exists(keys.asks_to_prune("controller")):
            raise Conflict("cancelled")

    with pytest.raises(Conflict):
        diskbound.check(limited, store, once_asked)
    store.take_prune("controller")
    with answering(store, controller=Answer()) as asked:

        def once_answered() -> None:
            if asked and store.redis.exists(keys.pruned(asked[0][1].id, "controller")):
                raise Conflict("cancelled")

        with pytest.raises(Conflict):
            diskbound.check(limited, store, once_answered)
    assert old.is_dir()


def test_what_is_measured_is_what_lies_there_once(settings: Settings, tmp_path: Path) -> None:
    before = sum(disk.made_by_builds(settings).values())
    cache = settings.caches / "ann" / "uv"
    cache.mkdir(parents=True)
    (cache / "wheel").write_bytes(b"x" * 2**20)
    kept = settings.layers / "ann" / "l"
    kept.mkdir(parents=True)
    (kept / "wheel").hardlink_to(cache / "wheel")
    (kept / "link").symlink_to(tmp_path)
    (tmp_path / "elsewhere").write_bytes(b"x" * 2**20)
    found = disk.made_by_builds(settings)
    assert 2**20 <= sum(found.values()) - before < 2**20 + 100_000
    assert disk.usage(tmp_path / "nothing") == 0


def test_the_ballast_comes_and_goes_with_the_room(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ballast, "SIZE", 2**20)
    place = settings.state / "ballast"
    left = {"free": disk.RESERVE}
    monkeypatch.setattr(disk, "free", lambda _: left["free"])
    ballast.trim(settings)
    assert not place.exists(), "builds have less room than it takes"
    left["free"] = disk.RESERVE + 2**20
    ballast.trim(settings)
    assert disk.usage(place) >= 2**20
    left["free"] = ballast.FULL
    ballast.trim(settings)
    assert place.exists()
    left["free"] = ballast.FULL - 1
    ballast.trim(settings)
    assert not place.exists()
    ballast.trim(settings)
    assert not place.exists()

"""Housekeeping with a real store and the process provider: what is needed stays, the rest goes."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import cast

import msgspec
import pytest
import structlog

from builder import folders
from core import disk, keys
from core.bundle import HALF_MADE, PREFIX, Bundle
from core.errors import Unavailable
from core.logfiles import CURRENT, LogWriter
from core.models import Artifact, Build, FunctionRow, FunctionSpec, Release, State
from core.pruning import Answer
from core.repositories import Repository
from core.settings import Settings
from core.store import Store
from runtime import housekeeping, oldlogs
from runtime.controller import Controller
from runtime.edge import NoEdge
from runtime.housekeeping import Housekeeping
from runtime.providers import Instance, Provider
from runtime.providers.process import ProcessProvider
from tests.waiting import until

REPOSITORY = Repository(namespace="ann", name="shop", source="git", deploy_branch="main")
BUILDER = (State.QUEUED, State.BUILDING, State.TESTING)


class House:
    """An installation without a controller: releases go live by the store's own moves."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self.provider = ProcessProvider(settings, b"the key of these tests")
        self.housekeeping = Housekeeping(settings, store, self.provider)
        self._commits = 0
        store.save_repository(REPOSITORY)

    def build(self, content: str) -> str:
        """A bundle as the builder leaves it; returns the artifact."""
        digest = hashlib.sha256(content.encode()).hexdigest()
        bundle = Bundle(template="test", process=["sleep", "60"])
        parent = self.settings.bundles / "ann"
        with folders.making(parent) as new:
            (new / "app").mkdir()
            (new / "bundle.json").write_bytes(msgspec.json.encode(bundle))
            folders.settle(new, parent / digest)
        self.store.save_artifact("ann", f"key-{content}", PREFIX + digest, {"handler": content})
        return PREFIX + digest

    def stage(self, artifact: str, repository: Repository = REPOSITORY) -> Release:
        self._commits += 1
        release = self.store.create_release(repository, f"{self._commits:040x}", "main")
        self.store.take_turn(repository.key)
        self.store.move(release.id, BUILDER, State.BUILDING)
        row = FunctionRow(name="hello", artifact=artifact, build=Build.BUILT)
        self.store.save_row(release.id, row)
        spec = FunctionSpec(
            name="hello",
            namespace=repository.namespace,
            artifact=artifact,
            artifacts_namespace=repository.artifacts_namespace,
            repository="shop",
            commit="",
        )
        handed = Artifact(name="hello", key="k", artifact=artifact, spec=spec)
        self.store.put_artifacts(release.id, release.commit, [handed])
        return release

    def release(self, artifact: str, repository: Repository = REPOSITORY) -> Release:
        release = self.stage(artifact, repository)
        self.store.switch(release.id, lambda _: 1)
        self.store.finish(release.id, "http://here")
        return release

    def there(self, artifact: str) -> bool:
        return (self.settings.bundles / "ann" / artifact.removeprefix(PREFIX)).is_dir()

    def look(self) -> int:
        """One look, which does what a dry one right before it tells; how many artifacts went."""
        told = self.housekeeping.run(dry=True)
        done = self.housekeeping.run()
        assert done == told
        return count(done)

    def an_hour_passes(self) -> None:
        for name, since in self.store.unneeded().items():
            self.store.note_unneeded({name: since - housekeeping.GRACE - 1}, [])


def count(answer: Answer) -> int:
    """How many artifacts are in it."""
    return sum(each.kind in ("bundle", "image") for each in answer.pruned)


@pytest.fixture
def house(settings: Settings, store: Store) -> Iterator[House]:
    house = House(replace(settings, keep_revisions=2), store)
    yield house
    house.provider.close()


def test_old_artifacts_go_after_an_hour_and_are_built_again_when_wanted(house: House) -> None:
    made = [house.build(f"v{number}") for number in range(6)]
    for artifact in made:
        house.release(artifact)
    assert house.look() == 0, "an hour has to pass first"
    assert all(map(house.there, made))
    house.an_hour_passes()
    assert house.look() == 3
    # The live one and the two releases before it.
    assert [house.there(each) for each in made] == [False, False, False, True, True, True]
    assert house.store.claim_artifacts("ann", ["key-v0"]) == {}, "it has to be built again"
    assert house.store.inputs("ann", ["key-v0", "key-v5"]) == {"key-v5": {"handler": "v5"}}
    assert house.store.claim_artifacts("ann", ["key-v5"]) == {"key-v5": made[5]}
    assert house.store.unneeded() == {}
    assert house.look() == 0
    left = [path.name for path in (house.settings.bundles / "ann").iterdir()]
    assert sum(name.startswith(HALF_MADE) for name in left) == 3, "the builder's sweep takes these"


def test_what_one_environment_needs_stays_for_all(house: House) -> None:
    """The artifacts of an owner's environments lie together; each keeps what it needs."""
    staging = msgspec.structs.replace(
        REPOSITORY, namespace="ann--staging", parent="ann/shop", environment="staging"
    )
    house.store.save_repository(staging)
    staged, only = house.build("staged"), house.build("production")
    for artifact, repository in ((staged, staging), (only, REPOSITORY)):
        house.release(artifact, repository)
    house.look()
    house.an_hour_passes()
    assert house.look() == 0
    assert house.there(staged)
    assert house.there(only)
    for number in range(4):  # of staging alone
        house.release(house.build(f"v{number}"), staging)
    house.look()
    house.an_hour_passes()
    house.look()
    assert not house.there(staged)
    assert house.there(only)


def test_what_is_needed_again_within_the_hour_stays(house: House) -> None:
    old = house.build("old")
    house.release(old)
    for number in range(4):
        house.release(house.build(f"v{number}"))
    house.look()
    assert f"ann {old}" in house.store.unneeded()
    house.release(old)  # a revert
    house.an_hour_passes()
    house.look()
    assert house.there(old)
    assert f"ann {old}" not in house.store.unneeded()


def test_staged_releases_and_failed_ones_do_not_push_out_what_was_live(house: House) -> None:
    first = house.build("first")
    house.release(first)
    for number in range(5):
        failed = house.stage(house.build(f"bad{number}"))
        house.store.move(failed.id, [State.STAGING], State.FAILED, "no")
    staged = house.build("staged")
    house.stage(staged)
    house.look()
    house.an_hour_passes()
    house.look()
    assert house.there(first)
    assert house.there(staged)


def test_what_still_runs_stays(house: House) -> None:
    old = house.build("old")
    instance = house.provider.start(FunctionSpec(name="hello", namespace="ann", artifact=old))
    try:
        house.look()
        house.an_hour_passes()
        house.look()
        assert house.there(old)
        house.provider.discard("ann", old)
        assert house.there(old), "the provider itself refuses as well"
    finally:
        house.provider.remove(instance)


def test_one_that_cannot_be_removed_is_tried_again_and_holds_up_no_other(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, other = house.build("stuck"), house.build("other")
    house.look()
    house.an_hour_passes()
    discard = house.provider.discard

    def failing(namespace: str, artifact: str, unneeded: Callable[[], bool]) -> None:
        if artifact == stuck:
            raise Unavailable("not now")
        discard(namespace, artifact, unneeded)

    monkeypatch.setattr(house.provider, "discard", failing)
    assert count(house.housekeeping.run()) == 1
    assert not house.there(other)
    assert house.there(stuck)
    assert house.store.claim_artifacts("ann", ["key-stuck"]) == {}, "no build counts on it"
    monkeypatch.undo()
    assert house.look() == 1
    assert not house.there(stuck)


def test_the_clock_of_the_hour_survives_a_restart(house: House) -> None:
    house.build("old")
    house.look()
    since = house.store.unneeded()
    again = Housekeeping(house.settings, house.store, house.provider)
    time.sleep(0.01)
    again.run()
    assert house.store.unneeded() == since
    assert house.store.redis.hlen(keys.UNNEEDED) == 1


@dataclass
class Recording:
    """A provider without instances that notes what is discarded: for artifacts of other runtimes.

    ``before``: called at each.
    """

    before: Callable[[str], None]
    discarded: list[tuple[str, str]] = field(default_factory=list)
    lost: str = ""
    """An image that nobody knows; after it the registry is away."""

    def instances(self) -> list[Instance]:
        return []

    def discard(self, namespace: str, artifact: str, _: Callable[[], bool]) -> None:
        self.discarded.append((namespace, artifact))
        self.before(artifact)

    def stray(self, _: Collection[str]) -> Iterator[tuple[str, str]]:
        if self.lost:
            yield "ann", self.lost
            raise Unavailable("the registry is away")

    def weigh(self, _: str) -> int:
        return 1000

    def tidy(self, *_: object, dry: bool) -> Answer:  # noqa: ARG002 - the interface's
        return Answer()


def test_an_image_that_nobody_knows_goes_and_a_registry_that_is_away_holds_up_nothing(
    house: House,
) -> None:
    lost = f"r/ann/f@sha256:{'a' * 64}"
    engine = Recording(lambda _: None, lost=lost)
    keeping = Housekeeping(house.settings, house.store, cast("Provider", engine))
    assert count(keeping.run()) == 0
    house.an_hour_passes()
    keeping.run()
    assert engine.discarded == [("ann", lost)]


def test_a_bare_image_that_another_owner_needs_stays(house: House) -> None:
    image = "sha256:" + "a" * 64
    house.store.save_repository(msgspec.structs.replace(REPOSITORY, namespace="bob"))
    house.store.save_artifact("bob", "his-key", image, {})
    house.store.save_artifact("ann", "her-key", image, {})
    house.stage(image)
    engine = Recording(lambda _: None)
    keeping = Housekeeping(house.settings, house.store, cast("Provider", engine))
    keeping.run()
    house.an_hour_passes()
    assert count(keeping.run()) == 0
    assert engine.discarded == []


def test_what_a_build_finds_while_others_are_removed_stays(house: House) -> None:
    images = ["sha256:" + letter * 64 for letter in "abcd"]
    for number, image in enumerate(images):
        house.store.save_artifact("ann", f"key-{number}", image, {})

    def meanwhile(artifact: str) -> None:
        """The first is being removed: a build finds the second, a release stages the third."""
        if artifact == images[0]:
            house.store.note_unneeded({}, [f"ann {images[1]}"])
            house.stage(images[2])

    engine = Recording(meanwhile)
    keeping = Housekeeping(house.settings, house.store, cast("Provider", engine))
    keeping.run()
    house.an_hour_passes()
    assert count(keeping.run()) == 2
    assert engine.discarded == [("ann", images[0]), ("ann", images[3])]
    assert house.store.claim_artifacts("ann", ["key-1"]) == {"key-1": images[1]}


def test_what_is_built_again_while_it_is_removed_stays(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same content once more, under another key, just as its folder goes."""
    old = house.build("old")
    house.look()
    house.an_hour_passes()
    asked = house.store.is_unneeded

    def meanwhile(namespace: str, artifact: str, since: float) -> bool:
        house.store.save_artifact("ann", "another-key", old, {})
        return asked(namespace, artifact, since)

    monkeypatch.setattr(house.store, "is_unneeded", meanwhile)
    assert count(house.housekeeping.run()) == 0
    assert house.there(old)
    assert house.store.claim_artifacts("ann", ["another-key"]) == {"another-key": old}


def test_looking_all_the_while_takes_nothing_from_releases_and_rollbacks(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any grace: what a build found, what is live and what is gone back to is there."""
    monkeypatch.setattr(housekeeping, "GRACE", 0.0)
    over = threading.Event()
    trouble: list[str] = []

    def look() -> None:
        while not over.is_set():
            try:
                house.housekeeping.run()
            except Exception as error:
                trouble.append(repr(error))
                return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for number in range(40):
            text = f"v{number % 6}"
            artifact = PREFIX + hashlib.sha256(text.encode()).hexdigest()
            release = house.stage(artifact)
            if not house.store.claim_artifacts("ann", [f"key-{text}"]):
                house.build(text)
                if not house.there(artifact):  # the same was just going: its push fails, and is
                    house.build(text)  # done again
            until(partial(house.there, artifact))
            house.store.switch(release.id, lambda _: 1)
            house.store.finish(release.id, "http://here")
            assert house.there(artifact)
            if number % 4 == 3:
                rollback = house.store.create_rollback("ann", "shop")
                specs = house.store.rollback_specs(rollback)
                house.store.roll_back(rollback.id, specs, lambda _: 1)
                assert [house.there(each.artifact) for each in specs.values()] == [True]
                house.store.finish_rollback(rollback.id)
    finally:
        over.set()
        thread.join()
    assert trouble == []
    bundles = house.settings.bundles / "ann"
    assert any(each.name.startswith(HALF_MADE) for each in bundles.iterdir()), "some went"


def test_a_nearly_full_disk_is_logged(
    house: House, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    controller = Controller(house.settings, house.store, house.provider, NoEdge(), None)
    monkeypatch.setattr(house.provider, "disks", lambda: [tmp_path])
    with structlog.testing.capture_logs() as logged:
        controller.warn_of_disks()
        if disk.free(house.settings.state) > disk.LOW:
            assert logged == []
        logged.clear()
        monkeypatch.setattr(disk, "LOW", 2**60)
        controller.warn_of_disks()
    assert {each["event"] for each in logged} == {"disk_nearly_full"}
    assert str(house.settings.state) in logged[0]["reason"]
    assert "GiB are free" in logged[0]["reason"]
    controller.replicas.close()


def test_logs_of_functions_that_are_long_gone_are_removed(house: House) -> None:
    """Not those of one that exists or has written lately."""
    house.release(house.build("one"))
    logs = house.settings.logs
    for name in ("hello.ann", "gone.ann", "lately.ann"):
        LogWriter(logs / name, 1000).append(b"line\n")
    old = time.time() - oldlogs.KEPT - 60
    for name in ("hello.ann", "gone.ann"):
        for path in (logs / name / CURRENT, logs / name):
            os.utime(path, (old, old))
    house.look()
    assert sorted(path.name for path in logs.iterdir()) == ["hello.ann", "lately.ann"]

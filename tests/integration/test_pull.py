"""Images that were not built here are fetched within bounds, by a real engine, from registries that
are well, and from one that is not."""

from __future__ import annotations

import base64
import contextlib
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from core import disk
from core.errors import Conflict, InvalidRequest, NotAllowed, NotFound, SlipwayError, Unavailable
from core.settings import Settings
from engine import bounds, pulled
from engine.client import Engine
from engine.pull import pin, pull, resolve
from tests import containers
from tests.integration.docker_builds import registry
from tests.integration.registries import INSIDE, Liar
from tests.waiting import until

pytestmark = pytest.mark.engine

HOUR = 3600.0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that is well: ``127.0.0.1:port``."""
    with registry(tmp_path_factory.mktemp("registry") / "r") as place:
        yield place


@pytest.fixture
def liar() -> Iterator[Liar]:
    made = Liar()
    yield made
    made.close()


class Shelf:
    """Small images in the engine and in a registry, taken away afterwards."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self.settings = settings
        self.tags: set[str] = set()

    def tag(self, name: str, content: str) -> str:
        """An image of this content by this name, in the engine; its id."""
        made = containers.image(
            replace(self.settings, python_image="scratch"), {"x": content}, ["/x"], wrapped=False
        )
        with self.engine.asking("") as api:
            place, _, tag = name.rpartition(":")
            api.tag(made, place, tag=tag)
        self.tags.add(name)
        return made

    def push(self, name: str, content: str) -> str:
        """The same, in the registry alone; its digest."""
        self.tag(name, content)
        digest = ""
        with self.engine.asking("") as api:
            for told in api.push(name, stream=True, decode=True):
                assert "error" not in told, told
                digest = (told.get("aux") or {}).get("Digest", digest)
        self.drop(name)
        return digest

    def drop(self, name: str) -> None:
        with contextlib.suppress(NotFound), self.engine.asking("") as api:
            api.remove_image(name)

    def has(self, name: str) -> str:
        """Its id; '' where the engine does not have it."""
        with contextlib.suppress(NotFound), self.engine.asking("") as api:
            return str(api.inspect_image(name)["Id"])
        return ""

    def close(self) -> None:
        for name in self.tags:
            place = name.rsplit(":", 1)[0]
            with self.engine.asking("") as api:
                found = api.images(place)
            for each in found:
                for known in [*(each["RepoTags"] or []), *(each["RepoDigests"] or [])]:
                    if known.startswith((f"{place}:", f"{place}@")):
                        self.drop(known)


@pytest.fixture
def shelf(engine: Engine, settings: Settings) -> Iterator[Shelf]:
    made = Shelf(engine, settings)
    yield made
    made.close()


# What is asked for, and what is given.


def test_a_tag_at_a_registry_is_the_newest_and_given_by_digest(shelf: Shelf, place: str) -> None:
    name = f"{place}/me/newest:1"
    first = shelf.push(name, "first")
    assert pull(shelf.engine, shelf.settings, name) == f"{place}/me/newest@{first}"
    assert resolve(shelf.engine, shelf.settings, name) == f"{place}/me/newest@{first}"
    second = shelf.push(name, "second")
    assert resolve(shelf.engine, shelf.settings, name) == f"{place}/me/newest@{second}"
    assert shelf.has(f"{place}/me/newest@{second}")


def test_an_image_by_digest_is_taken_from_the_engine_or_pulled(shelf: Shelf, place: str) -> None:
    digest = shelf.push(f"{place}/me/exact:1", "exact")
    for name in (f"{place}/me/exact@{digest}", f"{place}/me/exact:other@{digest}"):
        assert resolve(shelf.engine, shelf.settings, name) == f"{place}/me/exact@{digest}"
    with pytest.raises(NotFound, match="check its name and tag"):
        resolve(shelf.engine, shelf.settings, f"{place}/me/exact@sha256:{'0' * 64}")
    with pytest.raises(NotFound, match="check its name and tag"):
        resolve(shelf.engine, shelf.settings, f"{place}/me/never:1")


def test_a_bare_name_is_the_local_image_and_else_the_hubs(shelf: Shelf) -> None:
    id_ = shelf.tag("slipway-test-bare:latest", "bare")
    assert resolve(shelf.engine, shelf.settings, "slipway-test-bare") == id_
    assert resolve(shelf.engine, shelf.settings, id_) == id_
    with pytest.raises(SlipwayError, match=r"the hub, docker\.io,"):
        resolve(shelf.engine, shelf.settings, "slipway-test/that-nobody-has:1")
    # Three hex digits would be an id, for the engine.
    with pytest.raises(SlipwayError, match=r"the hub, docker\.io,"):
        resolve(shelf.engine, shelf.settings, id_.removeprefix("sha256:")[:12])


def test_where_the_registry_is_away_the_copy_that_is_here_is_used(shelf: Shelf) -> None:
    name = "127.0.0.1:9/me/away:1"
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9 is not reached.*docker load"):
        resolve(shelf.engine, shelf.settings, name)
    id_ = shelf.tag(name, "away")
    assert resolve(shelf.engine, shelf.settings, name) == id_
    with pytest.raises(Unavailable):
        pull(shelf.engine, shelf.settings, name)


@pytest.mark.parametrize("name", ["Figlet", "a b", "-x", "", "x:" + "t" * 200, "x@sha256:12", "/x"])
def test_what_is_no_name_is_told(engine: Engine, settings: Settings, name: str) -> None:
    with pytest.raises(InvalidRequest, match="not the name of an image"):
        resolve(engine, settings, name)


# An owner's repository.


def test_a_release_asks_what_a_tag_stands_for_and_fetches_nothing(
    shelf: Shelf, place: str, liar: Liar
) -> None:
    name = f"{place}/me/pinned:1"
    digest = shelf.push(name, "pinned")
    with pytest.raises(NotAllowed):
        pin(shelf.engine, shelf.settings, name, owner="ann")
    allowed = replace(shelf.settings, allow_registries=(place, liar.name))
    pinned = pin(shelf.engine, allowed, name, owner="ann")
    assert pinned == f"{place}/me/pinned@{digest}"
    assert not shelf.has(pinned)
    assert pin(shelf.engine, allowed, pinned, owner="ann") == pinned
    with pytest.raises(NotFound, match="check its name and tag"):
        pin(shelf.engine, allowed, f"{place}/me/none:1", owner="ann")
    with pytest.raises(Unavailable, match="answers wrongly"):
        pin(shelf.engine, allowed, f"{liar.name}/broken:1", owner="ann")
    with pytest.raises(Unavailable, match="is not reached"):
        pin(shelf.engine, shelf.settings, "127.0.0.1:9/x")


def test_an_owner_is_not_told_what_a_server_inside_said(
    shelf: Shelf, liar: Liar, caplog: pytest.LogCaptureFixture
) -> None:
    """The engine follows where a registry sends it, from the host's own network."""
    allowed = replace(shelf.settings, allow_registries=(liar.name,))
    for asked in (pin, pull, resolve):
        with pytest.raises(SlipwayError, match="cannot be pulled") as told:
            asked(shelf.engine, allowed, f"{liar.name}/inside:1", owner="ann")
        assert INSIDE[:8] not in str(told.value)
        with pytest.raises(SlipwayError, match=INSIDE):
            asked(shelf.engine, allowed, f"{liar.name}/inside:1")
    assert INSIDE in caplog.text


def test_an_owner_gets_only_what_a_registry_gives_to_anybody(
    shelf: Shelf, place: str, settings: Settings
) -> None:
    ours = replace(settings, registry=place)
    shelf.push(f"{place}/ann/mine:1", "mine")
    shelf.push(f"{place}/bob/his:1", "his")
    assert "@sha256:" in pull(shelf.engine, ours, f"{place}/ann/mine:1", owner="ann")
    with pytest.raises(NotAllowed, match="not yours"):
        pull(shelf.engine, ours, f"{place}/bob/his:1", owner="ann")
    id_ = shelf.tag("slipway-test-local:1", "local")
    with pytest.raises(NotAllowed, match="anybody's"):
        resolve(shelf.engine, ours, id_, owner="ann")
    with pytest.raises(SlipwayError, match="hub"):  # not the engine's own
        resolve(shelf.engine, ours, "slipway-test-local:1", owner="ann")


def test_credentials_go_to_their_own_registry_and_nowhere_else(
    shelf: Shelf, liar: Liar, tmp_path: Path
) -> None:
    liar.private = True
    password = tmp_path / "password"
    password.write_text("s3cret\n")
    login = base64.b64encode(b"me:s3cret").decode()
    stranger = replace(
        shelf.settings, registry="127.0.0.1:9", registry_user="me", registry_password_file=password
    )
    with pytest.raises(NotFound, match="SLIPWAY_REGISTRY_USER"):
        pull(shelf.engine, stranger, f"{liar.name}/private:1")
    assert liar.logins == []
    ours = replace(stranger, registry=f"{liar.name}/acme")
    with pytest.raises(NotAllowed):
        pull(shelf.engine, ours, f"{liar.name}/private:1", owner="ann")
    assert liar.logins == []
    with pytest.raises(NotFound, match="check its name and tag") as told:
        pull(shelf.engine, ours, f"{liar.name}/private:1")
    assert set(liar.logins) == {f"Basic {login}"}
    assert "s3cret" not in str(told.value)


def test_a_private_image_is_pulled_with_the_registrys_user(shelf: Shelf, tmp_path: Path) -> None:
    users, password = tmp_path / "users", tmp_path / "password"
    password.write_text("pass\n")
    users.write_text("me:$2b$05$abcdefghijklmnopqrstuuZFBUbfXoM8LFiPx8LYlO/sXZB/Cwk3K\n")  # bcrypt
    with registry(tmp_path / "registry", users=str(users)) as place:
        known = replace(
            shelf.settings, registry=place, registry_user="me", registry_password_file=password
        )
        name = f"{place}/me/private:1"
        shelf.tag(name, "private")
        with shelf.engine.asking("") as api:
            login = {"username": "me", "password": "pass"}
            for told in api.push(name, stream=True, decode=True, auth_config=login):
                assert "error" not in told, told
        shelf.drop(name)
        with pytest.raises(NotFound, match="does not give it"):
            pull(shelf.engine, shelf.settings, name)
        assert "@sha256:" in pull(shelf.engine, known, name)


# Bounds.


def test_a_registry_that_hangs_is_given_up(
    shelf: Shelf, liar: Liar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "SILENT", 1.5)
    with pytest.raises(Unavailable, match=r"no answer in 1\.5 s"):
        pull(shelf.engine, shelf.settings, f"{liar.name}/hang:1")


@pytest.mark.parametrize(
    ("image", "told"),
    [
        ("broken", "not reached, or answers wrongly"),
        ("lost", "not reached, or answers wrongly|does not have it|something else"),
        (f"wrong@sha256:{'3' * 64}", "something else than it said"),
    ],
)
def test_a_registry_that_is_not_well_is_told(
    shelf: Shelf, liar: Liar, image: str, told: str
) -> None:
    with pytest.raises(SlipwayError, match=told):
        pull(shelf.engine, shelf.settings, f"{liar.name}/{image}")
    assert not shelf.has(f"{liar.name}/{image}")


def test_an_image_that_is_too_large_is_given_up_midway(shelf: Shelf, liar: Liar) -> None:
    with pytest.raises(InvalidRequest, match="SLIPWAY_MAX_IMAGE"):
        pull(shelf.engine, shelf.settings, f"{liar.name}/huge:1")
    assert liar.cut.wait(30), "the engine goes on with it"


def test_a_disk_that_fills_up_ends_a_pull(
    shelf: Shelf, liar: Liar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "ROOM", 2**60)
    with pytest.raises(Unavailable, match="engine's disk"):
        pull(shelf.engine, replace(shelf.settings, max_image=2**60), f"{liar.name}/huge:1")


def test_a_small_layer_that_is_large_on_the_disk_is_not_kept(
    shelf: Shelf, place: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "free", lambda _: 2**40)  # others write there as well
    name = f"{place}/me/bomb:1"
    digest = shelf.push(name, "\0" * 5 * 2**20)
    small = replace(settings, max_image=2**20)
    with pytest.raises(InvalidRequest, match=r"unpacked .* 4 MiB \(4 times SLIPWAY_MAX_IMAGE"):
        pull(shelf.engine, small, name)
    assert not shelf.has(name)
    assert not shelf.has(f"{place}/me/bomb@{digest}")
    before = shelf.tag(name, "not a bomb")
    with pytest.raises(InvalidRequest):
        pull(shelf.engine, small, name)
    assert shelf.has(name) == before, "the tag of somebody is as it was"
    assert not shelf.has(f"{place}/me/bomb@{digest}")


def test_a_pull_that_takes_too_much_of_the_disk_ends(
    shelf: Shelf, liar: Liar, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter([2**50, 2**50 - 2**45])
    monkeypatch.setattr(disk, "free", lambda _: next(left))
    with pytest.raises(Unavailable, match="meanwhile more than"):
        pull(shelf.engine, shelf.settings, f"{liar.name}/hang:1")


def test_images_that_hang_hold_up_their_owner_alone(shelf: Shelf, place: str, liar: Liar) -> None:
    name = f"{place}/ann/well:1"
    shelf.push(name, "well")
    off = threading.Event()
    allowed = replace(shelf.settings, allow_registries=(liar.name, place))
    with ThreadPoolExecutor(24) as pool:

        def ask(image: str, owner: str) -> Future[str]:
            return pool.submit(pull, shelf.engine, allowed, image, owner=owner, stop=off.is_set)

        try:
            hanging = [ask(f"{liar.name}/hang:{i}", "bob") for i in range(9)]
            hanging += [ask(f"{liar.name}/hang:{i}", "") for i in range(9)]
            until(lambda: liar.asked["hang"] >= 4, 20, lambda: "that some are under way")
            for owner in ("ann", ""):
                assert "@sha256:" in ask(name, owner).result(30)
            ours = replace(allowed, registry=place)
            assert "@sha256:" in pool.submit(pull, shelf.engine, ours, name).result(30)
            assert liar.asked["hang"] == 4, "two of bob's and two of the admin's"
        finally:
            off.set()
        for each in hanging:
            with pytest.raises(Conflict):
                each.result(20)


def test_a_pull_that_is_called_off_ends_and_others_that_wait_for_it_go_on(
    shelf: Shelf, liar: Liar
) -> None:
    off = threading.Event()
    name = f"{liar.name}/hang:1"
    with ThreadPoolExecutor() as pool:
        first = pool.submit(pull, shelf.engine, shelf.settings, name, stop=off.is_set)
        until(lambda: liar.asked["hang"] == 1, 20, lambda: "that the first one asks")
        second = pool.submit(pull, shelf.engine, shelf.settings, name)
        off.set()
        with pytest.raises(Conflict):
            first.result(20)
        until(lambda: liar.asked["hang"] == 2, 20, lambda: "that the second one asks then")
        liar.over.set()
        with pytest.raises(SlipwayError) as told:
            second.result(60)
        assert not isinstance(told.value, Conflict)


def test_the_same_image_is_pulled_once_for_all_who_want_it(shelf: Shelf, liar: Liar) -> None:
    name = f"{liar.name}/slow:1"
    with pytest.raises(Unavailable):
        pull(shelf.engine, shelf.settings, name)
    once = liar.asked["slow"]
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(pull, shelf.engine, shelf.settings, name) for _ in range(8)]
        for each in waiting:
            with pytest.raises(Unavailable):
                each.result(60)
    assert liar.asked["slow"] <= 3 * once, "a late one may ask anew, eight may not"


# What was pulled goes again.


def swept(settings: Settings, engine: Engine, needed: list[str], grace: float) -> int:
    """How many went: as many as a dry run right before it tells."""
    told = pulled.sweep(settings, engine, needed, grace, dry=True)
    assert pulled.sweep(settings, engine, needed, grace) == told
    return len(told.pruned)


def test_what_was_pulled_goes_again_once_nothing_needs_it(
    shelf: Shelf, place: str, settings: Settings
) -> None:
    name = f"{place}/me/goes:1"
    shelf.push(name, "goes")
    pinned = pull(shelf.engine, settings, name)
    assert swept(settings, shelf.engine, [name], HOUR) == 0
    _an_hour_passes(settings)
    assert swept(settings, shelf.engine, [name], HOUR) == 0, "a function names it"
    _an_hour_passes(settings)
    assert swept(settings, shelf.engine, [pinned], HOUR) == 0, "a release has it"
    assert swept(settings, shelf.engine, [], HOUR) == 0, "it was needed just now"
    _an_hour_passes(settings)
    with shelf.engine.asking("") as api:
        container = api.create_container(pinned, command=["/x"])["Id"]
    try:
        assert swept(settings, shelf.engine, [], HOUR) == 0, "a container uses it"
        assert shelf.has(name)
    finally:
        with shelf.engine.asking("") as api:
            api.remove_container(container, force=True)
    _an_hour_passes(settings)
    assert swept(settings, shelf.engine, ["bundle:x"], HOUR) == 1
    assert not shelf.has(pinned)
    assert not shelf.has(name)
    assert swept(settings, shelf.engine, [], HOUR) == 0


def test_what_a_name_stood_for_before_goes_and_what_it_stands_for_stays(
    shelf: Shelf, place: str, settings: Settings
) -> None:
    name = f"{place}/me/moves:1"
    shelf.push(name, "before")
    before = pull(shelf.engine, settings, name)
    shelf.push(name, "after")
    after = pull(shelf.engine, settings, name)
    assert before != after
    _an_hour_passes(settings)
    assert swept(settings, shelf.engine, [name], HOUR) == 1
    assert not shelf.has(before)
    assert shelf.has(after) == shelf.has(name) != ""


def test_what_was_here_already_is_not_ours_to_remove(
    shelf: Shelf, place: str, settings: Settings
) -> None:
    name = f"{place}/me/theirs:1"
    shelf.push(name, "theirs")
    with shelf.engine.asking("") as api:
        for _ in api.pull(name, stream=True):
            pass
    pull(shelf.engine, settings, name)
    _an_hour_passes(settings)
    assert swept(settings, shelf.engine, [], HOUR) == 0
    assert shelf.has(name)


def test_a_tag_that_was_here_and_moved_is_not_ours_to_remove(
    shelf: Shelf, place: str, settings: Settings
) -> None:
    name = f"{place}/me/retagged:1"
    shelf.push(name, "newer")
    shelf.tag(name, "theirs, older")
    pinned = pull(shelf.engine, settings, name)
    _an_hour_passes(settings)
    assert swept(settings, shelf.engine, [], HOUR) == 0
    assert shelf.has(name) == shelf.has(pinned) != ""


def _an_hour_passes(settings: Settings) -> None:
    folder = settings.state / "pulled-images"
    for path in folder.iterdir() if folder.is_dir() else ():
        os.utime(path, (time.time() - HOUR - 1,) * 2)

"""Looks at forges: what comes of each answer, and that none holds up another."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import msgspec
import pytest

from core import keys
from core.errors import Conflict, NotAllowed, NotFound, SlipwayError, Unavailable
from core.names import NO_COMMIT
from core.repositories import Repository
from core.settings import Settings
from core.store import Store
from core.store.forges import Look, new_hook
from forges import Head
from forges.events import ForgeRepository
from forges.github.app import App, store_app
from gateway import looks, origins
from gateway.app import create_app
from gateway.context import Gateway
from tests.integration.gateway.harness import go_live
from tests.waiting import until

HUB = "https://github.com"
SAID = ForgeRepository(
    forge="github",
    id="10",
    full_name="Ann/fns",
    owner="Ann",
    owner_id="2",
    name="fns",
    default_branch="main",
    public=True,
)


@dataclass
class Told:
    """A forge that says what it is told to."""

    answer: object = SAID
    installed: str = ""
    asked: list[str] = field(default_factory=list)

    def describe(self, repository: Repository) -> ForgeRepository:
        self.asked.append(repository.full_name)
        if isinstance(self.answer, Exception):
            raise self.answer
        assert isinstance(self.answer, ForgeRepository)
        return self.answer

    def installation(self, _: Repository) -> str:
        return self.installed

    def head(self, *_: object) -> Head:
        return Head("b" * 40)

    def clone_credential(self, _: Repository) -> str:
        return ""


@pytest.fixture
def forge() -> Told:
    return Told()


@pytest.fixture
def gateway(
    settings: Settings, store: Store, forge: Told, monkeypatch: pytest.MonkeyPatch
) -> Gateway:
    made = create_app(settings, store)
    monkeypatch.setattr(made, "forge", lambda _: forge)
    return made


def look(**more: object) -> Look:
    return Look(forge="github", forge_id="10", said=msgspec.json.encode(SAID), **more)  # type: ignore[arg-type]  # by name


def taken(gateway: Gateway, wanted: Look) -> list[Look]:
    """Those that are left."""
    gateway.store.ask_to_look(wanted)
    looks.take(gateway, wanted)
    rows = gateway.store.redis.hgetall("slipway:repositories:looks").values()
    return [msgspec.json.decode(raw, type=Look) for raw in rows]


def live(store: Store, **more: object) -> Repository:
    """A repository that is known, with a function."""
    known = Repository(
        namespace="ann",
        name="fns",
        source="github",
        full_name="Ann/fns",
        forge_id="10",
        owner_id="2",
        deploy_branch="main",
        public=True,
        **more,  # type: ignore[arg-type]  # by name
    )
    store.adopt_repository(known, f"{HUB}#2")
    go_live(store, store.create_release(known, "a" * 40, "main"), ["f"])
    return known


def commits(store: Store, key: str = "ann/fns") -> list[str]:
    namespace, _, name = key.partition("/")
    return [each.commit[:1] for each in store.releases(namespace, name)]


def test_a_new_one_is_taken_in_and_released(gateway: Gateway, store: Store) -> None:
    assert taken(gateway, look(commit="c" * 40)) == []
    assert store.repository("ann", "fns").owner_id == "2"
    assert commits(store) == ["c"]


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        (Unavailable("away"), 1),
        (SlipwayError("the token's file cannot be read"), 1),
        (AttributeError("an answer that makes no sense"), 1),
        (Conflict("another name"), 0),
        (NotFound("deleted"), 0),
    ],
)
def test_what_may_pass_is_tried_again(
    gateway: Gateway, forge: Told, answer: Exception, left: int
) -> None:
    forge.answer = answer
    found = taken(gateway, look())
    assert [each.tries for each in found] == [1] * left
    assert gateway.store.looks() == [], "not before its time"


def test_a_forge_that_hangs_holds_up_no_other(
    gateway: Gateway, store: Store, forge: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answered = threading.Event(), threading.Event()

    class Hanging(Told):
        def describe(self, repository: Repository) -> ForgeRepository:
            asked.set()
            answered.wait()
            return super().describe(repository)

    elsewhere = msgspec.structs.replace(SAID, forge="gitlab", full_name="Bob/x", owner="Bob")
    hanging = Hanging(msgspec.structs.replace(elsewhere, name="x", owner_id="3"))
    monkeypatch.setattr(gateway, "forge", lambda name: hanging if name == "gitlab" else forge)
    found = looks.Looks(gateway)
    try:
        said = msgspec.json.encode(elsewhere)
        store.ask_to_look(Look(forge="gitlab", forge_id="10", said=said))
        found.run()
        assert asked.wait(10)
        store.ask_to_look(look())
        found.run()
        until(lambda: store.repository_at("github", "10"))
        assert "gitlab" in found.busy
    finally:
        answered.set()
    until(lambda: store.repository_at("gitlab", "10"))
    until(lambda: not found.busy)
    assert len(hanging.asked) == 1, "not once more while it is asked"


def test_what_is_gone_is_taken_down_and_what_is_only_hidden_is_not(
    gateway: Gateway, store: Store, forge: Told
) -> None:
    live(store)
    forge.answer = NotAllowed("not shown to everybody")
    taken(gateway, look())
    assert not store.repository("ann", "fns").gone
    assert not store.repository("ann", "fns").public, "its pages are not for everybody any more"
    forge.answer = NotFound("deleted")
    taken(gateway, look())
    assert store.repository("ann", "fns").gone
    assert store.releases("ann", "fns")[0].commit == NO_COMMIT


def test_where_nobody_can_tell_a_hook_s_event_says_no_other_name(
    gateway: Gateway, store: Store, forge: Told
) -> None:
    live(store)
    forge.answer = NotAllowed("not shown to us")
    said = msgspec.structs.replace(SAID, full_name="Victim/secret", owner="Victim", owner_id="")
    for hook, full_name in ((True, "Ann/fns"), (False, "Victim/secret")):
        wanted = look(hook=hook)
        taken(gateway, msgspec.structs.replace(wanted, said=msgspec.json.encode(said)))
        found = store.repository_at("github", "10")
        assert found is not None
        assert found.full_name == full_name


@pytest.mark.parametrize(
    ("called", "bound", "known"),
    [("Ann/fns", "10", ["ann/fns"]), ("ann/FNS", "10", ["ann/FNS"]), ("Acme/secret", "", [])],
)
def test_a_hook_names_no_id_of_another_repository(
    gateway: Gateway, store: Store, forge: Told, called: str, bound: str, known: list[str]
) -> None:
    """Whoever has its secret writes any id into an event, also one that is not known here."""
    store.add_hook(new_hook("5", "github", "Ann/fns", b"sealed"))
    owner, _, name = called.partition("/")
    forge.answer = msgspec.structs.replace(SAID, full_name=called, owner=owner, name=name)
    assert taken(gateway, look(hook=True, unknown="ann/fns", commit="c" * 40)) == []
    assert [each.key for each in store.repositories()] == known
    assert store.hook("5").forge_id == bound


def test_an_owner_with_a_new_login_keeps_what_is_live(
    gateway: Gateway, store: Store, forge: Told
) -> None:
    live(store)
    forge.answer = msgspec.structs.replace(SAID, full_name="Anna/fns", owner="Anna")
    taken(gateway, look())
    assert store.repository("ann", "fns").full_name == "Anna/fns"
    assert NO_COMMIT[0] not in commits(store)


def test_a_new_owner_who_cannot_have_it_leaves_what_is_live(
    gateway: Gateway, store: Store, forge: Told
) -> None:
    live(store)
    store.claim_namespace("bob", "https://gitlab.com#1")
    forge.answer = msgspec.structs.replace(SAID, full_name="Bob/fns", owner="Bob", owner_id="3")
    assert taken(gateway, look()) == []
    assert not store.repository("ann", "fns").gone
    store.link_owner(f"{HUB}#3", "bob")
    taken(gateway, look())
    assert store.repository("ann", "fns").gone
    assert commits(store, "bob/fns") == ["b"]


def test_what_another_app_had_is_not_gone(gateway: Gateway, store: Store) -> None:
    live(store, installation="5", app="1")
    store_app(gateway.settings, App(id=2, pem="of the new one"))
    taken(gateway, look())
    found = store.repository("ann", "fns")
    assert (found.gone, found.installation) == ("", "")
    store.save_repository(msgspec.structs.replace(found, installation="6", app="2"))
    taken(gateway, look())
    assert store.repository("ann", "fns").gone, "our own App has it no more"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (SAID, ""),
        (Unavailable("away"), ""),
        (NotFound("x"), "is not there any more"),
        (NotAllowed("x"), "is not shown to everybody"),
        (msgspec.structs.replace(SAID, full_name="Ann/new"), "is called Ann/new by now"),
        (msgspec.structs.replace(SAID, public=False), "is private by now"),
    ],
)
def test_a_name_is_held_against_the_id_before_a_release(
    store: Store, forge: Told, answer: object, told: str
) -> None:
    forge.answer = answer
    said = origins._moved(forge, live(store))  # type: ignore[arg-type]  # what of it is asked
    assert (told in said) if told else said == ""


@pytest.mark.parametrize(
    ("answer", "told", "looked"),
    [
        (SAID, "", False),
        (Unavailable("away"), "", False),
        (NotFound("x"), "is not there any more", True),
        (NotAllowed("hidden by now"), "", True),
        (msgspec.structs.replace(SAID, full_name="Ann/new"), "", True),
        (msgspec.structs.replace(SAID, public=False), "", True),
        (msgspec.structs.replace(SAID, owner="Bob", owner_id="3"), "belongs to Bob now", True),
    ],
)
def test_what_was_built_is_held_against_its_forge_once_more(
    gateway: Gateway, store: Store, forge: Told, answer: object, told: str, looked: bool
) -> None:
    forge.answer = answer
    said = origins._left(gateway, live(store))
    assert (told in said) if told else said == ""
    assert bool(store.looks()) is looked


def test_what_an_older_version_left_to_look_at_is_looked_at_once(
    gateway: Gateway, store: Store
) -> None:
    """Its record has fewer fields."""
    wanted = look(commit="c" * 40)
    raw = msgspec.json.decode(msgspec.json.encode(wanted))
    del raw["unknown"]
    store.redis.hset(keys.LOOKS, wanted.place, msgspec.json.encode(raw))
    (found,) = store.looks()
    looks.take(gateway, found)
    assert store.looks() == []
    assert commits(store) == ["c"]


def test_whoever_comes_from_an_installation_has_all_asked_for_anew(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, float]] = []

    def compare(_: Gateway, refused: dict[str, float]) -> None:
        asked.append(dict(refused))
        refused["10"] = time.monotonic()

    monkeypatch.setattr(looks, "compare_installations", compare)
    made = looks.Looks(gateway)
    for times in (1, 2):
        gateway.installed.set()
        made.run()
        until(lambda times=times: len(asked) == times and not made.busy)
    assert asked == [{}, {}]

"""The watch over releases, against a real store; what edge and replicas say of them is given."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from core.errors import Conflict
from core.models import Artifact, State, Traffic, Verdict, Watched
from core.settings import Settings
from core.store import LogEnd, Store
from runtime.edge import Route
from runtime.plan import Key
from runtime.replicas import Trouble
from runtime.watch import Watch
from tests.integration.test_rollbacks import release, roll, served
from tests.integration.test_store import artifact, building

OVER, LATER = "2020-01-01T00:00:00Z", "2099-01-01T00:00:00Z"
QUICK = Traffic(requests=100, p50_ms=5.0, p95_ms=20.0)
FAILING = Traffic(requests=20, errors=20)


class World:
    """A watch, and what it sees."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.store = store
        self.waiting = 0
        self.restarts: list[str] = []
        self.did: dict[str, Traffic] = {}
        self.healthy: dict[Key, int] = {}
        self.edge_away = False
        self.trouble: Trouble | None = None
        replicas: Any = SimpleNamespace(trouble=lambda _: self.trouble, troubled=set)
        receipts: Any = SimpleNamespace(pending=lambda _: False)
        edge: Any = SimpleNamespace(unanswered=lambda _: self.waiting)
        collector: Any = SimpleNamespace(
            watch=lambda functions, _: functions,
            restart=lambda _, functions: self.restarts.extend(functions),
            answered=lambda functions: {f: self.did.get(f, Traffic()) for f in functions},
            forget=lambda _: None,
        )
        self.watch = Watch(settings, store, replicas, receipts, edge, collector)

    def release(
        self, commit: str, artifacts: list[Artifact], until: str, before: Traffic = QUICK
    ) -> str:
        """A release that changes ``f``, live and watched."""
        id_ = building(self.store, commit)
        self.store.put_artifacts(id_, commit * 40, artifacts)
        self.store.switch(id_, lambda _: 1, watched=[Watched(name="f", before=before)])
        self.store.finish(id_, "http://x", until)
        return id_

    def look(self) -> bool:
        records = self.store.functions()
        table = {f: Route(each.spec.revision, ["h:1"]) for f, each in records.items()}
        return self.watch.look(records, {} if self.edge_away else table, self.healthy)

    def warm(self) -> None:
        """All that is desired now runs, and goes on running."""
        self.healthy |= {(f, each.spec.revision): 1 for f, each in self.store.functions().items()}

    def verdict(self, id_: str) -> Verdict | None:
        watch = self.store.release(id_).watch
        return watch and watch.verdict


@pytest.fixture
def world(settings: Settings, store: Store) -> World:
    return World(replace(settings, watch=2.0), store)


@pytest.mark.parametrize(
    ("before", "after", "waiting", "verdict"),
    [
        (QUICK, Traffic(), 3, Verdict.RETURNED),
        (QUICK, Traffic(), 2, Verdict.KEPT),
        (QUICK, Traffic(requests=1), 3, Verdict.KEPT),
        (Traffic(requests=5), Traffic(), 3, Verdict.KEPT),
        (Traffic(requests=100, p50_ms=5.0, p95_ms=9000.0), Traffic(), 3, Verdict.KEPT),
    ],
    ids=["mute", "a slow upload or two", "it answered", "little is known", "it was slow before"],
)
def test_who_was_quick_and_begins_no_answer_is_taken_back(
    world: World, before: Traffic, after: Traffic, waiting: int, verdict: Verdict
) -> None:
    release(world.store, "a", [artifact("f")])
    world.warm()
    until = datetime.now(UTC) + timedelta(seconds=0.5)
    second = world.release("b", [artifact("f", digest="1")], until.isoformat(), before)
    world.did, world.waiting = {"f.alice": after}, waiting
    world.look()
    time.sleep(0.6)
    world.look()
    assert world.verdict(second) is verdict


def test_who_waits_for_a_moment_only_says_nothing(world: World) -> None:
    """The edge was started anew, or the controller, and the time of the watch is over."""
    release(world.store, "a", [artifact("f")])
    world.warm()
    second = world.release("b", [artifact("f", digest="1")], OVER)
    world.waiting = 3
    world.look()
    assert world.verdict(second) is Verdict.KEPT


@pytest.mark.parametrize(("deaths", "verdict"), [(1, Verdict.KEPT), (2, Verdict.RETURNED)])
def test_what_died_with_the_machine_is_not_the_releases_fault(
    world: World, deaths: int, verdict: Verdict
) -> None:
    """The first that a new controller finds: that its replica is dead. The next one is its own."""
    release(world.store, "a", [artifact("f")])
    world.warm()
    second = world.release("b", [artifact("f", digest="1")], OVER)
    world.edge_away = True  # no route either
    world.trouble = Trouble(deaths, "ended", passing=False, at=time.monotonic(), next_start=0.0)
    world.look()
    assert world.verdict(second) is verdict


def test_what_was_asked_of_the_dead_is_not_held_against_them(world: World) -> None:
    """A new edge sends requests to the replicas that there were, until somebody looks."""
    release(world.store, "a", [artifact("f")])
    world.warm()
    second = world.release("b", [artifact("f", digest="1")], LATER)
    world.edge_away = True  # no route
    world.trouble = Trouble(1, "ended", passing=False, at=time.monotonic(), next_start=0.0)
    world.look()
    world.look()
    world.edge_away = False
    world.warm()
    world.look()
    assert world.restarts == 3 * ["f.alice"], "anew at each look, and when it is seen healthy"
    world.look()
    assert (len(world.restarts), world.verdict(second)) == (3, Verdict.WATCHING)
    world.did = {"f.alice": FAILING}
    world.look()
    assert world.verdict(second) is Verdict.RETURNED, "these it answered"


def test_who_dies_after_a_new_controller_saw_it_healthy_is_held_to_account(world: World) -> None:
    release(world.store, "a", [artifact("f")])
    world.warm()
    second = world.release("b", [artifact("f", digest="1")], LATER)
    world.warm()
    world.look()
    world.edge_away = True  # no route
    world.trouble = Trouble(1, "ended", passing=False, at=time.monotonic(), next_start=0.0)
    world.look()
    assert world.verdict(second) is Verdict.RETURNED


def test_what_is_ill_and_was_left_alone_is_no_reason_to_stay(world: World) -> None:
    release(world.store, "a", [artifact("f"), artifact("ill")])
    world.warm()
    del world.healthy["ill.alice", world.store.functions()["ill.alice"].spec.revision]
    second = world.release("b", [artifact("f", digest="1"), artifact("ill")], LATER)
    world.did = {"f.alice": FAILING}
    assert world.look(), "at once"
    assert world.verdict(second) is Verdict.RETURNED
    assert served(world.store)["f.alice"] == "0"


def test_a_reason_goes_with_the_function_that_gave_it(world: World) -> None:
    """What would come back does not run yet, and the admin is quicker."""
    store = world.store
    release(store, "a", [artifact("f"), artifact("g")])
    second = world.release("b", [artifact("f", digest="1"), artifact("g", digest="1")], LATER)
    world.did = {"f.alice": FAILING}
    assert not world.look()
    assert [want.spec.name for want in world.watch.wants()] == ["f", "g"]
    roll(store, function="f")
    world.warm()
    assert not world.look()
    assert list(world.watch.wants()) == []
    assert served(store) == {"f.alice": "0", "g.alice": "1"}
    assert world.verdict(second) is Verdict.WATCHING
    roll(store, function="g")
    with pytest.raises(Conflict, match="nothing of it serves any more"):
        store.take_back(second, [], "x")


def test_a_log_ends_though_its_release_came_again_before_the_routes_followed(world: World) -> None:
    store = world.store
    first = release(store, "a", [artifact("f")])
    world.warm()
    second = world.release("b", [artifact("f", digest="1")], LATER)
    world.did, world.edge_away = {"f.alice": FAILING}, True
    assert world.look()
    world.look()
    assert [*store.follow_log(second, follow=False)] == [], "the routes do not follow yet"
    roll(store, to=second)
    world.edge_away = False
    world.look()
    ends = [each for each in store.follow_log(second, follow=False) if isinstance(each, LogEnd)]
    assert [each.state for each in ends] == [State.LIVE]
    assert (store.watched(), store.live_release("alice/fns")) == ([], second)
    assert store.release(first).state is State.REPLACED

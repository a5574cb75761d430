"""Previews of requests: their records, from events in any order and from what the forge lists, with
a real store."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import msgspec
import pytest

from core import keys
from core.errors import Conflict, InvalidRequest, NotAllowed, NotFound
from core.models import Artifact, FunctionRecord, FunctionSpec, Release, State, now
from core.names import NO_COMMIT
from core.policy import Held, OwnerPolicy, Policy
from core.previews import ForkRules, pushed
from core.repositories import Repository
from core.settings import Settings
from core.store import Store
from forges.api import Later
from forges.events import PullRequest
from gateway import previews, previewwatch
from gateway.previewwatch import ASK_EVERY, ASK_QUIET, KEPT, KEPT_UNTOLD, PreviewWatch
from tests.integration.requests_of import BASE, commit, event, known

FORK = "666"


@pytest.fixture(autouse=True)
def _base(store: Store) -> None:
    store.claim_namespace("alice", "https://github.com#1", BASE)
    store.save_repository(BASE)


class Listing:
    """A forge of which only the list of open requests is asked."""

    def __init__(self, *found: PullRequest) -> None:
        self.found: Sequence[PullRequest] = found
        self.asked: list[str] = []
        self.error: Exception | None = None

    def requests(self, repository: Repository) -> Sequence[PullRequest]:
        self.asked.append(repository.key)
        if self.error:
            raise self.error
        return self.found


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return datetime.fromisoformat(now()).timestamp() + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def forge() -> Listing:
    return Listing()


@pytest.fixture
def watch(settings: Settings, store: Store, forge: Listing, clock: Clock) -> PreviewWatch:
    return PreviewWatch(settings, store, lambda _: forge, clock)  # type: ignore[arg-type,return-value]  # of a forge only this


def tell(
    settings: Settings, store: Store, told: PullRequest, of: Repository = BASE
) -> tuple[Release | None, str]:
    return previews.apply(settings, store, told, of)


def the(store: Store, number: int = 5, parent: str = BASE.key) -> Repository:
    found = store.preview(parent, number)
    assert found is not None
    return found


def live(store: Store, release: Release, *functions: str) -> None:
    """Plays builder and controller: the release's functions are the desired state."""
    specs = [
        FunctionSpec(
            name=name,
            namespace=release.namespace,
            artifact=f"bundle:sha256:{'0' * 64}",
            repository=release.repository,
            commit=release.commit,
        )
        for name in functions
    ]
    store.move(release.id, [State.QUEUED], State.BUILDING)
    artifacts = [
        Artifact(name=each.name, key="", artifact=each.artifact, spec=each) for each in specs
    ]
    store.put_artifacts(release.id, release.commit, artifacts)
    store.switch(release.id, lambda _: 1, warm=300.0)
    store.finish(release.id, "http://127.0.0.1:8080")


def functions(store: Store) -> dict[str, FunctionRecord]:
    return store.functions()


# ------------------------------------------------------------------------- what an event makes


def test_a_request_gets_a_preview_of_its_own(settings: Settings, store: Store) -> None:
    release, told = tell(settings, store, event("a", title="Faster\x1b[31m\n checkout"))
    assert release is not None
    assert (release.namespace, release.repository) == ("alice--pr-5", "shop")
    assert (release.branch, release.commit) == ("refs/pull/5/head", commit("a"))
    assert release.id in told
    preview = the(store)
    assert preview.request is not None
    assert (preview.parent, preview.full_name, preview.forge_id) == (
        "alice/shop",
        "Alice/shop",
        "100",
    )
    assert preview.request.title == "Faster [31m  checkout"
    assert not preview.request.fork
    assert {"alice--pr-5", "alice--preview"} < set(store.namespaces())
    store.create_secret(
        store.sealing_key(settings.secrets_key), "alice--preview", "token", b"of previews"
    )


def test_a_push_to_it_is_released_and_the_same_once_more_is_not(
    settings: Settings, store: Store
) -> None:
    first, _ = tell(settings, store, event("a", after=0))
    second, _ = tell(settings, store, event("b", after=5))
    assert first is not None
    assert second is not None
    assert (second.commit, store.release(first.id).state) == (commit("b"), State.SUPERSEDED)
    again, told = tell(settings, store, event("b", after=5))
    assert again is None
    assert "as it is to be" in told
    assert len(store.releases("alice--pr-5", "shop")) == 2


def test_two_repositories_have_requests_of_the_same_number(
    settings: Settings, store: Store
) -> None:
    other = known("alice", "200", "blog")
    store.save_repository(other)
    one, _ = tell(settings, store, event("a"))
    two, _ = tell(settings, store, event("b", of=other), other)
    assert one is not None
    assert two is not None
    assert one.namespace == "alice--pr-5"
    assert two.namespace.startswith("alice--pr-5-")
    again, _ = tell(settings, store, event("c", of=other), other)
    assert again is not None
    assert again.namespace == two.namespace, "it keeps it"


@pytest.mark.parametrize(
    "change",
    [
        {"reference": "refs/heads/master"},
        {"reference": "refs/pull/6/head"},
        {"reference": "refs/pull/5/head\n"},
        {"reference": "refs/pull/../5/head"},
        {"commit": "--upload-pack=evil"},
        {"repository": event(of=known("alice", "999")).repository},
    ],
)
def test_an_event_that_names_no_request_of_it_is_refused(
    settings: Settings, store: Store, change: dict[str, object]
) -> None:
    before = set(store.redis.keys())
    with pytest.raises(InvalidRequest):
        tell(settings, store, msgspec.structs.replace(event("a"), **change))
    assert set(store.redis.keys()) == before


def test_previews_can_be_off(settings: Settings, store: Store) -> None:
    tell(settings, store, event("a"))
    off = replace(settings, previews=False)
    release, told = tell(off, store, event("b", number=6))
    assert release is None
    assert "SLIPWAY_PREVIEWS" in told
    PreviewWatch(off, store, lambda _: Listing()).run()  # type: ignore[arg-type,return-value]
    assert "SLIPWAY_PREVIEWS" in the(store).gone


def test_requests_of_forks_that_wait_are_few(
    settings: Settings, store: Store, watch: PreviewWatch
) -> None:
    for number in range(1, 11):
        tell(settings, store, event("a", number=number, head=FORK))
    _, told = tell(settings, store, event("a", number=11, head=FORK))
    assert told.startswith("no preview of request 11: 10 requests of forks wait, and more may not")
    assert "approve or close 1, 2, 3" in told
    assert store.preview(BASE.key, 11) is None
    assert "alice--pr-11" not in store.namespaces()
    again, told = tell(settings, store, event("b", number=10, head=FORK))
    assert again is None
    assert "nobody has approved its commit" in told, "who is there already stays"
    own, _ = tell(settings, store, event("a", number=12))
    assert own is not None, "the repository's own are counted apart"
    previews.approve(settings, store, BASE.key, 3, commit("a"))
    tell(settings, store, event("a", number=11, head=FORK))
    tell(settings, store, event("a", number=4, head=FORK, open_=False))
    watch.reconcile(BASE, [event("c", number=14, head=FORK)], 0.0)
    assert all(store.preview(BASE.key, number) for number in (11, 14)), "there is room again"


@pytest.mark.parametrize("head", [None, FORK])
def test_a_repository_has_so_many_previews(
    settings: Settings,
    store: Store,
    clock: Clock,
    watch: PreviewWatch,
    monkeypatch: pytest.MonkeyPatch,
    head: str | None,
) -> None:
    monkeypatch.setattr(previews, "MOST", 3)
    monkeypatch.setattr(Store, "fork_rules", lambda *_: ForkRules("always"))
    for number in (1, 2, 3):
        assert tell(settings, store, event("a", number=number, head=head))[0] is not None
    refused, told = tell(settings, store, event("a", number=4, head=head))
    assert refused is None
    whose = "requests of forks" if head else "requests"
    assert told.startswith(f"no preview of request 4: 3 {whose} have previews, and more may not")
    clock.ahead = settings.preview_lifetime + 10
    watch.run()
    assert "SLIPWAY_PREVIEW_LIFETIME" in the(store, 1).gone
    late, _ = tell(settings, store, event("a", number=4, head=head))
    assert (late is None) == bool(head), "strangers could have any number that are too old"
    clock.ahead = 0.0
    for number in (1, 2):
        tell(settings, store, event("b", number=number, head=head))
    last, told = tell(settings, store, event("b", number=3, head=head))
    assert (last is None) == (not head), "one that was too old needs room again"


def test_one_request_that_is_refused_is_not_the_end_of_the_others(
    store: Store, watch: PreviewWatch
) -> None:
    store.claim_namespace("alice--pr-6", "somebody", known("bob", "9"))
    mark = hashlib.sha256(b"github 100").hexdigest()[:8]
    store.redis.hset(keys.NAMESPACES, f"alice--pr-6-{mark}", "somebody")
    wrong = msgspec.structs.replace(event("a", number=5), reference="refs/heads/evil")
    watch.reconcile(BASE, [wrong, event("a", number=6), event("a", number=7)], 0.0)
    assert store.preview(BASE.key, 5) is None
    assert store.preview(BASE.key, 6) is None
    assert the(store, 7).request is not None


# --------------------------------------------------------------------------------- its end


def test_a_closed_request_leaves_nothing(
    settings: Settings, store: Store, watch: PreviewWatch, clock: Clock
) -> None:
    release, _ = tell(settings, store, event("a", after=0))
    assert release is not None
    live(store, release, "web")
    key = store.sealing_key(settings.secrets_key)
    store.create_secret(key, "alice--pr-5", "own", b"x")
    store.set_variables("alice--pr-5", {"A": "b"})
    moving, _ = tell(settings, store, event("b", after=1))
    assert moving is not None
    _, told = tell(settings, store, event("b", open_=False, after=2))
    assert "taken down" in told
    assert functions(store) == {}
    assert store.release(moving.id).state is State.CANCELLED
    assert store.release(release.id).state is State.REPLACED
    assert store.warm() == {}
    watch.run()
    assert the(store).gone == "the request was closed", "so that the forge can be told"
    clock.ahead = KEPT + 10
    watch.run()
    assert store.preview(BASE.key, 5), "its forge was not told yet"
    reported(store)
    watch.run()
    assert store.preview(BASE.key, 5) is None
    assert store.find_repository("alice--pr-5/shop") is None
    assert "alice--pr-5" not in store.namespaces()
    assert store.secrets("alice--pr-5") == []
    assert store.variables("alice--pr-5") == {}
    store.retain("alice--pr-5/shop", -1)  # as housekeeping does of what is gone
    assert traces(store, "pr-5") == []


def reported(store: Store) -> None:
    """Plays the reporter: forges were told of everything."""
    store.redis.delete(keys.REPORTING)


def test_for_a_forge_that_is_away_the_end_is_kept_an_hour_at_most(
    settings: Settings, store: Store, watch: PreviewWatch, clock: Clock
) -> None:
    tell(settings, store, event("a", after=0))
    tell(settings, store, event("a", open_=False, after=9))
    clock.ahead = KEPT_UNTOLD - 10
    watch.run()
    assert store.preview(BASE.key, 5)
    clock.ahead = KEPT_UNTOLD + 10
    watch.run()
    assert store.preview(BASE.key, 5) is None


def traces(store: Store, of: str) -> list[str]:
    """Everything in the store that has ``of`` in it: names of keys, fields, members and values."""
    readers: dict[str, tuple[str, tuple[object, ...]]] = {
        "hash": ("HGETALL", ()),
        "set": ("SMEMBERS", ()),
        "zset": ("ZRANGE", (0, -1)),
        "list": ("LRANGE", (0, -1)),
        "stream": ("XRANGE", ("-", "+")),
        "string": ("GET", ()),
    }
    found = []
    for key in store.redis.scan_iter():
        command, more = readers[store.redis.type(key).decode()]
        content = repr(store.redis.execute_command(command, key, *more))
        if of in key.decode() or of in content:
            found.append(key.decode())
    return found


def test_reopened_it_comes_back(settings: Settings, store: Store, watch: PreviewWatch) -> None:
    tell(settings, store, event("a", after=0))
    tell(settings, store, event("a", open_=False, after=5))
    release, _ = tell(settings, store, event("a", after=9))
    assert release is not None
    assert the(store).gone == ""
    watch.run()
    assert store.release(release.id).state is State.QUEUED


def test_the_end_is_reached_whoever_dies_before_it(
    settings: Settings, store: Store, watch: PreviewWatch
) -> None:
    """Between the record and what follows from it."""
    release, _ = tell(settings, store, event("a"))
    assert release is not None
    live(store, release, "web")
    store.change_preview(BASE.key, 5, lambda found: previews.closed(found, previews.CLOSED))
    assert functions(store), "nobody came to it"
    watch.run()
    assert functions(store) == {}


def test_a_release_that_was_not_made_is_made(
    settings: Settings, store: Store, watch: PreviewWatch
) -> None:
    tell(settings, store, event("a"))
    store.change_preview(BASE.key, 5, lambda found: pushed(found, commit("b")))
    watch.run()
    newest = store.newest_release("alice--pr-5/shop")
    assert newest is not None
    assert newest.commit == commit("b")
    watch.run()
    assert store.newest_release("alice--pr-5/shop") == newest


def test_what_goes_live_as_it_is_closed_goes_again(
    settings: Settings, store: Store, watch: PreviewWatch
) -> None:
    release, _ = tell(settings, store, event("a"))
    assert release is not None
    store.change_preview(BASE.key, 5, lambda found: previews.closed(found, previews.CLOSED))
    live(store, release, "web")
    watch.run()
    assert functions(store) == {}


def test_nothing_is_forgotten_that_was_opened_again(settings: Settings, store: Store) -> None:
    tell(settings, store, event("a", after=0))
    tell(settings, store, event("a", open_=False, after=1))
    seen = the(store)
    tell(settings, store, event("a", after=2))
    assert not store.forget_preview(seen)
    assert the(store).gone == ""


def test_too_old_it_goes_and_the_next_push_brings_it_back(
    settings: Settings, store: Store, watch: PreviewWatch, forge: Listing, clock: Clock
) -> None:
    forge.found = [event("a")]
    release, _ = tell(settings, store, event("a"))
    assert release is not None
    live(store, release, "web")
    clock.ahead = settings.preview_lifetime - 60
    watch.run()
    assert functions(store)
    clock.ahead = settings.preview_lifetime + 60
    watch.run()
    assert functions(store) == {}
    assert "SLIPWAY_PREVIEW_LIFETIME" in the(store).gone
    clock.ahead = 10 * settings.preview_lifetime
    watch.run()
    assert the(store).gone, "it is open still: not forgotten"
    none, told = tell(settings, store, event("a", title="only another title"))
    assert none is None
    assert "push to bring it back" in told
    clock.ahead = 0
    back, _ = tell(settings, store, event("b"))
    assert back is not None
    assert the(store).gone == ""


def test_a_base_that_was_transferred_or_is_gone_takes_its_previews_along(
    settings: Settings, store: Store, watch: PreviewWatch
) -> None:
    release, _ = tell(settings, store, event("a"))
    assert release is not None
    live(store, release, "web")
    moved = known("bob", "100")
    store.claim_namespace("bob", "https://github.com#2", moved)
    store.save_repository(moved)
    store.save_repository(msgspec.structs.replace(BASE, gone="it was transferred to Bob"))
    watch.run()
    assert functions(store) == {}
    assert "transferred to Bob" in the(store).gone
    new, _ = tell(settings, store, event("b", of=moved), moved)
    assert new is not None
    assert new.namespace == "bob--pr-5"


def no_forks(rule: str) -> Held:
    policy = Policy(default=OwnerPolicy(fork_previews=rule))  # type: ignore[arg-type]  # as it is given
    return Held(source="/policy.yml", policy=policy)


@pytest.mark.parametrize("reason", ["previews", "parent", "forks"])
def test_what_we_ended_ourselves_is_back_when_the_reason_is_over(
    settings: Settings, store: Store, forge: Listing, clock: Clock, reason: str
) -> None:
    settings = replace(settings, policy="/policy.yml")
    assert store.hold_policy(None, no_forks("always"))
    first, _ = tell(settings, store, event("a", after=0, head=FORK))
    assert first is not None
    live(store, first, "web")

    def run(*, over: bool) -> None:
        off = replace(settings, previews=reason != "previews" or over)
        parent = BASE if reason != "parent" or over else replaced(BASE, gone="uninstalled")
        store.save_repository(parent)
        rule = "never" if reason == "forks" and not over else "always"
        assert store.hold_policy(store.held_policy(), no_forks(rule))
        made = PreviewWatch(off, store, lambda _: forge, clock)  # type: ignore[arg-type,return-value]
        store.redis.delete(keys.lock("previews"))
        made.run()

    run(over=False)
    assert (functions(store), bool(the(store).gone)) == ({}, True)
    clock.ahead = KEPT_UNTOLD + 10
    run(over=False)
    assert the(store).gone, "it is open: not forgotten yet"
    run(over=True)
    assert the(store).gone == ""
    again = store.newest_release("alice--pr-5/shop")
    assert again is not None
    assert (again.commit, again.id != first.id) == (commit("a"), True)
    clock.ahead = 0
    run(over=False)
    clock.ahead = 2 * settings.preview_lifetime
    run(over=False)
    assert store.preview(BASE.key, 5) is None, "it lasted"
    assert store.closed_at("github", "100", 5) is None, "the forge told no end"
    run(over=True)
    back, _ = tell(settings, store, event("a", after=0, head=FORK))
    assert back is not None


def replaced(repository: Repository, **fields: object) -> Repository:
    return msgspec.structs.replace(repository, **fields)  # type: ignore[arg-type]  # of the record


def test_a_preview_of_what_is_another_repository_now_is_forgotten_without_an_end(
    settings: Settings, store: Store, watch: PreviewWatch, clock: Clock
) -> None:
    tell(settings, store, event("a", after=0))
    store.save_repository(replaced(BASE, forge_id="999"))
    watch.run()
    assert "another repository now" in the(store).gone
    clock.ahead = KEPT_UNTOLD + 10
    watch.run()
    assert store.preview(BASE.key, 5) is None
    assert store.closed_at("github", "100", 5) is None
    assert "alice--pr-5" not in store.namespaces()


@pytest.mark.parametrize("forgotten", [False, True])
def test_what_the_forge_lists_as_open_is_open_however_old_its_last_event(
    settings: Settings, store: Store, watch: PreviewWatch, clock: Clock, forgotten: bool
) -> None:
    tell(settings, store, event("a", after=0))
    clock.ahead = ASK_EVERY
    watch.reconcile(BASE, [], clock())
    assert the(store).gone == previews.CLOSED
    if forgotten:
        clock.ahead = KEPT_UNTOLD + 10
        watch.run()
        assert store.preview(BASE.key, 5) is None
        assert store.closed_at("github", "100", 5)
    watch.reconcile(BASE, [event("a", after=0)], clock())
    assert the(store).gone == ""
    newest = store.newest_release("alice--pr-5/shop")
    assert newest is not None
    assert newest.state is State.QUEUED


def test_what_is_closed_while_the_forge_is_asked_stays_closed(
    settings: Settings, store: Store, watch: PreviewWatch, clock: Clock
) -> None:
    tell(settings, store, event("a", after=0))
    asked_at = clock() - 1
    tell(settings, store, event("a", open_=False, after=0))
    watch.reconcile(BASE, [event("a", after=0)], asked_at)
    assert the(store).gone == previews.CLOSED


def test_a_reference_that_comes_late_brings_its_preview_back(
    settings: Settings, store: Store, watch: PreviewWatch, clock: Clock
) -> None:
    """As GitLab's may, which are made after the event."""
    first, _ = tell(settings, store, event("a", after=0))
    store.change_preview(BASE.key, 5, lambda found: pushed(found, NO_COMMIT))
    watch.settle(the(store))
    clock.ahead = KEPT_UNTOLD + 10
    watch.settle(the(store))
    assert "has the head of the request no more" in the(store).gone
    assert previews.released(settings, store, the(store)) is None
    store.change_preview(BASE.key, 5, lambda found: pushed(found, commit("a")))
    watch.settle(the(store))
    assert the(store).gone == ""
    again = store.newest_release("alice--pr-5/shop")
    assert again is not None
    assert (again.state, again == first) == (State.QUEUED, False)


def test_a_gateway_that_dies_holds_up_the_next_one_for_seconds(
    store: Store, watch: PreviewWatch
) -> None:
    watch.run()
    assert 0 < store.redis.pttl(keys.lock("previews")) <= 15_000


def test_a_renamed_base_is_followed(settings: Settings, store: Store, watch: PreviewWatch) -> None:
    tell(settings, store, event("a"))
    store.save_repository(msgspec.structs.replace(BASE, full_name="Alice/store", installation="7"))
    watch.run()
    assert (the(store).full_name, the(store).installation) == ("Alice/store", "7")


# ----------------------------------------------------------------------- lost, doubled, shuffled


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_events_in_any_order_end_alike(
    settings: Settings, store: Store, order: Sequence[int]
) -> None:
    """Opened, pushed to, closed, and one of them twice."""
    told = [
        event("a", after=0),
        event("b", after=5),
        event("b", open_=False, after=9),
        event("a", after=0),
    ]
    for each in order:
        tell(settings, store, told[each])
    preview = store.preview(BASE.key, 5)
    assert preview is None or preview.gone == previews.CLOSED
    for release in store.releases("alice--pr-5", "shop"):
        assert release.state.final


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_newest_push_counts_in_any_order(
    settings: Settings, store: Store, order: Sequence[int]
) -> None:
    told = [event(digit, after=after) for digit, after in (("a", 0), ("b", 5), ("c", 9))]
    for each in order:
        tell(settings, store, told[each])
    request = the(store).request
    assert request is not None
    assert request.commit == commit("c")
    newest = store.newest_release("alice--pr-5/shop")
    assert newest is not None
    assert newest.commit == commit("c")


def test_an_old_event_does_not_revive_what_was_forgotten(
    settings: Settings, store: Store, watch: PreviewWatch, clock: Clock
) -> None:
    tell(settings, store, event("a", after=0))
    tell(settings, store, event("a", open_=False, after=9))
    clock.ahead = KEPT + 10
    reported(store)
    watch.run()
    assert store.preview(BASE.key, 5) is None
    release, told = tell(settings, store, event("a", after=0))
    assert (release, "closed after this event" in told) == (None, True)
    again, _ = tell(settings, store, event("a", after=20))
    assert again is not None, "it was opened again"


def test_the_forge_is_asked_what_the_hooks_missed(
    settings: Settings, store: Store, watch: PreviewWatch, forge: Listing, clock: Clock
) -> None:
    tell(settings, store, event("a", number=5))
    forge.found = [event("b", number=6), event("c", number=7, head=FORK)]
    watch.run()
    assert forge.asked == [], "spread out"
    clock.ahead = ASK_EVERY
    watch.run()
    assert forge.asked == [BASE.key]
    assert the(store, 5).gone == previews.CLOSED
    newest = store.newest_release("alice--pr-6/shop")
    assert newest is not None
    assert newest.commit == commit("b")
    assert store.newest_release("alice--pr-7/shop") is None, "a fork waits"
    watch.run()
    assert forge.asked == [BASE.key], "not before its time"


def test_a_request_that_came_while_the_forge_was_asked_stays(
    settings: Settings, store: Store, watch: PreviewWatch, clock: Clock
) -> None:
    tell(settings, store, event("a"))
    watch.reconcile(BASE, [], clock())
    assert the(store).gone == ""


@pytest.mark.parametrize(
    ("error", "pause"),
    [
        (Later("limited", 2000.0), 2000.0),
        (NotAllowed("no token"), ASK_QUIET),
        (NotFound("hidden"), ASK_QUIET),
        (ModuleNotFoundError("forges.github.client"), ASK_QUIET),
    ],
)
def test_a_forge_that_does_not_answer_ends_nothing(
    settings: Settings,
    store: Store,
    watch: PreviewWatch,
    forge: Listing,
    clock: Clock,
    error: Exception,
    pause: float,
) -> None:
    tell(settings, store, event("a"))
    watch.run()
    forge.error = error
    clock.ahead = ASK_EVERY
    watch.run()
    assert len(forge.asked) == 1
    assert the(store).gone == ""
    clock.ahead = ASK_EVERY + pause - 10
    watch.run()
    assert len(forge.asked) == 1
    clock.ahead = ASK_EVERY + pause + 10
    watch.run()
    assert len(forge.asked) == 2


def test_one_gateway_looks(settings: Settings, store: Store, watch: PreviewWatch) -> None:
    tell(settings, store, event("a"))
    watch.run()
    store.save_repository(msgspec.structs.replace(BASE, gone="deleted"))
    PreviewWatch(settings, store, lambda _: Listing()).run()  # type: ignore[arg-type,return-value]
    assert the(store).gone == ""
    watch.run()
    assert the(store).gone


def test_of_many_open_requests_those_that_are_not_listed_stay(
    settings: Settings,
    store: Store,
    watch: PreviewWatch,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(previewwatch, "MOST", 2)
    for number in (1, 5):
        tell(settings, store, event("a", number=number))
    clock.ahead = 3600
    watch.reconcile(BASE, [event("b", number=8), event("b", number=4)], clock())
    assert the(store, 1).gone == "", "older than what is listed: nobody knows"
    assert the(store, 5).gone == previews.CLOSED


# ----------------------------------------------------------------------------------------- forks


def test_a_fork_waits_for_approval(settings: Settings, store: Store, watch: PreviewWatch) -> None:
    release, told = tell(settings, store, event("a", head=FORK))
    assert release is None
    assert f"slipway approve alice/shop 5 --commit {commit('a')}" in told
    watch.run()
    assert store.releases("alice--pr-5", "shop") == []
    assert "alice--preview" not in store.namespaces(), "it gets no secrets at all"


def test_approved_is_what_was_seen_and_nothing_that_was_pushed_since(
    settings: Settings, store: Store, watch: PreviewWatch
) -> None:
    tell(settings, store, event("a", head=FORK))
    tell(settings, store, event("b", head=FORK))
    with pytest.raises(Conflict, match=f"is {commit('b')} and not {commit('a')}"):
        previews.approve(settings, store, BASE.key, 5, commit("a"))
    approved = previews.approve(settings, store, BASE.key, 5, commit("b"))
    release = previews.released(settings, store, approved)
    assert release is not None
    assert (release.commit, store.pinned(release.id)) == (commit("b"), True)
    assert previews.released(settings, store, the(store)) is None, "once"
    later, told = tell(settings, store, event("c", head=FORK))
    assert (later, "nobody has approved" in told) == (None, True)
    watch.run()
    assert len(store.releases("alice--pr-5", "shop")) == 1


@pytest.mark.parametrize("head", ["", FORK])
def test_once_a_fork_always_a_fork(settings: Settings, store: Store, head: str) -> None:
    """Also one that was deleted; and whatever it is called: its id tells."""
    tell(settings, store, event("a", head=head))
    release, _ = tell(settings, store, event("b"))
    assert release is None
    request = the(store).request
    assert request is not None
    assert request.fork


def test_what_cannot_be_approved(settings: Settings, store: Store) -> None:
    with pytest.raises(NotFound):
        previews.approve(settings, store, BASE.key, 5, commit("a"))
    tell(settings, store, event("a"))
    with pytest.raises(Conflict, match="needs no approval"):
        previews.approve(settings, store, BASE.key, 5, commit("a"))
    tell(settings, store, event("a", number=6, head=FORK))
    tell(settings, store, event("a", number=6, head=FORK, open_=False))
    with pytest.raises(NotFound, match="no open request 6"):
        previews.approve(settings, store, BASE.key, 6, commit("a"))


@pytest.mark.parametrize(
    ("new", "old", "stale"),
    [
        ("2026-11-01 12:00:00 UTC", "2026-11-01T12:00:01Z", True),
        ("2026-11-01 12:00:02 UTC", "2026-11-01T12:00:01Z", False),
        ("2026-11-01T13:00:00+01:00", "2026-11-01T12:00:01Z", True),
        ("yesterday", "2026-11-01T12:00:01Z", False),
        ("", "2026-11-01T12:00:01Z", False),
    ],
)
def test_forges_clocks_are_read_as_each_writes_them(
    settings: Settings, store: Store, new: str, old: str, stale: bool
) -> None:
    tell(settings, store, msgspec.structs.replace(event("a"), updated_at=old))
    tell(settings, store, msgspec.structs.replace(event("b"), updated_at=new))
    request = the(store).request
    assert request is not None
    assert request.commit == commit("a" if stale else "b")

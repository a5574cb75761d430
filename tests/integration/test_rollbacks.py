"""Rollbacks and returns against a real store: what is desired afterwards, and who was quicker."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from core.errors import Conflict, InvalidRequest, NotFound
from core.models import (
    Artifact,
    FunctionSpec,
    OpenReceipt,
    Receipt,
    RollbackState,
    State,
    Traffic,
    Verdict,
    Watched,
)
from core.names import TAKES_OVER
from core.repositories import Repository
from core.store import LogEnd, Store
from tests.integration.test_store import FNS, artifact, building

HOUR = 3600.0


def release(
    store: Store,
    commit: str,
    artifacts: list[Artifact],
    *,
    repository: Repository = FNS,
    watched: tuple[str, ...] = (),
    finish: bool = True,
) -> str:
    id_ = building(store, commit, repository)
    store.put_artifacts(id_, commit * 40, artifacts)
    figures = [Watched(name=name, before=Traffic()) for name in watched]
    store.switch(id_, lambda _: 1, warm=HOUR, watched=figures)
    if finish:
        store.finish(id_, "http://x", "2030-01-01T00:00:00Z")
    return id_


def served(store: Store) -> dict[str, str]:
    """Function → the first digit of its artifact's digest."""
    return {f: record.spec.artifact[14] for f, record in store.functions().items()}


def roll(store: Store, **more: str) -> str:
    """The way that the controller goes."""
    rollback = store.create_rollback("alice", "fns", **more)
    store.roll_back(rollback.id, store.rollback_specs(rollback), lambda _: 1, warm=HOUR)
    store.finish_rollback(rollback.id)
    return rollback.id


def states(store: Store, *ids: str) -> list[State]:
    return [store.release(id_).state for id_ in ids]


def test_a_repository_goes_back_whole(store: Store) -> None:
    first = release(store, "a", [artifact("f"), artifact("gone")])
    second = release(store, "b", [artifact("f", digest="1"), artifact("new")])
    id_ = roll(store)
    assert served(store) == {"f.alice": "0", "gone.alice": "0"}
    assert {r.pinned for r in store.functions().values()} == {id_}
    assert {r.spec.commit for r in store.functions().values()} == {"a" * 40}
    assert states(store, first, second) == [State.LIVE, State.ROLLED_BACK]
    assert store.live_release(FNS.key) == first
    assert store.warm()["f.alice"].spec.artifact[14] == "1", "for the way forward"
    done = store.rollback(id_)
    assert (done.state, done.from_, done.to) == (RollbackState.DONE, second, first)
    assert store.rolling() == []
    roll(store, to=second)
    assert served(store) == {"f.alice": "1", "new.alice": "0"}
    assert states(store, first, second) == [State.REPLACED, State.LIVE]


def test_a_function_goes_back_alone_and_a_newer_commit_ends_the_pin(store: Store) -> None:
    release(store, "a", [artifact("f"), artifact("g")])
    second = release(store, "b", [artifact("f", digest="1"), artifact("g", digest="1")])
    roll(store, function="f")
    assert served(store) == {"f.alice": "0", "g.alice": "1"}
    assert store.live_release(FNS.key) == second
    assert store.create_release(FNS, "b" * 40, "main").id == second, "no new push, no release"
    release(store, "c", [artifact("f", digest="2"), artifact("g", digest="1")])
    assert served(store) == {"f.alice": "2", "g.alice": "1"}
    assert {r.pinned for r in store.functions().values()} == {""}


def test_a_pin_ends_by_hand(store: Store) -> None:
    release(store, "a", [artifact("f")])
    second = release(store, "b", [artifact("f", digest="1")])
    roll(store, function="f")
    roll(store, function="f", to=second)
    assert served(store) == {"f.alice": "1"}
    assert store.functions()["f.alice"].pinned == ""
    assert states(store, second) == [State.LIVE]


def test_what_was_rolled_back_is_not_released_again_by_an_event_of_its_commit(store: Store) -> None:
    release(store, "a", [artifact("f")])
    second = release(store, "b", [artifact("f", digest="1")])
    roll(store)
    assert store.create_release(FNS, "b" * 40, "main", delivery=("github", "9")).id == second
    assert store.create_release(FNS, "b" * 40, "main", again=True).id != second


def test_only_what_was_live_and_is_something_else_can_be_gone_back_to(store: Store) -> None:
    with pytest.raises(Conflict, match="nothing of alice/fns is live"):
        store.create_rollback("alice", "fns")
    first = release(store, "a", [artifact("f")])
    with pytest.raises(Conflict, match="nothing else was live of alice/fns before"):
        store.create_rollback("alice", "fns")
    failed = building(store, "b")
    store.move(failed, [State.BUILDING], State.FAILED, "x")
    release(store, "c", [artifact("f"), artifact("g")])
    release(store, "d", [artifact("f"), artifact("g")])
    found = store.create_rollback("alice", "fns")
    assert found.to == first, "the one in between brought the same"
    with pytest.raises(Conflict, match=f"{found.id} of alice/fns is under way"):
        store.create_rollback("alice", "fns")
    store.fail_rollback(found.id, "x")
    refused: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"to": failed}, Conflict, "it is failed"),
        ({"to": "r99"}, NotFound, "no release"),
        ({"to": first, "function": "g"}, NotFound, "had no function g"),
        ({"function": "h"}, NotFound, "no function h now"),
        ({"function": "f"}, Conflict, "nothing else was live of f before"),
    ]
    for more, kind, told in refused:
        with pytest.raises(kind, match=told):
            store.create_rollback("alice", "fns", **more)
    other = msgspec.structs.replace(FNS, name="other")
    theirs = release(store, "e", [artifact("x", "other")], repository=other)
    with pytest.raises(InvalidRequest, match="is of alice/other"):
        store.create_rollback("alice", "fns", to=theirs)


def test_a_newer_release_comes_before_a_rollback_under_way(store: Store) -> None:
    release(store, "a", [artifact("f")])
    release(store, "b", [artifact("f", digest="1")])
    rollback = store.create_rollback("alice", "fns")
    specs = store.rollback_specs(rollback)
    third = release(store, "c", [artifact("f", digest="2")], finish=False)
    with pytest.raises(Conflict, match=f"{third} is going live"):
        store.roll_back(rollback.id, specs, lambda _: 1)
    store.finish(third, "http://x")
    with pytest.raises(Conflict, match=f"{third} is live by now"):
        store.roll_back(rollback.id, specs, lambda _: 1)
    assert served(store) == {"f.alice": "2"}


def test_a_newer_release_may_switch_before_the_rollbacks_routes_follow(store: Store) -> None:
    first = release(store, "a", [artifact("f")])
    second = release(store, "b", [artifact("f", digest="1")])
    rollback = store.create_rollback("alice", "fns")
    store.roll_back(rollback.id, store.rollback_specs(rollback), lambda _: 1)
    third = release(store, "c", [artifact("f", digest="2")])
    store.finish_rollback(rollback.id)
    assert states(store, first, second, third) == [State.REPLACED, State.REPLACED, State.LIVE]
    assert store.live_release(FNS.key) == third


def test_steps_can_be_repeated(store: Store) -> None:
    release(store, "a", [artifact("f")])
    release(store, "b", [artifact("f", digest="1")])
    rollback = store.create_rollback("alice", "fns")
    specs = store.rollback_specs(rollback)
    for _ in range(2):
        store.roll_back(rollback.id, specs, lambda _: 1)
    store.finish_rollback(rollback.id)
    with pytest.raises(Conflict):
        store.finish_rollback(rollback.id)
    store.fail_rollback(rollback.id, "too late")
    assert store.rollback(rollback.id).state is RollbackState.DONE


def test_a_return_restores_all_at_once_and_keeps_the_scale(store: Store) -> None:
    first = release(store, "a", [artifact("f"), artifact("gone"), artifact("same")])
    store.scale("same.alice", lambda _: 1)
    now_ = [artifact("f", digest="1"), artifact("new"), artifact("same")]
    second = release(store, "b", now_, watched=("f",))
    assert [each.id for each in store.watched()] == [second]
    store.scale("same.alice", lambda _: 3)
    figures = [Watched(name="f", before=Traffic(), after=Traffic(requests=9, errors=9))]
    store.take_back(second, figures, "taken back: f: 9 of 9")
    assert served(store) == {"f.alice": "0", "gone.alice": "0", "same.alice": "0"}
    assert store.functions()["same.alice"].replicas == 3
    assert states(store, first, second) == [State.LIVE, State.ROLLED_BACK]
    back = store.release(second)
    assert back.watch is not None
    assert (back.watch.verdict, back.watch.functions) == (Verdict.RETURNED, figures)
    assert store.live_release(FNS.key) == first
    assert [*store.follow_log(second, follow=False)] == [], "it is told once the routes follow"
    for _ in range(2):
        store.end_return(second)
    assert store.watched() == []
    assert [*store.follow_log(second, follow=False)] == [
        LogEnd(state=State.ROLLED_BACK, reason="taken back: f: 9 of 9")
    ]
    with pytest.raises(Conflict):
        store.take_back(second, figures, "again")


def test_a_watched_release_is_live_and_its_log_ends_with_the_verdict(store: Store) -> None:
    release(store, "a", [artifact("f")])
    second = release(store, "b", [artifact("f", digest="1")], watched=("f",))
    found = store.release(second)
    assert (found.state, found.settled) == (State.LIVE, False)
    assert [*store.follow_log(second, follow=False)] == []
    for _ in range(2):
        store.keep(second, [])
    assert store.release(second).settled
    assert [*store.follow_log(second, follow=False)] == [LogEnd(state=State.LIVE, reason="")]
    assert store.watched() == []


def test_a_watch_ends_with_a_newer_release_and_is_not_taken_back_below_it(store: Store) -> None:
    release(store, "a", [artifact("f")])
    second = release(store, "b", [artifact("f", digest="1")], watched=("f",))
    third = release(store, "c", [artifact("f", digest="2")], watched=("f",), finish=False)
    with pytest.raises(Conflict, match=f"{third} is taking its place"):
        store.take_back(second, [], "x")
    store.finish(third, "http://x")
    assert [each.id for each in store.watched()] == [third]
    found = store.release(second)
    assert (found.state, found.watch and found.watch.verdict) == (State.REPLACED, Verdict.ENDED)
    assert len([*store.follow_log(second, follow=False)]) == 1
    store.take_back(third, [], "x")
    assert served(store) == {"f.alice": "1"}
    assert states(store, second, third) == [State.LIVE, State.ROLLED_BACK]


def test_a_rollback_ends_a_watch(store: Store) -> None:
    release(store, "a", [artifact("f")])
    second = release(store, "b", [artifact("f", digest="1")], watched=("f",))
    roll(store)
    assert store.watched() == []
    ends = [*store.follow_log(second, follow=False)]
    assert [type(end) for end in ends] == [LogEnd]
    assert store.release(second).state is State.ROLLED_BACK


def test_a_revision_is_kept_once_however_many_releases_have_it(store: Store) -> None:
    ids = [release(store, c, [artifact("f"), artifact("g", digest=c)]) for c in "abc"]
    specs = {id_: store.revisions(id_) for id_ in ids}
    assert len({each["f"] for each in specs.values()}) == 1
    assert len({each["g"] for each in specs.values()}) == 3


def test_receipts_go_on_with_the_next_controller(store: Store) -> None:
    first = release(store, "a", [artifact("f")])
    some = Receipt(requests=1, failed=0, longest_gap_ms=0.5)
    open_ = OpenReceipt(functions=["f.alice"], old=[], begun=1.0, counted_until=2.0, so_far=some)
    store.save_open_receipt(first, open_)
    assert store.open_receipts() == {first: open_}
    store.save_receipt(first, some)
    assert (store.open_receipts(), store.release(first).receipt) == ({}, some)
    store.save_open_receipt("b77", open_)
    store.save_receipt("b77", some)
    assert store.open_receipts() == {}, "of a rollback that is kept no more"


def test_what_cannot_be_started_any_more_fails_it(store: Store) -> None:
    release(store, "a", [artifact("f")])
    release(store, "b", [artifact("f", digest="1")])
    rollback = store.create_rollback("alice", "fns")
    store.redis.delete(f"slipway:repository:{FNS.key}:revisions")
    with pytest.raises(NotFound, match="is not kept any more"):
        store.rollback_specs(rollback)


def test_warm_ones_cool(store: Store) -> None:
    release(store, "a", [artifact("f")])
    release(store, "b", [artifact("f", digest="1")])
    spec: FunctionSpec = store.warm()["f.alice"].spec
    assert spec.artifact[14] == "0"
    store.cool(["f.alice"])
    assert store.warm() == {}


def test_releases_that_switched_while_the_edge_was_away_are_told_in_order(store: Store) -> None:
    first = release(store, "a", [artifact("f")])
    second = release(store, "b", [artifact("f", digest="1")], watched=("f",), finish=False)
    third = release(store, "c", [artifact("f", digest="2")], watched=("f",), finish=False)
    fourth = release(store, "d", [artifact("f", digest="3")], watched=("f",))
    assert states(store, first, second, third, fourth) == [*[State.REPLACED] * 3, State.LIVE]
    assert [each.id for each in store.watched()] == [fourth]
    for each in (second, third):
        assert store.release(each).settled
        assert [type(line) for line in store.follow_log(each, follow=False)] == [LogEnd]
    store.take_back(fourth, [], "x")
    assert served(store) == {"f.alice": "2"}
    assert store.live_release(FNS.key) == third, "what was replaced, not what was called live"


def test_what_a_rollback_set_meanwhile_is_not_taken_back(store: Store) -> None:
    release(store, "a", [artifact("f"), artifact("g")])
    now_ = [artifact("f", digest="1"), artifact("g", digest="1")]
    second = release(store, "b", now_, watched=("f", "g"))
    rollback = store.create_rollback("alice", "fns", function="f")
    store.roll_back(rollback.id, store.rollback_specs(rollback), lambda _: 1)
    with pytest.raises(Conflict, match=f"{rollback.id} is taking its place"):
        store.take_back(second, [], "x")
    store.finish_rollback(rollback.id)
    store.take_back(second, [], "x")
    assert served(store) == {"f.alice": "0", "g.alice": "0"}
    assert store.functions()["f.alice"].pinned == rollback.id


def test_a_release_without_a_record_holds_up_nobody(store: Store) -> None:
    second = release(store, "a", [artifact("f")], finish=False)
    store.redis.sadd("slipway:staging", "r77-lost")
    store.redis.sadd("slipway:watched", "r78-lost")
    store.redis.sadd("slipway:rollbacks:moving", "b79")
    assert [each.id for each in store.staging()] == [second]
    assert (store.watched(), store.rolling()) == ([], [])


OTHER = msgspec.structs.replace(FNS, name="other")


def moving(store: Store) -> tuple[str, str]:
    """``f`` moves from ``fns`` to ``other``, whose annotation goes with a later commit; returns the
    releases before that."""
    ours = release(store, "a", [artifact("f"), artifact("g")])
    theirs = release(store, "b", [artifact("x", "other")], repository=OTHER)
    taking = artifact("f", "other")
    spec = msgspec.structs.replace(taking.spec, annotations={TAKES_OVER: "fns"})
    taken = [artifact("x", "other"), msgspec.structs.replace(taking, spec=spec)]
    release(store, "c", taken, repository=OTHER)
    plain = [artifact("x", "other", "1"), artifact("f", "other", "1")]
    release(store, "d", plain, repository=OTHER)
    release(store, "e", [artifact("g", digest="1")])
    return ours, theirs


def test_what_took_a_function_over_does_not_go_back_before_that(store: Store) -> None:
    _, theirs = moving(store)
    with pytest.raises(Conflict, match=f"f moved here from alice/fns, and {theirs} did not have"):
        store.create_rollback("alice", "other", to=theirs)
    assert store.rolling() == []
    back = store.create_rollback("alice", "other")
    assert back.to != theirs, "it had the function already"
    store.fail_rollback(back.id, "x")
    assert store.create_rollback("alice", "other", "x", to=theirs).to == theirs


def test_what_a_function_moved_away_from_does_not_go_back_with_it(store: Store) -> None:
    ours, _ = moving(store)
    told = f"the function f of {ours} belongs to alice/other by now: move it back with a commit"
    with pytest.raises(Conflict, match=f"{told}, or roll the others back one by one"):
        store.create_rollback("alice", "fns", to=ours)
    with pytest.raises(Conflict, match=f"{told}$"):
        store.create_rollback("alice", "fns", "f", to=ours)
    assert store.create_rollback("alice", "fns", "g").to == ours

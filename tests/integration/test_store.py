"""Releases against a real store: order, supersession, claims, and what a crash leaves behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from core import keys, queues
from core.errors import Conflict, InvalidRequest, NotFound
from core.models import Artifact, Build, FunctionRow, FunctionSpec, LogLine, Receipt, State, now
from core.names import NO_COMMIT
from core.repositories import Repository, Request
from core.store import LogEnd, Store

FNS = Repository(namespace="alice", name="fns", source="git", deploy_branch="main")
BUILDER = (State.QUEUED, State.BUILDING, State.TESTING)


def artifact(name: str, repository: str = "fns", digest: str = "0") -> Artifact:
    bundle = f"bundle:sha256:{digest * 64}"
    spec = FunctionSpec(
        name=name, namespace="alice", artifact=bundle, key="k", repository=repository
    )
    return Artifact(name=name, key="k", artifact=bundle, spec=spec)


def building(store: Store, commit: str, repository: Repository = FNS) -> str:
    release = store.create_release(repository, commit * 40, "main")
    assert queues.dispatch(store, repository.key) == release.id
    store.move(release.id, BUILDER, State.BUILDING)
    return release.id


def live(store: Store, commit: str, artifacts: list[Artifact], repository: Repository = FNS) -> str:
    id_ = building(store, commit, repository)
    store.put_artifacts(id_, commit * 40, artifacts)
    store.switch(id_, lambda _: 1)
    store.finish(id_, "http://x")
    return id_


def test_the_middle_pushes_are_superseded(store: Store) -> None:
    first = building(store, "a")
    others = [store.create_release(FNS, c * 40, "main").id for c in "bcde"]
    assert queues.dispatch(store, FNS.key) == "", "one build of a repository at a time"
    states = {id_: store.release(id_).state for id_ in [first, *others]}
    assert list(states.values()) == [State.BUILDING, *[State.SUPERSEDED] * 3, State.QUEUED]
    store.move(first, BUILDER, State.FAILED, "x")
    assert queues.dispatch(store, FNS.key) == others[-1]


def test_a_release_that_no_worker_began_is_superseded_and_gives_its_turn_back(store: Store) -> None:
    first = store.create_release(FNS, "a" * 40, "main")
    queues.dispatch(store, FNS.key)
    second = store.create_release(FNS, "b" * 40, "main")
    assert store.release(first.id).state is State.SUPERSEDED
    assert queues.dispatch(store, FNS.key) == second.id


def test_a_log_is_read_from_its_end_and_has_notes_before_it(store: Store) -> None:
    def line(number: int) -> LogLine:
        return LogLine(time=now(), function="f", step="test", stream="stdout", text=f"{number}")

    id_ = building(store, "a")
    store.add_note(id_, line(-1))
    assert store.redis.ttl(keys.log(id_)) > 0, "of a release that is forgotten it would stay"
    store.append_log(id_, [line(number) for number in range(1200)])
    store.add_note(id_, line(1200))
    store.move(id_, BUILDER, State.FAILED, "x")
    store.add_note(id_, line(1201))
    texts = [each.text for each in store.last_lines(id_)]
    assert texts == [str(number) for number in range(1201, -2, -1)]
    assert [each.text for each in store.last_lines(id_, 700)] == texts[:699], "the end counts"
    *lines, end = store.follow_log(id_)
    assert isinstance(end, LogEnd)
    assert len(lines) == 1203
    assert list(store.last_lines("r9-fffffff")) == []


def test_what_is_to_be_reported_stays_until_it_was_told_as_it_is(store: Store) -> None:
    at_forge = msgspec.structs.replace(FNS, name="site", source="github")
    release = store.create_release(at_forge, "a" * 40, "main")
    own = store.create_release(FNS, "a" * 40, "main")
    assert store.reporting() == [release.id]
    store.move(own.id, BUILDER, State.FAILED, "x")
    found = store.reported_releases(store.reporting())
    assert {id_: each.marked for id_, each in found.items()} == {release.id: True, own.id: False}
    store.move(release.id, BUILDER, State.BUILDING)
    assert not store.end_reporting(release.id, found[release.id].raw), "it has changed since"
    assert store.end_reporting(own.id, found[own.id].raw)
    assert store.reporting() == [release.id]
    again = store.reported_releases(store.reporting())[release.id]
    assert store.end_reporting(release.id, again.raw)
    store.redis.sadd(keys.REPORTING, "r99-fffffff")
    assert store.reported_releases(["r99-fffffff"]) == {}
    assert store.reporting() == []
    assert not store.give_up("r99-fffffff", "report", "x"), "nobody would remove it"
    assert store.redis.exists(keys.reports("r99-fffffff")) == 0


def test_two_racing_pushes_leave_one_waiting(store: Store) -> None:
    threads = [
        threading.Thread(target=store.create_release, args=(FNS, f"{n:x}" * 40, "main"))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    states = [release.state for release in store.releases("alice", "fns")]
    assert len(states) == 8
    assert states.count(State.QUEUED) == 1


def test_the_same_commit_is_the_same_release_until_it_failed(store: Store) -> None:
    first = store.create_release(FNS, "a" * 40, "main")
    assert store.create_release(FNS, "a" * 40, "main").id == first.id
    store.move(first.id, BUILDER, State.FAILED, "x")
    assert store.create_release(FNS, "a" * 40, "main").id != first.id


def test_a_delivery_is_remembered_with_its_release(store: Store) -> None:
    first = store.create_release(FNS, "a" * 40, "main", delivery=("github", "1"))
    store.create_release(FNS, "b" * 40, "main", delivery=("github", "2"))
    again = store.create_release(FNS, "a" * 40, "main", delivery=("github", "1"))
    assert again.id == first.id
    assert len(store.releases("alice", "fns")) == 2


def test_moves_are_compare_and_set(store: Store) -> None:
    id_ = building(store, "a")
    store.move(id_, BUILDER, State.CANCELLED, "by the admin")
    with pytest.raises(Conflict, match="cancelled already: by the admin"):
        store.move(id_, BUILDER, State.TESTING)
    assert store.turn(FNS.key) == ""


def test_handing_over_twice_changes_nothing(store: Store) -> None:
    id_ = building(store, "a")
    assert store.put_artifacts(id_, "a" * 40, [artifact("f")]).state is State.STAGING
    assert store.put_artifacts(id_, "a" * 40, [artifact("f")]).state is State.STAGING
    with pytest.raises(Conflict, match="is of commit"):
        store.put_artifacts(id_, "b" * 40, [artifact("f")])


def test_an_older_release_never_overtakes_a_newer_one(store: Store) -> None:
    old = building(store, "a")
    store.move(old, BUILDER, State.TESTING)
    new = store.create_release(FNS, "b" * 40, "main").id
    store.redis.delete(f"slipway:repository:{FNS.key}:turn")  # as if the lock had been lost
    queues.dispatch(store, FNS.key)
    store.move(new, BUILDER, State.BUILDING)
    store.put_artifacts(new, "b" * 40, [artifact("f", digest="b")])
    with pytest.raises(Conflict, match="newer"):
        store.put_artifacts(old, "a" * 40, [artifact("f")])


def test_a_staged_release_is_superseded_by_the_next(store: Store) -> None:
    first = building(store, "a")
    store.put_artifacts(first, "a" * 40, [artifact("f")])
    second = building(store, "b")
    store.put_artifacts(second, "b" * 40, [artifact("f", digest="b")])
    assert store.release(first).state is State.SUPERSEDED
    assert [release.id for release in store.staging()] == [second]


def test_going_live_replaces_and_removes_in_one_step(store: Store) -> None:
    first = live(store, "a", [artifact("f"), artifact("g")])
    second = building(store, "b")
    store.put_artifacts(second, "b" * 40, [artifact("f", digest="b")])
    store.switch(second, lambda _: 2)
    store.switch(second, lambda _: 2)  # a controller that died in between does it again
    assert set(store.functions()) == {"f.alice"}
    assert store.release(second).state is State.STAGING
    done = store.finish(second, "http://x")
    assert done.state is State.LIVE
    assert store.release(first).state is State.REPLACED
    rows = {row.name: row for row in store.release(second).functions}
    assert rows["g"].build is Build.REMOVED


def test_a_claimed_name_is_refused_naming_the_holder(store: Store) -> None:
    live(store, "a", [artifact("f")])
    other = Repository(namespace="alice", name="other", source="git", deploy_branch="main")
    id_ = building(store, "b", other)
    with pytest.raises(Conflict, match="belongs to the repository alice/fns"):
        store.put_artifacts(id_, "b" * 40, [artifact("f", "other")])


def test_a_namespace_has_one_holder(store: Store) -> None:
    store.claim_namespace("alice", "git")
    store.claim_namespace("alice", "git")
    with pytest.raises(Conflict, match="Slipway's own git remote"):
        store.claim_namespace("alice", "https://github.com#1")


def test_nothing_comes_into_a_namespace_that_is_deleted_meanwhile(
    store: Store, tmp_path: Path
) -> None:
    key = store.sealing_key(tmp_path / "key")
    deeds: tuple[Callable[[], None], ...] = (
        lambda: store.create_secret(key, "alice", "s", b"x"),
        lambda: store.set_variables("alice", {"A": "b"}),
    )
    for deed in deeds:
        with pytest.raises(InvalidRequest, match="there is no namespace alice"):
            deed()
    fns = Repository(namespace="alice", name="fns", source="git")
    store.claim_namespace("alice", "git", fns)
    main = msgspec.structs.replace(fns, deploy_branch="main")
    store.save_repository(main)
    store.claim_namespace("alice", "git", fns)
    assert store.repositories() == [main]


def test_a_namespace_in_which_nothing_is_deployed_forgets_its_repositories(store: Store) -> None:
    store.claim_namespace("alice", "git", FNS)
    id_ = building(store, "a")
    with pytest.raises(Conflict, match="releases under way of fns"):
        store.delete_namespace("alice")
    store.put_artifacts(id_, "a" * 40, [artifact("hello")])
    with pytest.raises(Conflict, match="releases under way of fns"):
        store.delete_namespace("alice")
    store.switch(id_, lambda _: 1)
    store.finish(id_, "http://x")
    with pytest.raises(Conflict, match="functions hello"):
        store.delete_namespace("alice")
    live(store, "b", [])
    other = msgspec.structs.replace(FNS, namespace="alice2")
    store.claim_namespace("alice2", "git", other)
    store.delete_namespace("alice")
    assert store.repositories() == [other]
    assert (store.head(FNS.key), store.live_release(FNS.key)) == ("", "")
    store.claim_namespace("alice", "https://github.com#7", FNS)  # whoever comes first


def test_whom_a_deleted_namespace_was_given_has_no_part_in_it_any_more(store: Store) -> None:
    hub = msgspec.structs.replace(FNS, source="github", forge_id="7")
    ann, bob = "https://github.com#1", "https://github.com#2"
    store.link_owner(ann, "alice")
    store.link_owner(bob, "other")
    store.claim_namespace("alice", ann, hub)
    store.save_repository(hub)
    store.note_promotion_tag(hub.key, "promote/production/1", "a" * 40)
    store.note_promotion_tag("alice2/fns", "promote/production/1", "a" * 40)
    store.redis.hset(keys.PREVIEWS, "base/fns#5", hub.key)  # as if it were a preview
    store.delete_namespace("alice")
    assert store.owners() == {bob: "other"}
    assert store.redis.hgetall(keys.FORGE_REPOSITORIES) == {}
    assert store.redis.hgetall(keys.PREVIEWS) == {}
    assert store.promotion_tags(hub.key) == {}
    assert store.promotion_tags("alice2/fns")
    store.claim_namespace("alice", "https://github.com#7", FNS)  # whoever comes first
    with pytest.raises(Conflict):
        store.claim_namespace("alice", ann)


def test_a_function_moves_to_another_repository_in_one_step(store: Store) -> None:
    shop = msgspec.structs.replace(FNS, name="shop")
    hello, other = artifact("hello"), artifact("other")
    first = live(store, "a", [hello, other])
    moving = artifact("hello", "shop", "1")
    with pytest.raises(Conflict, match=r"annotate yours with com\.slipway\.takes-over: fns"):
        live(store, "b", [moving], shop)
    store.move(store.turn(shop.key), BUILDER, State.FAILED)
    said = {"com.slipway.takes-over": "fns"}
    spec = msgspec.structs.replace(moving.spec, annotations=said)
    taken = live(store, "c", [msgspec.structs.replace(moving, spec=spec)], shop)
    records = store.functions()
    assert (records["hello.alice"].repository, records["hello.alice"].release) == ("shop", taken)
    assert (records["other.alice"].repository, records["other.alice"].release) == ("fns", first)
    assert store.release(first).state is State.LIVE, "of the rest it still is"
    with pytest.raises(Conflict, match="belongs to the repository alice/shop"):
        live(store, "d", [hello, other])
    store.move(store.turn(FNS.key), BUILDER, State.FAILED)
    live(store, "e", [other])
    assert store.functions()["hello.alice"].release == taken, "whoever dropped it changes nothing"


def test_nothing_is_taken_over_from_the_api_or_a_third_repository(store: Store) -> None:
    spec = msgspec.structs.replace(artifact("hello").spec, repository=None)
    store.claim_namespace("alice", "git")
    store.deploy(spec, update=False, check=lambda: None)
    release = store.create_release(FNS, "a" * 40, "main")
    for taken_from in ("", "fns", "shop"):
        with pytest.raises(Conflict, match="was deployed by API"):
            store.check_claims(release, {"hello": taken_from})
    store.delete_function("hello.alice")
    live(store, "b", [artifact("hello", "shop")], msgspec.structs.replace(FNS, name="shop"))
    with pytest.raises(Conflict, match="belongs to the repository alice/shop"):
        store.check_claims(release, {"hello": "third"})


def test_what_is_live_is_not_cancelled(store: Store) -> None:
    id_ = building(store, "a")
    store.put_artifacts(id_, "a" * 40, [artifact("hello")])
    store.switch(id_, lambda _: 1)
    with pytest.raises(Conflict, match="going live already: take it back with 'slipway rollback"):
        store.cancel(id_, "x")
    store.finish(id_, "http://x")
    with pytest.raises(Conflict, match="is live already: take it back with 'slipway rollback al"):
        store.cancel(id_, "x")


def test_what_a_head_turned_out_to_be_is_known_as_the_head(store: Store) -> None:
    """Else a late event of it would come over what was promoted meanwhile."""
    made = store.create_release(FNS, NO_COMMIT, "main")
    queues.dispatch(store, FNS.key)
    store.move(made.id, BUILDER, State.BUILDING)
    store.set_commit(made.id, "a" * 40)
    assert store.head(FNS.key) == "a" * 40
    store.put_artifacts(made.id, "a" * 40, [artifact("hello")])
    store.switch(made.id, lambda _: 1)
    store.finish(made.id, "http://x")
    promoted = store.create_release(FNS, "b" * 40, "main", pinned=True)
    assert store.create_release(FNS, "a" * 40, "main").id == promoted.id


def test_a_newer_head_is_not_forgotten_for_an_older_one(store: Store) -> None:
    made = building(store, "a")
    store.create_release(FNS, "b" * 40, "main")
    store.set_commit(made, "c" * 40)
    assert store.head(FNS.key) == "b" * 40


def test_of_a_preview_the_head_is_what_its_request_was_released_at(store: Store) -> None:
    """Else it would be released for it again and again."""
    preview = msgspec.structs.replace(FNS, parent="bob/fns", request=Request(number=5))
    store.save_repository(preview)
    made = building(store, "a", preview)
    store.set_commit(made, "b" * 40)
    assert store.head(preview.key) == "a" * 40
    store.end_late(made, "c" * 40, "c is live already")
    assert store.head(preview.key) == "a" * 40


def test_a_head_that_was_overtaken_makes_no_release(store: Store) -> None:
    store.create_release(FNS, "a" * 40, "main", since="")
    store.create_release(FNS, "b" * 40, "main")
    with pytest.raises(Conflict, match="another commit of alice/fns"):
        store.create_release(FNS, "c" * 40, "main", since="a" * 40)
    assert store.head(FNS.key) == "b" * 40


def test_a_deletion_between_look_and_write_counts(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = store.sealing_key(tmp_path / "key")
    require = Store.require_namespace

    def then_deleted(self: Store, name: str) -> None:
        require(self, name)
        store.delete_namespace(name)

    monkeypatch.setattr(Store, "require_namespace", then_deleted)
    deeds: tuple[Callable[[], None], ...] = (
        lambda: store.create_secret(key, "alice", "s", b"x"),
        lambda: store.set_variables("alice", {"A": "b"}),
    )
    for deed in deeds:
        store.claim_namespace("alice", "git")
        with pytest.raises(InvalidRequest, match="there is no namespace alice"):
            deed()
    assert store.secrets("alice") == []
    assert store.variables("alice") == {}


def test_a_log_ends_with_the_state(store: Store) -> None:
    id_ = building(store, "a")
    line = LogLine(time=now(), function="f", step="context", stream="step", text="building")
    store.append_log(id_, [line])
    store.move(id_, BUILDER, State.FAILED, "because")
    assert list(store.follow_log(id_)) == [line, LogEnd(State.FAILED, "because")]


def test_a_receipt_outlives_the_release(store: Store) -> None:
    first = live(store, "a", [artifact("f")])
    live(store, "b", [artifact("f", digest="b")])
    store.save_receipt(first, Receipt(requests=3, failed=0, longest_gap_ms=1.5))
    release = store.release(first)
    assert (release.state, release.receipt) == (
        State.REPLACED,
        Receipt(requests=3, failed=0, longest_gap_ms=1.5),
    )


def test_lists_are_newest_first_and_bounded(store: Store) -> None:
    for commit in "abcdef":
        store.create_release(FNS, commit * 40, "main")
    other = Repository(namespace="bob", name="fns", source="git")
    store.create_release(other, "9" * 40, "main")
    assert [r.commit[0] for r in store.releases("alice", "fns", limit=2)] == ["f", "e"]
    assert {r.namespace for r in store.releases("alice")} == {"alice"}
    assert len(store.releases()) == 7
    with pytest.raises(NotFound):
        store.release("r99-x")


def test_rows_are_written_side_by_side(store: Store) -> None:
    id_ = building(store, "a")
    threads = [
        threading.Thread(target=store.save_row, args=(id_, FunctionRow(name=f"f{n}")))
        for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.release(id_).functions) == 20

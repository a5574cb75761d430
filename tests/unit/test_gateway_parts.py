"""Small parts of the gateway: slots, refs of a push, tokens, origins, raw targets."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from core.errors import BadCredentials, InvalidRequest, Unavailable
from core.models import FunctionRecord, FunctionSpec, Observed, now
from core.repositories import Repository
from core.store import Store
from gateway import invoke
from gateway.adoption import namespace_of
from gateway.context import raw_target
from gateway.internal import Update, not_deployed, read_updates
from gateway.pools import THREADS, Pool, Pools
from gateway.pushes import Pushes

OLD, NEW, NONE = "a" * 40, "b" * 40, "0" * 40


def test_a_slot_is_given_back_once() -> None:
    pool = Pool("things", 2)
    first, second = pool.take(), pool.take()
    with pytest.raises(Unavailable, match="all 2 places for things"):
        pool.take()
    first()
    first()
    third = pool.take()
    with pytest.raises(Unavailable):
        pool.take()
    second()
    third()
    pool.take()


def test_one_holder_leaves_slots_for_others() -> None:
    pool = Pool("things", 3, share=2, advice="wait")
    backs = [pool.take("ann") for _ in range(2)]
    with pytest.raises(Unavailable, match=r"ann has 2 of the 3 places for things, .*: wait"):
        pool.take("ann")
    backs.append(pool.take("bob"))
    with pytest.raises(Unavailable, match="all 3 places for things are taken: wait"):
        pool.take("eve")
    for give_back in backs:
        give_back()
    assert [pool.take("ann") for _ in range(2)]
    assert pool.take("eve")


def test_one_group_leaves_slots_for_others() -> None:
    pool = Pool("things", 4, share=2, group=3)
    backs = [pool.take(name, "ann") for name in ("f", "f", "g")]
    with pytest.raises(Unavailable, match="ann has 3 of the 4 places"):
        pool.take("h", "ann")
    backs.append(pool.take("f.bob", "bob"))
    for give_back in backs:
        give_back()
        give_back()
    assert [pool.take("h", "ann") for _ in range(2)]


def test_one_function_leaves_two_thirds_for_others_and_its_owner_one() -> None:
    pool = Pools().invocations
    assert 0 < pool.share <= pool.slots / 3
    assert pool.share < pool.group <= pool.slots * 2 / 3


def test_no_owner_has_all_that_anybody_may_ask_for() -> None:
    pools = Pools()
    for pool in (pools.invocations, pools.calls, pools.large_bodies, pools.large_answers):
        assert 0 < pool.share < pool.group < pool.slots, pool.kind


def test_threads_are_left_for_short_requests() -> None:
    pools = Pools()
    taken = sum(pool.slots for pool in vars(pools).values())
    assert THREADS - taken >= 8


def test_a_pushs_token_is_good_for_that_push_alone() -> None:
    pushes = Pushes()
    push = pushes.open("ann", "fns")
    other = pushes.open("bob", "fns")
    assert pushes.find(push.token, "ann", "fns") is push
    assert push.token not in repr(push)
    for token, namespace in (("", "ann"), (other.token, "ann"), (push.token, "bob"), ("é", "ann")):
        with pytest.raises(BadCredentials):
            pushes.find(token, namespace, "fns")
    pushes.close(push)
    assert push.gone.is_set()
    with pytest.raises(BadCredentials):
        pushes.find(push.token, "ann", "fns")


def test_refs_of_a_push_are_read() -> None:
    body = f"{OLD} {NEW} refs/heads/main\n{NONE} {NEW} refs/tags/v1\n{OLD} {NONE} refs/heads/x\n"
    main, tag, gone = read_updates(body.encode())
    assert (main.branch, main.deleted) == ("main", False)
    assert (tag.branch, tag.deleted) == ("", False)
    assert (gone.branch, gone.deleted) == ("x", True)
    for wrong in (b"x", b"a b refs/heads/x", f"{OLD} {NEW} refs/heads/a b".encode(), b"\xff"):
        with pytest.raises(InvalidRequest):
            read_updates(wrong)


@pytest.mark.parametrize("odd", ["\u2028", "\u2029", "\x85", "é", "\ufffd"])
def test_a_ref_may_have_what_ends_a_line_elsewhere(odd: str) -> None:
    body = f"{OLD} {NEW} refs/heads/a{odd}b\n{OLD} {NEW} refs/heads/main\n"
    assert [update.branch for update in read_updates(body.encode())] == [f"a{odd}b", "main"]


def test_what_is_not_deployed_is_told() -> None:
    refs = ("refs/heads/x", "refs/heads/develop", "refs/tags/t", "refs/tags/promote/demo/1")
    updates = [Update(OLD, NEW, ref) for ref in refs]
    known = Repository(namespace="ann", name="fns", source="git", deploy_branch="main")
    staging = {"develop": [known]}
    tag = "t: stored, not deployed: only branches are"
    assert list(not_deployed(updates, "main", staging)) == [
        "x: stored, not deployed: the deploy branch is main",
        tag,
    ]
    both = [Update(OLD, NEW, "refs/heads/main"), *updates]
    assert list(not_deployed(both, "main", {**staging, "main": [known]})) == [
        "x: stored; deployed if the stack file of main makes it an environment",
        tag,
    ]
    gone = [Update(NEW, NONE, ref) for ref in ("refs/heads/main", "refs/heads/x", refs[1])]
    assert list(not_deployed(gone, "main", {**staging, "main": [known]})) == [
        "x: deleted; nothing was deployed from it"
    ]


@pytest.mark.parametrize(
    ("given", "target"),
    [
        ("/a?b=c", "/a?b=c"),
        ("http://h:1/a?b", "/a?b"),
        ("http://h", "/"),
        ("/a#f", "/a"),
        ("", "/"),
        ("*", "*"),
    ],
)
def test_targets_in_origin_form(given: str, target: str) -> None:
    assert raw_target({"RAW_URI": given}) == target


def test_logins_and_namespaces(store: Store) -> None:
    holder = "https://github.com#7"
    assert namespace_of(store, "Codertocat", holder) == "codertocat"
    for login in ("kube-ann", "OpenFaaS", "under_score", "a--b", "System"):
        with pytest.raises(InvalidRequest, match=login):
            namespace_of(store, login, holder)
    store.link_owner(holder, "given")
    assert namespace_of(store, "under_score", holder) == "given"


LONG_AGO, NOW = "2026-01-01T00:00:00.000Z", "now"


@pytest.mark.parametrize(
    ("created", "previous", "seen", "looks"),
    [
        (NOW, False, [None, None, "1"], 3),
        (LONG_AGO, False, [None, "1"], 1),
        (LONG_AGO, False, ["0", "0", "1"], 3),
        (LONG_AGO, True, ["0", "1"], 1),
        (LONG_AGO, False, ["", "1"], 1),
    ],
    ids=["new", "never seen", "overtaken", "deployed by API", "nothing answers"],
)
def test_what_the_controller_is_about_to_see_is_waited_for(
    created: str, previous: bool, seen: list[str | None], looks: int
) -> None:
    """A controller that is down must not let callers of what it has never seen hold places."""
    spec = FunctionSpec(name="f", namespace="ann", artifact="a")
    record = FunctionRecord(
        spec=spec,
        release="r1",
        replicas=1,
        created_at=now() if created == NOW else created,
        previous=spec if previous else None,
    )
    revisions = {"1": spec.revision}
    answers = [
        None if each is None else Observed(available=1, revision=revisions.get(each, each))
        for each in seen
    ]
    left = iter(answers)
    taken, given = [], []

    def take(function: str) -> Callable[[], None]:
        taken.append(function)
        return lambda: given.append(function)

    gateway: Any = SimpleNamespace(
        store=SimpleNamespace(function=lambda _: record, observed=lambda _: next(left)),
        pools=SimpleNamespace(waiting=SimpleNamespace(take=take)),
    )
    assert invoke._seen(gateway, "f.ann") == (record, answers[looks - 1])
    assert len(list(left)) == len(seen) - looks
    assert taken == given == (["f.ann"] if looks > 1 else [])


def test_who_waits_for_a_release_takes_nobodys_place() -> None:
    """Where no more may wait, what still answers is as good, and has its own places."""
    spec = FunctionSpec(name="f", namespace="ann", artifact="a")
    record = FunctionRecord(spec=spec, release="r1", replicas=1, created_at=LONG_AGO)
    seen = Observed(available=1, endpoints=["h:1"], revision="0")
    pools = Pools()
    for _ in range(pools.waiting.share):
        pools.waiting.take("f.ann")
    gateway: Any = SimpleNamespace(
        store=SimpleNamespace(function=lambda _: record, observed=lambda _: seen), pools=pools
    )
    assert invoke._seen(gateway, "f.ann") == (record, seen)
    for _ in range(pools.invocations.share):
        pools.invocations.take("f.ann")

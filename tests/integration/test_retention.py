"""Which releases and revisions stay, with a real store; and that nothing needed ever goes."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from core import keys
from core.errors import NotFound, SlipwayError
from core.models import Artifact, FunctionRow, FunctionSpec, Release, RollbackState, State
from core.repositories import Repository
from core.store import Store
from core.store.retention import NEVER_LIVE_KEPT, NOTHING, ROLLBACKS_KEPT, Seen, judge

SHOP = Repository(namespace="ann", name="shop", source="git", deploy_branch="main")
_BUILDER = (State.QUEUED, State.BUILDING, State.TESTING)
_commits = itertools.count(1)


def bundle(text: str) -> str:
    return f"bundle:sha256:{text:x>64}"


def staged(store: Store, functions: dict[str, str], repository: Repository = SHOP) -> Release:
    """A release of functions, each with an artifact of that text."""
    release = store.create_release(repository, f"{next(_commits):040x}", "main")
    store.take_turn(repository.key)
    store.move(release.id, _BUILDER, State.BUILDING)
    handed = []
    for name, text in functions.items():
        store.save_row(release.id, FunctionRow(name=name, artifact=bundle(text)))
        spec = FunctionSpec(
            name=name,
            namespace=repository.namespace,
            artifact=bundle(text),
            repository=repository.name,
        )
        handed.append(Artifact(name=name, key=text, artifact=bundle(text), spec=spec))
    store.put_artifacts(release.id, release.commit, handed)
    return release


def live(store: Store, functions: dict[str, str]) -> Release:
    release = staged(store, functions)
    store.switch(release.id, lambda _: 1)
    return store.finish(release.id, "http://here")


def failed(store: Store) -> Release:
    release = staged(store, {"f": "bad"})
    return store.move(release.id, [State.STAGING], State.FAILED, "no")


def needed(store: Store, keep: int) -> set[str]:
    retained = store.retain(SHOP.key, keep)
    return set(store.retained_artifacts(SHOP.key, retained))


def ids(store: Store) -> list[str]:
    return [each.id for each in store.releases("ann", "shop", limit=500)]


@pytest.fixture
def shop(store: Store) -> Store:
    store.save_repository(SHOP)
    return store


def test_the_last_releases_that_were_live_stay_and_can_be_gone_back_to(shop: Store) -> None:
    made = [live(shop, {"f": f"v{number}"}) for number in range(8)]
    assert shop.retain(SHOP.key, 3, dry=True).gone == [each.id for each in made[:4]]
    assert len(ids(shop)) == 8, "a dry run removes nothing"
    assert needed(shop, 3) == {bundle(f"v{number}") for number in range(4, 8)}
    assert ids(shop) == [each.id for each in reversed(made[4:])]
    for gone in made[:4]:
        with pytest.raises(NotFound):
            shop.release(gone.id)
        left = (keys.release(gone.id), keys.rows(gone.id), keys.log(gone.id))
        assert not shop.redis.exists(*left)
        assert shop.redis.zscore(keys.RELEASES, gone.id) is None
    assert shop.redis.hlen(keys.revisions(SHOP.key)) == 4
    oldest = shop.create_rollback("ann", "shop", to=made[4].id)
    assert [each.artifact for each in shop.rollback_specs(oldest).values()] == [bundle("v4")]
    assert needed(shop, 3) == {bundle(f"v{number}") for number in range(4, 8)}


def test_a_function_that_rarely_changes_keeps_its_revisions(shop: Store) -> None:
    """And the newest release that has each of them stays with it, but not its other functions."""
    made = [live(shop, {"f": f"f{number}", "rare": f"rare{number // 4}"}) for number in range(16)]
    assert needed(shop, 2) == {
        *(bundle(f"f{number}") for number in (13, 14, 15)),
        *(bundle(f"rare{number}") for number in (1, 2, 3)),
    }
    assert ids(shop) == [made[number].id for number in (15, 14, 13, 11, 7)]
    back = shop.create_rollback("ann", "shop", "rare", to=made[7].id)
    assert [each.artifact for each in shop.rollback_specs(back).values()] == [bundle("rare1")]
    whole = msgspec.structs.replace(back, function="")
    with pytest.raises(NotFound, match="of f is not kept any more"):
        shop.rollback_specs(whole)


def test_what_is_named_stays_however_old_it_is(shop: Store) -> None:
    """The target of a rollback, a pinned function's release, what is warm or still under way."""
    made = [live(shop, {"f": f"v{number}"}) for number in range(6)]
    rollback = shop.create_rollback("ann", "shop", to=made[1].id)
    moving = staged(shop, {"f": "next"})
    assert needed(shop, 1) >= {bundle("v1"), bundle("v4"), bundle("v5"), bundle("next")}
    assert ids(shop) == [moving.id, made[5].id, made[4].id, made[1].id]
    shop.cancel(moving.id, "no")
    shop.roll_back(rollback.id, shop.rollback_specs(rollback), lambda _: 1, warm=60.0)
    shop.finish_rollback(rollback.id)
    assert needed(shop, 1) >= {bundle("v1"), bundle("v5")}, "live again, and warm"
    assert made[1].id in ids(shop)


def test_of_those_that_failed_the_newest_stay_and_their_artifacts_do_not(shop: Store) -> None:
    first = live(shop, {"f": "v0"})
    bad = [failed(shop) for _ in range(NEVER_LIVE_KEPT + 5)]
    assert needed(shop, 1) == {bundle("v0")}
    assert ids(shop) == [each.id for each in reversed([first, *bad[5:]])]


def test_rollbacks_are_kept_for_a_while(shop: Store) -> None:
    live(shop, {"f": "v0"})
    live(shop, {"f": "v1"})
    for _ in range(ROLLBACKS_KEPT + 3):
        shop.fail_rollback(shop.create_rollback("ann", "shop").id, "no")
    moving = shop.create_rollback("ann", "shop")
    old = shop.old_rollbacks()
    assert sorted(old) == ["b1", "b2", "b3", "b4"][: len(old)]
    assert len(old) == 4
    shop.forget_rollbacks(old)
    assert len(shop.rollbacks()) == ROLLBACKS_KEPT
    assert shop.rollback(moving.id).state is RollbackState.STARTING


def test_of_a_repository_that_is_gone_only_what_moves_and_is_live_stays(shop: Store) -> None:
    live(shop, {"f": "v0"})
    last = live(shop, {"f": "v1"})
    failed(shop)
    shop.redis.hdel(keys.REPOSITORIES, SHOP.key)
    assert shop.with_artifacts()[1] == {SHOP.key}
    shop.retain(SHOP.key, NOTHING)
    assert ids(shop) == [last.id]


def test_of_other_repositories_functions_only_whose_they_are_is_read(shop: Store) -> None:
    """There may be thousands, and they are passed by for each repository."""
    made = [live(shop, {"f": f"v{number}"}) for number in range(3)]
    other = b'{"spec": {"name": "f", "namespace": "bob", "repository": "shop"}, "release": "r1"}'
    by_api = b'{"spec": {"name": "g", "namespace": "ann"}, "release": ""}'
    shop.redis.hset(keys.FUNCTIONS, mapping={"f.bob": other, "g.ann": by_api})
    assert shop.retain(SHOP.key, 1, dry=True).gone == [made[0].id]


def test_what_becomes_needed_while_it_is_judged_stays(
    shop: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between judging and removing: a rollback to the very release, and a push that brings an old
    revision back."""
    made = [live(shop, {"f": f"v{number}"}) for number in range(5)]
    judged = Store._judged
    meanwhile: list[Callable[[], Any]] = [
        lambda: shop.create_rollback("ann", "shop", to=made[0].id),
        lambda: live(shop, {"f": "v1"}),
    ]

    def slow(self: Store, repository: str, keep: int) -> Any:
        found = judged(self, repository, keep)
        if meanwhile:
            meanwhile.pop(0)()
        return found

    monkeypatch.setattr(Store, "_judged", slow)
    shop.retain(SHOP.key, 1)
    assert not meanwhile
    rollback = shop.rolling()[0]
    assert [each.artifact for each in shop.rollback_specs(rollback).values()] == [bundle("v0")]
    assert {made[0].id, made[4].id} <= set(ids(shop))
    assert {made[1].id, made[2].id, made[3].id}.isdisjoint(ids(shop))
    assert shop.redis.hexists(keys.revisions(SHOP.key), f"f@{_revision('v1')}")


def test_pruning_beside_releases_and_rollbacks_never_takes_what_is_needed(shop: Store) -> None:
    """Releases and rollbacks by one thread, another prunes all the while: whatever is
    said to be there can be gone back to, and a claimed artifact is never removed."""
    over = threading.Event()
    trouble: list[str] = []

    def prune() -> None:
        while not over.is_set():
            try:
                wanted = needed(shop, 2)
                for name, since in shop.unneeded().items():
                    artifact = name.partition(" ")[2]
                    if artifact not in wanted and shop.release_artifact(
                        "ann", artifact, [artifact], since
                    ):
                        shop.forget_artifact("ann", artifact, [artifact])
                known = shop.known_artifacts(["ann"])["ann"]
                idle = {f"ann {each}": 1.0 for each in known if each not in wanted}
                shop.note_unneeded(idle, [])
            except Exception as error:
                trouble.append(repr(error))
                return

    thread = threading.Thread(target=prune)
    thread.start()
    try:
        for number in range(60):
            text = f"v{number % 7}"
            artifact = bundle(text)
            release = staged(shop, {"f": text, "g": "same"})
            found = shop.claim_artifacts("ann", [artifact])
            if not found:  # it is built
                shop.save_artifact("ann", artifact, artifact, {})
            shop.switch(release.id, lambda _: 1)
            shop.finish(release.id, "http://here")
            assert shop.claim_artifacts("ann", [artifact]) == {artifact: artifact}, "it was taken"
            kept = [each for each in ids(shop) if shop.revisions(each)]
            if number % 3 == 2 and len(kept) > 2:
                try:
                    rollback = shop.create_rollback("ann", "shop", to=kept[2])
                except SlipwayError:  # it has what serves already, or went just before
                    continue
                specs = shop.rollback_specs(rollback)
                assert specs
                shop.roll_back(rollback.id, specs, lambda _: 1)
                shop.finish_rollback(rollback.id)
    finally:
        over.set()
        thread.join()
    assert trouble == []
    assert len(ids(shop)) >= 3


@pytest.mark.parametrize("keep", [1, 5, 100])
def test_what_goes_first_changes_nothing_of_what_goes_next(keep: int) -> None:
    """So that pieces, and a dry run, come to the same as everything at once."""
    history = [
        Seen(
            f"r{number}",
            State.FAILED if number % 3 == 1 else State.REPLACED,
            {} if number % 3 == 1 else {"f": str(number), "g": str(number // 50)},
        )
        for number in reversed(range(1000))
    ]
    once = judge(history, keep)
    left = list(history)
    gone: list[str] = []
    while some := judge(left, keep).gone[:7]:
        gone += some
        left = [each for each in left if each.id not in some]
    assert gone == once.gone
    assert judge(left, keep).kept == once.kept


def _revision(text: str) -> str:
    return FunctionSpec(
        name="f", namespace="ann", artifact=bundle(text), repository="shop"
    ).revision

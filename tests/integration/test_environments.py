"""Environments: from what the deploy branch says to records, releases and their end, with a real
store and real git; every step may be the last one of a gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from builder.origins import local_url, origin
from builder.pipeline import branch_gone
from builder.work import Tools
from core import keys, names, queues
from core.errors import Conflict, InvalidRequest, NotFound
from core.models import Artifact, FunctionSpec, Promotion, Release, State
from core.openfaas import Namespace
from core.repositories import Repository
from core.settings import Settings
from core.store import Store
from gateway import bare, environments, heads, promotions
from gateway.adoption import take_down
from tests.unit.repositories import BareRepository

FNS = Repository(namespace="ann", name="fns", source="git", deploy_branch="main")
HUB = Repository(
    namespace="ann",
    name="hub",
    source="github",
    full_name="Ann/hub",
    forge_id="7",
    owner_id="5",
    deploy_branch="main",
    installation="9",
)
BUILDER = (State.QUEUED, State.BUILDING, State.TESTING)
STAGING = "ann--staging/fns"


@pytest.fixture
def own(settings: Settings, store: Store) -> BareRepository:
    store.claim_namespace("ann", "git", FNS)
    return BareRepository(Path(local_url(settings, FNS)))


def artifact(release: Release, name: str, digest: str) -> Artifact:
    bundle = f"bundle:sha256:{digest * 64}"
    spec = FunctionSpec(
        name=name,
        namespace=release.namespace,
        artifact=bundle,
        repository=release.repository,
        commit=release.commit,
    )
    return Artifact(name=name, key="", artifact=bundle, spec=spec)


def finish(
    store: Store, release: Release, wanted: dict[str, str] | None = None, digest: str = "a"
) -> None:
    """What builder, gateway and controller do with a release; of no commit nothing is built."""
    key = f"{release.namespace}/{release.repository}"
    queues.dispatch(store, key)
    assert store.turn(key) == release.id
    store.move(release.id, BUILDER, State.BUILDING)
    made = [] if release.commit == names.NO_COMMIT else [artifact(release, "hello", digest)]
    store.put_artifacts(release.id, release.commit, made, environments=wanted)
    store.switch(release.id, lambda _: 1)
    store.finish(release.id, "http://slipway.test")


def says(
    store: Store, wanted: dict[str, str] | None, repository: Repository = FNS, digest: str = "a"
) -> Release:
    """A release of the deploy branch goes live that names these environments."""
    commit = digest * 40
    release = store.create_release(repository, commit, "main", again=True)
    finish(store, release, wanted, digest)
    return release


def newest(store: Store, key: str = STAGING) -> Release:
    found = store.newest_release(key)
    assert found is not None
    return found


# Made


def test_what_a_live_release_names_is_made_and_released(
    settings: Settings, store: Store, own: BareRepository
) -> None:
    commit = own.commit({"a": "1"}, branch="develop")
    says(store, {"staging": "develop", "later": "not/pushed"})
    environments.settle(settings, store)
    child = store.repository("ann--staging", "fns")
    assert (child.parent, child.environment, child.deploy_branch) == (
        "ann/fns",
        "staging",
        "develop",
    )
    assert (newest(store).commit, newest(store).branch) == (commit, "develop")
    assert store.newest_release("ann--later/fns") is None, "its branch is not there yet"
    assert store.namespaces() == ["ann", "ann--later", "ann--staging"]
    environments.settle(settings, store)
    heads.compare(settings, store)
    assert len(store.releases("ann--staging", "fns")) == 1
    later = own.commit({"a": "2"}, branch="not/pushed")
    heads.compare(settings, store)
    assert newest(store, "ann--later/fns").commit == later
    assert {each.key for each in store.for_branch(FNS, "develop")} == {STAGING}
    assert [each.key for each in store.for_branch(FNS, "main")] == ["ann/fns"]
    assert store.for_branch(FNS, "other") == store.for_branch(FNS, "") == []


def test_only_a_release_that_may_say_so_changes_anything(store: Store) -> None:
    store.claim_namespace("ann", "git", FNS)
    says(store, {"staging": "develop"})
    assert store.wanted_environments() == {"ann/fns": {"staging": "develop"}}
    says(store, None, digest="b")
    assert store.wanted_environments() == {"ann/fns": {"staging": "develop"}}
    failed = store.create_release(FNS, "c" * 40, "main")
    queues.dispatch(store, FNS.key)
    store.move(failed.id, BUILDER, State.BUILDING)
    store.put_artifacts(failed.id, failed.commit, [artifact(failed, "hello", "c")], environments={})
    store.move(failed.id, [State.STAGING], State.FAILED, "unhealthy")
    assert store.wanted_environments() == {"ann/fns": {"staging": "develop"}}
    says(store, {}, digest="d")
    assert store.wanted_environments() == {}


def test_a_gateway_that_dies_in_between_is_gone_on_from(
    settings: Settings, store: Store, own: BareRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the record of an environment, and after that of its end."""
    commit = own.commit({"a": "1"}, branch="develop")
    says(store, {"staging": "develop"})

    def dies(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Store, "create_release", dies)
        with pytest.raises(KeyboardInterrupt):
            environments.settle(settings, store)
    assert store.find_repository(STAGING)
    assert store.newest_release(STAGING) is None
    environments.settle(settings, store)
    assert newest(store).commit == commit
    finish(store, newest(store))

    says(store, {}, digest="b")
    with monkeypatch.context() as patched:
        patched.setattr(Store, "create_release", dies)
        with pytest.raises(KeyboardInterrupt):
            environments.settle(settings, store)
    assert store.repository("ann--staging", "fns").gone
    assert newest(store).commit == commit
    environments.settle(settings, store)
    down = newest(store)
    assert (down.commit, down.state) == (names.NO_COMMIT, State.QUEUED)
    environments.settle(settings, store)
    assert newest(store) == down, "it is on its way"


# Ended


def test_one_that_is_not_named_any_more_is_taken_down_and_comes_again(
    settings: Settings, store: Store, own: BareRepository
) -> None:
    commit = own.commit({"a": "1"}, branch="develop")
    says(store, {"staging": "develop"})
    environments.settle(settings, store)
    finish(store, newest(store))
    assert "hello.ann--staging" in store.functions()

    says(store, {}, digest="b")
    environments.settle(settings, store)
    child = store.repository("ann--staging", "fns")
    assert child.gone == "the stack file of main does not name it any more"
    assert store.for_branch(FNS, "develop") == []
    assert branch_gone(newest(store), child, Tools(settings, store, None))  # type: ignore[arg-type]  # no step is begun
    heads.compare(settings, store)
    finish(store, newest(store))
    assert store.functions().keys() == {"hello.ann"}
    count = len(store.releases("ann--staging", "fns"))
    environments.settle(settings, store)
    assert len(store.releases("ann--staging", "fns")) == count, "nothing is left to do"

    says(store, {"staging": "develop"}, digest="d")
    environments.settle(settings, store)
    assert not store.repository("ann--staging", "fns").gone
    assert (newest(store).commit, newest(store).state) == (commit, State.QUEUED)


def test_a_failed_end_is_tried_again(settings: Settings, store: Store, own: BareRepository) -> None:
    own.commit({"a": "1"}, branch="develop")
    says(store, {"staging": "develop"})
    environments.settle(settings, store)
    finish(store, newest(store))
    says(store, {}, digest="b")
    environments.settle(settings, store)
    first = newest(store)
    store.move(first.id, [State.QUEUED, State.BUILDING], State.FAILED, "the disk was full")
    environments.settle(settings, store)
    assert newest(store).id != first.id
    assert newest(store).commit == names.NO_COMMIT


def test_another_branch_is_released_anew(
    settings: Settings, store: Store, own: BareRepository
) -> None:
    own.commit({"a": "1"}, branch="develop")
    next_ = own.commit({"a": "2"}, branch="next")
    says(store, {"staging": "develop"})
    environments.settle(settings, store)
    finish(store, newest(store))
    says(store, {"staging": "next"}, digest="b")
    environments.settle(settings, store)
    assert (newest(store).commit, newest(store).branch) == (next_, "next")


def test_those_of_a_forge_are_asked_for_their_heads(settings: Settings, store: Store) -> None:
    store.claim_namespace("ann", "https://github.com#5")
    store.save_repository(HUB)
    says(store, {"staging": "develop"}, HUB)
    environments.settle(settings, store)
    child = store.repository("ann--staging", "hub")
    assert (child.full_name, child.installation, child.forge_id) == ("Ann/hub", "9", "7")
    assert store.repository_at("github", "7") == HUB, "an environment is not what the forge has"
    made = newest(store, child.key)
    assert (made.commit, store.pinned(made.id)) == (names.NO_COMMIT, False)
    environments.settle(settings, store)
    assert len(store.releases("ann--staging", "hub")) == 1
    # What changes at the forge reaches it, and what ends there ends it.
    store.save_repository(msgspec.structs.replace(HUB, full_name="Ann/other", installation="10"))
    environments.settle(settings, store)
    child = store.repository("ann--staging", "hub")
    assert (child.full_name, child.installation) == ("Ann/other", "10")
    assert len(store.releases("ann--staging", "hub")) == 1
    store.save_repository(msgspec.structs.replace(HUB, gone="the App was uninstalled"))
    environments.settle(settings, store)
    assert store.repository("ann--staging", "hub").gone == "the App was uninstalled"
    store.move(made.id, [State.QUEUED, State.SUPERSEDED], State.CANCELLED)
    down = store.create_release(store.repository("ann--staging", "hub"), names.NO_COMMIT, "develop")
    finish(store, down)
    store.save_repository(HUB)
    environments.settle(settings, store)
    asked = newest(store, child.key)
    assert (asked.id != down.id, asked.commit) == (True, names.NO_COMMIT), "asked for its head anew"


# Namespaces


def test_nothing_is_made_of_a_repository_that_is_gone_meanwhile(store: Store) -> None:
    """The gateway had looked before it was uninstalled."""
    store.claim_namespace("ann", "git", HUB)
    store.save_environment(HUB, "staging", "develop")
    take_down(store, HUB, "the App was uninstalled")
    with pytest.raises(Conflict, match="the App was uninstalled"):
        store.save_environment(HUB, "staging", "develop")
    assert store.repository("ann--staging", "hub").gone


def test_what_a_release_says_that_went_live_while_the_edge_was_away_counts(store: Store) -> None:
    store.claim_namespace("ann", "git", FNS)
    for digit, wanted, pinned in (("a", {"staging": "develop"}, False), ("b", None, True)):
        release = store.create_release(FNS, digit * 40, "main", pinned=pinned)
        queues.dispatch(store, FNS.key)
        store.move(release.id, BUILDER, State.BUILDING)
        made = [artifact(release, "hello", digit)]
        store.put_artifacts(release.id, release.commit, made, environments=wanted)
        store.switch(release.id, lambda _: 1)
    store.finish(release.id, "http://slipway.test")
    assert store.wanted_environments() == {"ann/fns": {"staging": "develop"}}


def test_its_namespace_may_be_there_before_it(store: Store) -> None:
    with pytest.raises(Conflict, match="owner of the namespace ann--staging is not there"):
        store.create_namespace(Namespace(name="ann--staging", labels={"openfaas": "1"}))
    store.claim_namespace("ann", "https://github.com#5", HUB)
    store.create_namespace(Namespace(name="ann--staging", labels={"openfaas": "1"}))
    store.set_variables("ann--staging", {"A": "1"})
    child = store.save_environment(HUB, "staging", "develop")
    assert child.namespace == "ann--staging"
    assert store.redis.hget(keys.NAMESPACES, "ann--staging") == b"https://github.com#5"


def test_a_namespace_of_somebody_else_is_not_taken(
    settings: Settings, store: Store, own: BareRepository
) -> None:
    store.redis.hset(keys.NAMESPACES, "ann--staging", "https://github.com#5")
    with pytest.raises(Conflict, match="ann--staging does not belong to whom ann does"):
        store.check_environment(FNS, "staging")
    own.commit({"a": "1"}, branch="develop")
    says(store, {"staging": "develop", "demo": "develop"})
    environments.settle(settings, store)
    assert store.find_repository(STAGING) is None
    assert store.find_repository("ann--demo/fns"), "one's trouble is not the others'"
    with pytest.raises(NotFound):
        store.check_environment(msgspec.structs.replace(FNS, name="gone"), "demo")


def test_two_repositories_share_one_and_each_function_is_one_s(
    settings: Settings, store: Store, own: BareRepository
) -> None:
    other = msgspec.structs.replace(FNS, name="other")
    store.claim_namespace("ann", "git", other)
    commit = own.commit({"a": "1"}, branch="develop")
    BareRepository(Path(local_url(settings, other))).commit({"a": "1"}, branch="develop")
    says(store, {"staging": "develop"})
    environments.settle(settings, store)
    finish(store, newest(store))
    store.save_environment(other, "staging", "develop")
    release = store.create_release(store.repository("ann--staging", "other"), commit, "develop")
    with pytest.raises(Conflict, match="belongs to the repository ann--staging/fns"):
        store.check_claims(release, {"hello": ""})


def test_an_owner_with_environments_is_not_deleted(store: Store) -> None:
    store.claim_namespace("ann", "git", FNS)
    store.save_environment(FNS, "staging", "develop")
    with pytest.raises(Conflict, match="namespaces of environments and previews ann--staging"):
        store.delete_namespace("ann")
    store.delete_namespace("ann--staging")
    store.delete_namespace("ann")
    assert store.repositories() == []


# Where its commits are


def test_its_commits_are_those_of_its_parent(
    settings: Settings, store: Store, own: BareRepository
) -> None:
    commit = own.commit({"a": "1"}, branch="develop")
    child = store.save_environment(FNS, "staging", "develop")
    assert bare.head(settings, child) == heads.local_head(settings, child) == commit
    assert bare.own_commit(settings, child, commit) == commit
    assert origin(settings, child).url == str(own.path)
    assert bare.there(settings, child)


# Promotion


def staged(settings: Settings, store: Store, own: BareRepository) -> Release:
    """The release that is live in staging."""
    own.commit({"a": "1"}, branch="develop")
    says(store, {"staging": "develop"})
    environments.settle(settings, store)
    finish(store, newest(store), digest="5")
    return newest(store)


def test_a_tag_is_found_once_whoever_died(
    settings: Settings, store: Store, own: BareRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = staged(settings, store, own)
    own.git("tag", "promote/production/1", release.commit)

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Store, "note_promotion_tag", dies)
        with pytest.raises(KeyboardInterrupt):
            promotions.compare_tags(settings, store)
    made = newest(store, "ann/fns")
    assert made.promoted_from == Promotion(environment="staging", release=release.id)
    assert (made.commit, made.branch, store.pinned(made.id)) == (release.commit, "develop", True)
    promotions.compare_tags(settings, store)
    promotions.compare_tags(settings, store)
    assert newest(store, "ann/fns").id == made.id
    finish(store, made, None, "5")
    store.redis.set(keys.head("ann/fns"), "a" * 40)
    again = store.create_release(FNS, "a" * 40, "main", delivery=("github", "doubled"))
    assert again.id == made.id, "the branch's head does not come over it"
    newer = store.create_release(FNS, "b" * 40, "main")
    assert newer.id != made.id
    store.move(newer.id, [State.QUEUED], State.CANCELLED)
    assert store.wanted_environments() == {"ann/fns": {"staging": "develop"}}
    # The tag moves to another commit that was live there, by an annotated one.
    own.commit({"a": "2"}, branch="develop")
    heads.compare(settings, store)
    second = newest(store)
    finish(store, second, digest="6")
    own.git(
        "-c", "user.name=A", "tag", "-f", "-a", "-m", "x", "promote/production/1", second.commit
    )
    promotions.compare_tags(settings, store)
    assert newest(store, "ann/fns").promoted_from == Promotion(
        environment="staging", release=second.id
    )
    with pytest.raises(Conflict, match=f"newer than {release.id}, was promoted already"):
        promotions.by_tag(store, FNS, "promote/production/0", release.commit, release.commit)
    own.git("tag", "-d", "promote/production/1")
    promotions.compare_tags(settings, store)
    assert store.promotion_tags("ann/fns") == {}


@pytest.mark.parametrize(
    ("tag", "error", "told"),
    [
        ("promote/production", InvalidRequest, "not of the form promote/<environment>/"),
        ("promote/demo/1", NotFound, "no environment 'demo', it has production, staging"),
        ("promote/staging/1", Conflict, "live in no other environment of ann/fns than staging"),
    ],
)
def test_a_tag_that_asks_for_what_cannot_be(
    settings: Settings,
    store: Store,
    own: BareRepository,
    tag: str,
    error: type[Exception],
    told: str,
) -> None:
    release = staged(settings, store, own)
    with pytest.raises(error, match=told):
        promotions.by_tag(store, FNS, tag, release.commit, release.commit)
    assert newest(store, "ann/fns").promoted_from is None


def test_a_tag_of_an_old_release_is_not_looked_for_long(
    settings: Settings, store: Store, own: BareRepository
) -> None:
    release = staged(settings, store, own)
    staging = store.repository("ann--staging", "fns")

    def fails(count: int) -> None:
        for _ in range(count):
            made = store.create_release(staging, "f" * 40, "develop", again=True)
            store.move(made.id, [State.QUEUED], State.FAILED, "no")

    fails(promotions.LOOKED_AT - 1)
    made = promotions.by_tag(store, FNS, "promote/production/1", release.commit, release.commit)
    assert made.promoted_from == Promotion(environment="staging", release=release.id)
    fails(1)
    assert len(store.newest_releases(staging.key, promotions.LOOKED_AT)) == promotions.LOOKED_AT
    with pytest.raises(Conflict, match=f"by the last {promotions.LOOKED_AT} releases of each"):
        promotions.by_tag(store, FNS, "promote/production/2", release.commit, release.commit)


def test_a_tag_that_was_refused_is_not_looked_at_again(
    settings: Settings, store: Store, own: BareRepository
) -> None:
    staged(settings, store, own)
    never = own.commit({"a": "x"}, branch="other")
    own.git("tag", "promote/production/1", never)
    promotions.compare_tags(settings, store)
    assert store.promotion_tags("ann/fns") == {"promote/production/1": never}
    blob = own.git("hash-object", "-w", "--stdin", stdin=b"x")
    own.git("tag", "promote/production/2", blob)
    with pytest.raises(InvalidRequest, match="not the tag of a commit"):
        promotions.take_tag(store, FNS, "promote/production/2", "", blob)
    assert newest(store, "ann/fns").promoted_from is None


def test_many_tags_take_turns(settings: Settings, store: Store, own: BareRepository) -> None:
    release = staged(settings, store, own)
    tags = [f"promote/nowhere/{number:02}" for number in range(promotions.MOST + 5)]
    for tag in tags:
        own.git("update-ref", f"refs/tags/{tag}", release.commit)
    promotions.compare_tags(settings, store)
    assert len(store.promotion_tags("ann/fns")) == promotions.MOST
    promotions.compare_tags(settings, store)
    assert sorted(store.promotion_tags("ann/fns")) == tags

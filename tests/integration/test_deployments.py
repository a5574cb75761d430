"""The transactions of deploys by API: what happens in the middle of one counts."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from core import queues
from core.errors import Conflict, InvalidRequest, NotFound
from core.models import Artifact, FunctionSpec, State
from core.repositories import Repository
from core.store import Store

BUILDER = (State.QUEUED, State.BUILDING, State.TESTING)


def spec(**more: list[str]) -> FunctionSpec:
    return FunctionSpec(
        name="f",
        namespace="ann",
        artifact="figlet",
        foreign=True,
        deployment=secrets.token_hex(4),
        **more,  # type: ignore[arg-type]  # of a test's own choosing
    )


@pytest.fixture
def ann(store: Store) -> Store:
    store.claim_namespace("ann", "git")
    return store


def once(deed: Callable[[], object]) -> Callable[[], None]:
    """Does it the first time that it is called: a transaction may be tried again."""
    left = [deed]

    def check() -> None:
        if left:
            left.pop()()

    return check


def test_a_namespace_that_is_deleted_meanwhile(ann: Store) -> None:
    with pytest.raises(InvalidRequest, match="there is no namespace ann"):
        ann.deploy(spec(), update=False, check=once(lambda: ann.delete_namespace("ann")))
    assert ann.functions() == {}


def test_a_secret_that_is_deleted_or_changed_meanwhile(ann: Store, tmp_path: Path) -> None:
    key = ann.sealing_key(tmp_path / "key")
    ann.create_secret(key, "ann", "s", b"one")
    changes = once(lambda: ann.update_secret(key, "ann", "s", b"two"))
    record = ann.deploy(spec(secrets=["s"]), update=False, check=changes)
    assert record.spec.secret_versions == ann.secret_versions("ann", ["s"])
    with pytest.raises(InvalidRequest, match="secrets: ann has not the secret s"):
        ann.deploy(
            spec(secrets=["s"]), update=True, check=once(lambda: ann.delete_secret("ann", "s"))
        )
    assert ann.function("f.ann") == record


def test_a_release_that_takes_the_name_meanwhile(ann: Store) -> None:
    known = Repository(namespace="ann", name="fns", source="git", deploy_branch="main")
    ann.save_repository(known)
    release = ann.create_release(known, "a" * 40, "main")
    queues.dispatch(ann, known.key)
    ann.move(release.id, BUILDER, State.BUILDING)
    theirs = FunctionSpec(name="f", namespace="ann", artifact="x", repository="fns")
    made = [Artifact(name="f", key="", artifact="x", spec=theirs)]
    ann.put_artifacts(release.id, release.commit, made)
    switches = once(lambda: ann.switch(release.id, lambda _: 1))
    with pytest.raises(Conflict, match="belongs to the repository ann/fns"):
        ann.deploy(spec(), update=False, check=switches)
    record = ann.function("f.ann")
    assert record
    assert record.spec == theirs


def test_one_that_is_deleted_meanwhile_is_not_updated(ann: Store) -> None:
    ann.deploy(spec(), update=False, check=lambda: None)
    with pytest.raises(NotFound):
        ann.deploy(spec(), update=True, check=once(lambda: ann.delete_function("f.ann")))
    assert ann.functions() == {}


def test_what_refuses_last_changes_nothing(ann: Store) -> None:
    def refuse() -> None:
        raise Conflict("no")

    with pytest.raises(Conflict, match="no"):
        ann.deploy(spec(), update=False, check=refuse)
    assert ann.functions() == {}


def test_only_what_is_desired_still_is_settled(ann: Store) -> None:
    first, second, third = spec(), spec(), spec()
    ann.deploy(first, update=False, check=lambda: None)
    ann.deploy(second, update=True, check=lambda: None)
    ann.deploy(third, update=True, check=lambda: None)
    assert not ann.settle(second), "another was deployed meanwhile"
    record = ann.function("f.ann")
    assert record
    assert (record.spec, record.previous) == (third, first)
    ann.scale("f.ann", lambda _: 3)
    assert ann.settle(third)
    record = ann.function("f.ann")
    assert record
    assert (record.previous, record.replicas) == (None, 3)
    ann.delete_function("f.ann")
    assert not ann.settle(third)
    assert ann.functions() == {}

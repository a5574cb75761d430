"""Tags that promote are found at forges without a single event: the stand-ins of three forges, git
over HTTP, a real gateway; the builder's sweep is run turn by turn."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from builder import forgeheads
from builder.forgeheads import ForgeHeads
from builder.mirror import Mirror
from core import keys, queues
from core.models import Promotion, Release, State
from core.repositories import Repository
from core.store import Store
from core.store.environments import note_environments
from gateway import promotions
from tests.forges import server
from tests.forges.gitea import serving_gitea
from tests.forges.github import serving_github
from tests.forges.gitlab import serving_gitlab
from tests.integration.gateway.conftest import SECRET
from tests.integration.gateway.harness import BUILDER, Gateway, artifact, running
from tests.integration.gateway.test_gateway_webhooks import PUSH, send
from tests.waiting import until

TAG = "promote/production/1"


class Place(NamedTuple):
    """A forge, one private repository there, and the gateway that knows it."""

    kind: str
    forge: server.Forge
    project: server.Project
    full_name: str
    forge_id: str
    gateway: Gateway


@pytest.fixture(scope="module", params=["github", "gitlab", "gitea"])
def place(request: pytest.FixtureRequest, valkey: str) -> Iterator[Place]:
    kind = request.param
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    serves: Any = {"github": serving_github, "gitlab": serving_gitlab, "gitea": serving_gitea}[kind]
    with serves(folder / "forge") as there:
        how = {"visibility": "private"} if kind == "gitlab" else {"private": True}
        made = there.repository("Ann/fns", **how)
        token = there.personal_token("ann") if kind == "github" else there.token
        (folder / "token").write_text(f"{token}\n")
        name = f"SLIPWAY_{kind.upper()}"
        forge = {f"{name}_URL": there.url, f"{name}_TOKEN_FILE": str(folder / "token")}
        with running(folder, valkey, SLIPWAY_GITHUB_WEBHOOK_SECRET=SECRET, **forge) as up:
            yield Place(kind, there.forge, made.project, "Ann/fns", str(made.id), up)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def home(place: Place, store: Store) -> Repository:
    """The repository, with an environment that its release named, and no tags."""
    for tag in tags(place):
        tagged(place, tag, "")
    made = Repository(
        namespace="ann",
        name="fns",
        source=place.kind,
        full_name=place.full_name,
        forge_id=place.forge_id,
        deploy_branch="main",
    )
    store.adopt_repository(made, "https://forge.example#1")
    with store.redis.pipeline() as pipe:
        # The gateway makes it. The other name is another each time: it looks at what changed.
        wanted = {"staging": "develop", f"e{secrets.token_hex(4)}": "no-such-branch"}
        note_environments(pipe, made.key, wanted)
        pipe.execute()
    first = until(lambda: store.newest_release("ann--staging/fns"))
    store.move(first.id, [State.QUEUED], State.CANCELLED)
    return made


@pytest.fixture
def sweep(place: Place, store: Store, monkeypatch: pytest.MonkeyPatch) -> ForgeHeads:
    monkeypatch.setattr(forgeheads, "WAIT", 30.0)
    store.redis.delete(keys.lock("forge-heads"))
    return ForgeHeads(replace(place.gateway.settings, sweep=1e-9), store)


def staged(place: Place, store: Store, change: str) -> Release:
    """What is live in staging."""
    commit = place.project.commit({"a": change}, "develop")
    made = store.create_release(store.repository("ann--staging", "fns"), commit, "develop")
    queues.dispatch(store, "ann--staging/fns")
    store.move(made.id, BUILDER, State.BUILDING)
    store.put_artifacts(made.id, commit, [artifact(made, "hello")])
    store.switch(made.id, lambda _: 1)
    return store.finish(made.id, "http://here")


def tags(place: Place) -> list[str]:
    told = server.git(place.project.bare, "tag", "--list")
    return told.split()


def tagged(place: Place, tag: str, object_: str) -> None:
    place.project.point(f"refs/tags/{tag}", object_)


def annotated(place: Place, tag: str, commit: str) -> None:
    who = ("-c", "user.name=Ann", "-c", "user.email=ann@example.com")
    server.git(place.project.bare, *who, "tag", "-f", "-a", "-m", "ship it", tag, commit)


def promoted(store: Store) -> list[Promotion]:
    """Of the newest release to the oldest."""
    made = store.releases("ann", "fns", limit=100)
    return [each.promoted_from for each in made if each.promoted_from]


def of(release: Release) -> Promotion:
    return Promotion(environment="staging", release=release.id)


def test_a_tag_that_no_event_told_promotes_once(
    place: Place, store: Store, home: Repository, sweep: ForgeHeads
) -> None:
    first = staged(place, store, "1")
    sweep.run()
    annotated(place, TAG, first.commit)
    tagged(place, "promoted-is-another-word", first.commit)
    sweep.run()
    assert promoted(store) == [of(first)]
    assert store.promotion_tags(home.key) == {TAG: first.commit}
    (made,) = (each for each in store.releases("ann", "fns") if each.promoted_from)
    assert (made.commit, store.pinned(made.id)) == (first.commit, True)
    sweep.run()
    # Of a worker that knows nothing yet, or of two.
    for _ in range(2):
        store.redis.delete(keys.lock("forge-heads"))
        ForgeHeads(sweep.settings, store).run()
    assert promoted(store) == [of(first)]

    second = staged(place, store, "2")
    tagged(place, TAG, second.commit)
    sweep.run()
    assert promoted(store) == [of(second), of(first)], "it moved"
    tagged(place, TAG, "")
    sweep.run()
    assert store.promotion_tags(home.key) == {}


def test_what_was_there_at_the_first_look_is_only_noted(
    place: Place, store: Store, home: Repository, sweep: ForgeHeads
) -> None:
    """Old tags by the dozen; and what comes next, in whichever order, leaves the newest."""
    releases = [staged(place, store, str(number)) for number in range(4)]
    for number in range(3):
        tagged(place, f"promote/production/{number}", releases[number].commit)
    sweep.run()
    assert promoted(store) == []
    assert len(store.promotion_tags(home.key)) == 3
    tagged(place, "promote/production/b", releases[1].commit)
    tagged(place, "promote/production/a", releases[3].commit)
    tagged(place, "promote/production/c", releases[2].commit)
    sweep.run()
    assert promoted(store) == [of(releases[3])]
    assert len(store.promotion_tags(home.key)) == 6, "those of older ones were looked at"


@pytest.mark.usefixtures("home")
def test_more_tags_than_are_looked_at_at_once(
    place: Place, store: Store, sweep: ForgeHeads
) -> None:
    release = staged(place, store, "1")
    sweep.run()
    for number in range(promotions.MOST):
        tagged(place, f"promote/nowhere/{number:02}", release.commit)
    tagged(place, TAG, release.commit)
    sweep.run()
    assert promoted(store) == []
    sweep.run()
    assert promoted(store) == [of(release)]


@pytest.mark.parametrize("place", ["github"], indirect=True)
def test_events_and_the_sweep_take_a_tag_once(
    place: Place, store: Store, home: Repository, sweep: ForgeHeads
) -> None:
    store.save_repository(msgspec.structs.replace(home, owner_id="1"))
    event = {**PUSH, "ref": f"refs/tags/{TAG}"}
    event["repository"] = {**PUSH["repository"], "id": int(home.forge_id)}

    def told(release: Release, delivery: str) -> str:
        commit = release.commit
        given = {**event, "after": "e" * 40, "head_commit": {**PUSH["head_commit"], "id": commit}}
        answer = send(place.gateway, "push", given, X_GitHub_Delivery=delivery)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["release"]) if answer.text.startswith("{") else answer.text

    first = staged(place, store, "1")
    sweep.run()
    annotated(place, TAG, first.commit)
    made = told(first, "in time")
    assert store.promotion_tags(home.key) == {TAG: first.commit}
    store.redis.delete(*store.redis.keys("slipway:delivery:*"))  # as after a week
    sweep.run()
    assert promoted(store) == [of(first)]

    second = staged(place, store, "2")
    tagged(place, TAG, second.commit)
    sweep.run()
    newest = store.newest_release(home.key)
    assert newest
    assert newest.promoted_from == of(second)
    assert told(second, "late") == told(second, "doubled") == newest.id != made
    assert "which is newer than" in told(first, "very late")
    sweep.run()
    assert promoted(store) == [of(second), of(first)]


@pytest.mark.parametrize("place", ["github"], indirect=True)
@pytest.mark.usefixtures("home")
def test_what_did_not_change_costs_one_conditional_question(
    place: Place, store: Store, sweep: ForgeHeads
) -> None:
    release = staged(place, store, "1")
    tagged(place, TAG, release.commit)
    sweep.run()
    begun = len(place.forge.asked)
    sweep.run()
    asked = [
        each for each in place.forge.asked[begun:] if "matching-refs" in each or ".git" in each
    ]
    (question,) = asked
    assert question.endswith("/git/matching-refs/tags/promote")


@pytest.mark.parametrize("place", ["github"], indirect=True)
@pytest.mark.usefixtures("home")
def test_what_git_shows_later_than_the_api_is_not_lost(
    place: Place, store: Store, sweep: ForgeHeads, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = staged(place, store, "1")
    sweep.run()
    tagged(place, TAG, release.commit)
    with monkeypatch.context() as patched:
        patched.setattr(Mirror, "tags", lambda *_, **__: {})
        sweep.run()
    assert promoted(store) == []
    sweep.run()
    assert promoted(store) == [of(release)]


def test_a_name_that_is_another_s_by_now_promotes_nothing(
    place: Place, store: Store, home: Repository, sweep: ForgeHeads
) -> None:
    release = staged(place, store, "1")
    sweep.run()
    copy = place.forge.folder / "x/y.git"
    server.git(place.forge.folder, "clone", "--quiet", "--bare", str(place.project.bare), str(copy))
    server.git(copy, "tag", TAG, release.commit)
    store.save_repository(msgspec.structs.replace(home, full_name="x/y", public=True))
    sweep.run()
    assert [each for each in place.forge.asked if each.startswith("/x/y.git/")]
    assert promoted(store) == []
    assert store.promotion_tags(home.key) == {}


@pytest.mark.usefixtures("home")
def test_while_nobody_can_tell_whose_name_it_is_no_tag_is_taken(
    place: Place, store: Store, sweep: ForgeHeads
) -> None:
    release = staged(place, store, "1")
    sweep.run()
    tagged(place, TAG, release.commit)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(place.forge, "away", True)
        patched.setattr("builder.forgeheads.ForgeHeads._by_api", lambda *_: False)
        patched.setattr(Mirror, "tags", lambda *_, **__: {TAG: (release.commit, release.commit)})
        sweep.run()
    assert promoted(store) == []
    sweep.run()
    assert promoted(store) == [of(release)]

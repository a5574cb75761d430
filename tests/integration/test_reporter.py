"""The reporter on a real store: what a forge is shown while releases go their way, whoever is away
meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import msgspec
import pytest
from redis.exceptions import RedisError

from core import keys
from core.errors import Conflict, InvalidRequest, NotAllowed, NotFound, SlipwayError
from core.models import Build, FunctionRow, Receipt, Release, State
from core.names import NO_COMMIT, NONE_AT_ALL
from core.policy import Held, OwnerPolicy, Policy
from core.repositories import Repository, Request
from core.settings import Settings
from core.store import LogEnd, Store
from core.store.reports import Shown
from forges import Annotation, Deployment, Progress
from forges.api import Later
from gateway.reports import looking, outbox
from tests.integration.reporting import (
    BUILDER,
    FNS,
    Recorder,
    begun,
    changed,
    go_live,
    live,
    reporting,
    told_all,
    write,
)
from tests.waiting import until

PREVIEW = changed(
    FNS,
    namespace="ann--pr-5",
    parent=FNS.key,
    deploy_branch="refs/pull/5/head",
    request=Request(number=5),
)
STAGING = changed(FNS, namespace="ann--staging", parent=FNS.key, environment="staging")


@pytest.fixture
def forge() -> Recorder:
    return Recorder()


@pytest.fixture
def told(
    settings: Settings, store: Store, forge: Recorder, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Recorder]:
    """A forge that is told of everything."""
    monkeypatch.setattr("gateway.reports.reporting.REPOSITORIES_EVERY", 0.2)
    monkeypatch.setattr(outbox, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(outbox, "LONGEST_PAUSE", 0.2)
    with reporting(settings, store, forge):
        yield forge


def notes(store: Store, release: Release) -> list[str]:
    return [
        line.text
        for _, line in store.read_log(release.id)
        if not isinstance(line, LogEnd) and line.step == "report"
    ]


def test_a_release_is_shown_step_by_step(store: Store, told: Recorder) -> None:
    release = begun(store, "a", "hello", "other")
    until(lambda: told.states("report slipway ") == ["running"])
    store.save_row(release.id, FunctionRow(name="hello", build=Build.BUILDING))
    write(store, release.id, "hello", "dependencies", "installing dependencies", "a line")
    until(lambda: told.states("report slipway/hello ")[-1:] == ["running"])
    until(lambda: told.check("slipway/hello").title == "installing dependencies")
    until(lambda: told.states("report slipway/other ") == ["queued"])
    until(lambda: told.states("deployment production ") == ["running"])
    go_live(store, release, "hello", "other")
    told_all(store)
    assert told.states("report slipway ") == ["running", "success"]
    assert [told.states("report slipway/other ")[each] for each in (0, -1)] == ["queued", "success"]
    assert told.states("deployment production ") == ["running", "success"]
    whole = told.check()
    assert whole.title == "released: 2 built"
    assert whole.commit == release.commit
    assert whole.url.endswith(f"/releases/{release.id}")
    assert "http://x/function/hello.ann" in whole.summary
    assert "  a line" in told.check("slipway/hello").text
    assert "a line" not in whole.text
    assert len(told.things) == 4, "each of them once"
    store.save_receipt(release.id, Receipt(requests=7, failed=0, longest_gap_ms=1))
    until(lambda: "7 requests" in told.check().summary)
    told_all(store)


def test_a_failing_test_is_shown_at_its_place(store: Store, told: Recorder) -> None:
    release = begun(store, "a", "hello")
    lines = ["E       assert 1 == 2", "", "test_handler.py:5: AssertionError", "\x1b[31mred ```"]
    write(store, release.id, "hello", "test", "testing", *lines)
    write(store, release.id, "hello", "test", "failed: the tests failed")
    row = FunctionRow(name="hello", build=Build.FAILED, folder="fns/hello")
    store.save_row(release.id, row)
    store.move(release.id, BUILDER, State.FAILED, "hello test: the tests failed")
    told_all(store)
    shown = told.check("slipway/hello")
    assert (shown.progress, shown.title) == (Progress.FAILURE, "the tests failed")
    assert list(shown.annotations) == [
        Annotation(path="fns/hello/test_handler.py", line=5, message="assert 1 == 2")
    ]
    assert shown.text.startswith("````text\ntesting\n")
    assert "  red ```" in shown.text
    assert told.check().progress is Progress.FAILURE
    assert told.states("deployment production ")[-1] == "failure"


def test_mistakes_of_the_stack_file_stand_in_it(store: Store, told: Recorder) -> None:
    release = begun(store, "a")
    store.move(release.id, BUILDER, State.FAILED, "stack.yml has 1 mistake:\n  line 3: no")
    told_all(store)
    assert list(told.check().annotations) == [Annotation(path="stack.yml", line=3, message="no")]
    assert told.find("deployment") is None, "nothing was ever to be deployed"


def test_what_waits_long_is_queued_and_what_is_overtaken_called_off(
    store: Store, told: Recorder
) -> None:
    first = begun(store, "a", "hello")
    second = store.create_release(FNS, "b" * 40, "main")
    until(lambda: told.states(f"report slipway {second.commit}") == ["queued"])
    third = store.create_release(FNS, "c" * 40, "main")
    until(lambda: told.states(f"report slipway {second.commit}")[-1] == "cancelled")
    assert third.id in told.check(commit=second.commit).title
    store.cancel(first.id, "cancelled by the admin")
    store.cancel(third.id, "cancelled by the admin")
    told_all(store)
    assert told.check(commit=first.commit).progress is Progress.CANCELLED
    assert told.states("deployment production ")[-1] == "gone" or told.states(
        "deployment production "
    ) == ["running", "cancelled"]


def test_one_deployment_of_an_environment_is_active_after_a_way_back_too(
    store: Store, told: Recorder
) -> None:
    one = live(store, "a", "hello")
    until(lambda: told.states(f"deployment production {one.commit}")[-1:] == ["success"])
    two = live(store, "b", "hello")
    until(lambda: told.states(f"deployment production {one.commit}")[-1] == "gone")
    told_all(store)
    assert told.states(f"deployment production {two.commit}")[-1] == "success"
    assert followed(told, one.commit), "the environment is the next one's"
    rollback = store.create_rollback(FNS.namespace, FNS.name)
    store.roll_back(rollback.id, store.rollback_specs(rollback), lambda _: 1)
    store.finish_rollback(rollback.id)
    until(lambda: told.states(f"deployment production {one.commit}")[-1] == "success")
    told_all(store)
    assert told.states(f"deployment production {two.commit}")[-1] == "gone"
    assert followed(told, two.commit)
    assert told.check(commit=one.commit).progress is Progress.SUCCESS
    live(store, "0")
    until(lambda: told.states(f"deployment production {one.commit}")[-1] == "gone")
    told_all(store)
    assert not followed(told, one.commit), "the branch was deleted"


def followed(told: Recorder, commit: str) -> bool:
    thing = told.find(f"deployment production {commit}")
    assert thing
    assert isinstance(thing.what, Deployment)
    return thing.what.followed


def test_a_head_that_is_another_commit_leaves_nothing_going_on(
    store: Store, told: Recorder
) -> None:
    release = begun(store, "a")
    until(lambda: told.states(f"report slipway {'a' * 40}") == ["running"])
    store.set_commit(release.id, "b" * 40)
    until(lambda: told.states(f"report slipway {'a' * 40}")[-1] == "cancelled")
    assert told.check(commit="a" * 40).title == "bbbbbbb is released instead"
    until(lambda: told.states(f"report slipway {'b' * 40}") == ["running"])
    store.move(release.id, BUILDER, State.FAILED, "no")
    told_all(store)
    assert told.states(f"report slipway {'b' * 40}") == ["running", "failure"]


def test_a_function_that_another_attempt_has_no_more_is_called_off(
    store: Store, told: Recorder
) -> None:
    release = begun(store, "a", "old")
    store.save_row(release.id, FunctionRow(name="old", build=Build.BUILDING))
    until(lambda: told.states("report slipway/old ") == ["running"])
    store.save_rows(release.id, [FunctionRow(name="new", build=Build.BUILDING)])
    until(lambda: told.states("report slipway/old ") == ["running", "cancelled"])
    until(lambda: told.states("report slipway/new ") == ["running"])
    store.move(release.id, BUILDER, State.FAILED, "no")
    told_all(store)


def test_a_busy_release_is_told_at_most_every_two_seconds(store: Store, told: Recorder) -> None:
    release = begun(store, "a", "hello")
    store.save_row(release.id, FunctionRow(name="hello", build=Build.BUILDING))
    start = time.monotonic()
    number = 0
    while time.monotonic() - start < 5:
        number += 1
        write(store, release.id, "hello", f"step-{number}", f"step {number}", *["x"] * 20)
        time.sleep(0.05)
    go_live(store, release, "hello")
    told_all(store)
    thing = told.find("report slipway/hello ")
    assert thing
    assert 2 <= len(thing.times) <= 5, "begun, two or three steps, the end"
    between = [
        after - before for before, after in zip(thing.times, thing.times[1:-1], strict=False)
    ]
    assert all(each > looking.PACE * 0.9 for each in between), between
    assert thing.states[-1] == "success"


def test_previews_and_environments_stand_beside_the_repository(
    store: Store, told: Recorder
) -> None:
    live(store, "a", "hello")
    live(store, "a", "hello", repository=STAGING)
    live(store, "a", "hello", repository=PREVIEW)
    told_all(store)
    contexts = {each.what.context for each in told.things if hasattr(each.what, "context")}
    assert contexts == {
        *("slipway", "slipway/staging", "slipway/preview"),
        *("slipway/hello", "slipway/staging/hello", "slipway/preview/hello"),
    }
    for environment in ("production", "staging", "pr-5"):
        assert told.states(f"deployment {environment} ")[-1] == "success"


def test_a_preview_has_one_comment_which_is_kept_current(store: Store, told: Recorder) -> None:
    def text() -> str:
        thing = told.find("comment #5")
        return str(thing.what) if thing else ""

    release = begun(store, "a", "hello", "other", repository=PREVIEW)
    until(lambda: "is being built" in text())
    go_live(store, release, "hello", "other")
    until(lambda: "is live" in text())
    assert "http://x/function/hello.ann--pr-5" in text()
    assert "http://x/function/other.ann--pr-5" in text()
    again = begun(store, "b", "hello", repository=PREVIEW)
    until(lambda: "`bbbbbbb` **is being built**" in text())
    store.move(again.id, BUILDER, State.FAILED, "hello test: no")
    until(lambda: "could not be released" in text())
    told_all(store)
    store.save_repository(changed(PREVIEW, gone="the request was closed"))
    until(lambda: "was removed" in text())
    until(lambda: told.states(f"deployment pr-5 {release.commit}")[-1] == "gone")
    told_all(store)
    store.save_repository(PREVIEW)
    until(lambda: "could not be released" in text())
    assert [each.id for each in told.things if "comment" in each.id] == ["comment Ann/fns #5"]


def test_an_error_while_it_is_compared_has_it_compared_again(
    store: Store, told: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    comment = store.comment
    failed: list[str] = []

    def fails_at_first(repository: str) -> Shown | None:
        if len(failed) < 5:
            failed.append(repository)
            raise RedisError("the store is busy")
        return comment(repository)

    monkeypatch.setattr(Store, "comment", lambda _, repository: fails_at_first(repository))
    release = begun(store, "a", "hello", repository=PREVIEW)
    until(lambda: len(failed) == 5)
    until(lambda: told.states("comment"))
    go_live(store, release, "hello")
    told_all(store)


def test_what_is_shown_of_an_owner_without_a_host_leads_to_its_path(
    settings: Settings, store: Store, forge: Recorder
) -> None:
    settings = replace(settings, domain="fn.example.com", policy="/etc/slipway/policy.yml")
    closed = Policy(policies={"ann": OwnerPolicy(domain=False)})
    assert store.hold_policy(None, Held(settings.policy, closed))
    with reporting(settings, store, forge):
        live(store, "a", "hello", repository=PREVIEW)
        told_all(store)
    url = f"{settings.user_url}/function/hello.ann--pr-5"
    assert url in forge.check("slipway/preview").summary
    comment, deployment = forge.find("comment #5"), forge.find("deployment pr-5")
    assert comment
    assert url in str(comment.what)
    assert deployment
    assert isinstance(deployment.what, Deployment)
    assert deployment.what.url == url


def test_a_request_of_a_fork_says_that_it_waits(store: Store, told: Recorder) -> None:
    def text() -> str:
        thing = told.find("comment #5")
        return str(thing.what) if thing else ""

    def pushed(digit: str, approved: str = "") -> Repository:
        request = Request(number=5, fork=True, commit=digit * 40, approved=approved * 40)
        store.save_repository(changed(PREVIEW, request=request))
        return changed(PREVIEW, request=request)

    live(store, "0", "hello")
    pushed("a")
    until(lambda: "`aaaaaaa` **waits for an approval**" in text())
    assert f"slipway approve ann/fns 5 --commit {'a' * 40}" in text()
    live(store, "a", "hello", repository=pushed("a", "a"))
    until(lambda: "`aaaaaaa` **is live**" in text())
    pushed("b", "a")
    until(lambda: "`bbbbbbb` **waits for an approval**" in text())
    assert "the preview of the commit before it answers" in text()
    told_all(store)
    pushed("a", "a")  # back to what was approved: there is no release of it that is new
    until(lambda: "`aaaaaaa` **is live**" in text())
    assert [each.id for each in told.things if "comment" in each.id] == ["comment Ann/fns #5"]


def test_a_request_of_a_fork_that_is_closed_waits_no_more(store: Store, told: Recorder) -> None:
    def text(number: int) -> str:
        thing = told.find(f"comment #{number}")
        return str(thing.what) if thing else ""

    live(store, "0", "hello")
    request = Request(number=5, fork=True, commit="a" * 40)
    waits = changed(PREVIEW, request=request)
    unasked = changed(
        PREVIEW,
        namespace="bob--pr-6",
        parent="bob/fns",
        request=msgspec.structs.replace(request, number=6),
    )
    store.save_repository(unasked)  # of one that has nothing to release
    store.save_repository(waits)
    until(lambda: "**waits for an approval**" in text(5))
    store.save_repository(changed(waits, gone="the request was closed"))
    until(lambda: "was removed" in text(5))
    assert text(6) == ""


def test_a_request_that_does_away_with_the_stack_file_is_at_fault(
    store: Store, told: Recorder
) -> None:
    live(store, "a", "hello")
    release = begun(store, "b", repository=PREVIEW)
    store.move(release.id, BUILDER, State.FAILED, f"commit bbbbbbb {NONE_AT_ALL}: add one")
    told_all(store)
    assert told.states("report slipway/preview ")[-1] == "failure"
    comment = told.find("comment #5")
    assert comment
    assert "**could not be released**" in str(comment.what)


def test_one_release_that_cannot_be_compared_keeps_no_other_waiting(
    store: Store, told: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = begun(store, "a", "hello", repository=changed(FNS, name="broken"))
    shown = store.shown

    def fails(id_: str) -> dict[str, Shown]:
        if id_ == first.id:
            raise ValueError(id_)
        return shown(id_)

    monkeypatch.setattr(Store, "shown", lambda _, id_: fails(id_))
    live(store, "b", "hello")
    until(lambda: told.states(f"report slipway {'b' * 40}")[-1:] == ["success"])


def test_a_repository_without_a_stack_file_did_nothing_wrong(store: Store, told: Recorder) -> None:
    """An organisation may have the App for all of its repositories."""
    reason = f"stack.yml has 1 mistake: commit aaaaaaa {NONE_AT_ALL}: add one"
    for repository in (FNS, PREVIEW):
        release = begun(store, "a", repository=repository)
        store.move(release.id, BUILDER, State.FAILED, reason)
    told_all(store)
    assert told.states("report slipway ")[-1] == "nothing"
    assert told.states("report slipway/preview ")[-1] == "nothing"
    assert told.find("comment") is None
    assert told.find("deployment") is None
    live(store, "b", "hello")
    release = begun(store, "c")
    store.move(release.id, BUILDER, State.FAILED, reason)  # now somebody did away with it
    told_all(store)
    assert told.states(f"report slipway {'c' * 40}")[-1] == "failure"


def test_a_preview_that_never_was_has_no_comment(store: Store, told: Recorder) -> None:
    store.save_repository(PREVIEW)
    down = store.create_release(PREVIEW, NO_COMMIT, "main")
    store.move(down.id, BUILDER, State.BUILDING)
    store.save_repository(changed(FNS, namespace="bob"))
    live(store, "a", "hello", repository=changed(FNS, namespace="bob"))
    until(lambda: told.states("report slipway ")[-1:] == ["success"])
    assert told.find("comment") is None


def test_what_is_of_our_own_remote_or_older_than_the_reporter_is_not_reported(
    settings: Settings, store: Store, forge: Recorder
) -> None:
    own = changed(FNS, name="own", source="git")
    live(store, "a", "x", repository=own)
    old = live(store, "b", "y")
    failed = begun(store, "c", "y")
    store.move(failed.id, BUILDER, State.FAILED, "no")
    going = begun(store, "d", "y")
    for each in (old, failed, going):  # as an earlier version of ours left them
        store.redis.hdel(keys.release(each.id), "reported")
    with reporting(settings, store, forge):
        until(lambda: forge.states("report slipway ") == ["running"])
        go_live(store, going, "y")
        told_all(store)
    assert {each.what.commit for each in forge.things if not isinstance(each.what, str)} == {
        going.commit
    }


# Who is away, and who refuses


def test_while_the_forge_is_away_the_release_goes_on_and_the_end_is_told(
    store: Store, told: Recorder
) -> None:
    def away(*_: object) -> None:
        raise Later("GitHub does not answer (ConnectionError)")

    told.refuses = away
    release = live(store, "a", "hello")
    until(lambda: told.asked > 2)
    assert store.release(release.id).state is State.LIVE
    assert told.things == []
    told.refuses = lambda *_: None
    told_all(store)
    assert told.states("report slipway ") == ["success"], "the newest state alone"
    assert notes(store, release) == []


def test_after_an_hour_it_is_given_up_with_one_note(
    store: Store, told: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise Later("GitHub answers POST /repos with 503")

    monkeypatch.setattr(outbox, "GIVE_UP", 0.5)
    told.refuses = away
    release = live(store, "a", "hello", "other")
    told_all(store)
    found = sorted(notes(store, release))
    assert len(found) == 2
    assert found[0].startswith("GitHub was not told (deployment): GitHub answers POST")
    assert found[1].startswith("GitHub was not told (report): GitHub answers POST")
    *_, (_, end) = store.read_log(release.id)
    assert isinstance(end, LogEnd), "the log still ends with its end"
    told.refuses = lambda *_: None
    live(store, "b", "hello")
    until(lambda: told.states("report slipway ")[-1:] == ["success"])
    told_all(store)


@pytest.mark.parametrize("error", [NotAllowed("uninstalled"), NotFound("deleted")])
def test_where_the_app_is_gone_a_release_is_dropped_at_once(
    store: Store, told: Recorder, error: SlipwayError
) -> None:
    def refuse(repository: Repository, _: str) -> None:
        if repository.namespace == "ann":
            raise error

    told.refuses = refuse
    release = begun(store, "a", *[f"f{n}" for n in range(20)])
    bob = changed(FNS, namespace="bob", owner_id="2", full_name="Bob/fns")
    live(store, "b", "hello", repository=bob)
    until(lambda: told.states("report slipway ")[-1:] == ["success"])
    asked = told.asked
    go_live(store, release, "f1")
    told_all(store)
    assert told.asked - asked < 12, "after the first refusal nobody asks for the rest"
    found = sorted(notes(store, release))
    assert found == [
        f"GitHub was not told (deployment): {error}",
        f"GitHub was not told (report): {error}",
    ]


@pytest.mark.parametrize("error", [InvalidRequest("too long"), Conflict("there is one")])
def test_what_is_refused_for_itself_takes_nothing_else_with_it(
    store: Store, told: Recorder, error: SlipwayError
) -> None:
    def refuse(_: Repository, kind: str) -> None:
        if kind == "deployment":
            raise error

    told.refuses = refuse
    release = live(store, "a", "hello")
    told_all(store)
    assert told.states("report slipway/hello ")[-1] == "success"
    assert notes(store, release) == [f"GitHub was not told (deployment): {error}"]


def test_what_somebody_deleted_is_made_again(store: Store, told: Recorder) -> None:
    release = begun(store, "a")
    until(lambda: told.states("report slipway ") == ["running"])
    once: list[str] = []

    def deleted(_: Repository, kind: str) -> None:
        if kind == "report" and not once:
            once.append(kind)
            raise NotFound("there is no such check")

    told.refuses = deleted
    go_live(store, release)
    told_all(store)
    assert once
    assert told.states("report slipway ")[-1] == "success"
    assert notes(store, release) == []


def test_one_owners_rate_limit_does_not_stop_others(store: Store, told: Recorder) -> None:
    def limited(repository: Repository, _: str) -> None:
        if repository.namespace == "ann":
            raise Later("API rate limit exceeded", retry_after=3600)

    told.refuses = limited
    release = live(store, "a", "hello")
    until(lambda: told.asked > 0)
    bob = changed(FNS, namespace="bob", owner_id="2", full_name="Bob/fns")
    live(store, "b", "hello", repository=bob)
    until(lambda: told.states("report slipway ")[-1:] == ["success"])
    until(lambda: store.reporting() == [release.id])


def test_a_forge_that_hangs_holds_up_no_other(
    settings: Settings, store: Store, forge: Recorder
) -> None:
    def slow(repository: Repository, _: str) -> None:
        if repository.source == "github":
            time.sleep(2)

    forge.refuses = slow
    with reporting(settings, store, forge):
        for number in range(8):
            each = changed(FNS, namespace=f"n{number}", owner_id=f"{number}")
            live(store, "a", "hello", repository=each)
        until(lambda: forge.asked >= outbox.THREADS)
        begun_at = time.monotonic()
        gitea = changed(FNS, namespace="bob", source="gitea", full_name="Bob/fns")
        live(store, "b", "hello", repository=gitea)
        until(lambda: forge.states(f"report slipway {'b' * 40}")[-1:] == ["success"])
        assert time.monotonic() - begun_at < 2


def test_a_reporter_that_was_away_tells_what_it_missed(
    settings: Settings, store: Store, forge: Recorder
) -> None:
    for number in range(1, 16):
        release = begun(store, f"{number:x}", "hello")
        if number % 2:
            store.move(release.id, BUILDER, State.FAILED, "no")
        else:
            go_live(store, release, "hello")
    with reporting(settings, store, forge):
        told_all(store)
    for number in range(1, 16):
        wanted = Progress.FAILURE if number % 2 else Progress.SUCCESS
        assert forge.check(commit=f"{number:x}" * 40).progress is wanted
    active = [
        each for each in forge.things if each.states[-1:] == ["success"] and "prod" in each.id
    ]
    assert [each.id for each in active] == [f"deployment Ann/fns production {'e' * 40}"]


def test_a_release_that_is_pruned_is_forgotten(store: Store, told: Recorder) -> None:
    def away(*_: object) -> None:
        raise Later("away", retry_after=60)

    told.refuses = away
    release = begun(store, "a", "hello")
    until(lambda: told.asked)
    store.move(release.id, BUILDER, State.FAILED, "no")
    store.redis.delete(keys.release(release.id), keys.rows(release.id))
    told_all(store)
    assert store.redis.exists(keys.reports(release.id)) == 0


def test_in_progress_is_told_at_once(store: Store, told: Recorder) -> None:
    def seconds(act: Callable[[], object], seen: Callable[[], bool]) -> float:
        start = time.monotonic()
        act()
        until(seen)
        return time.monotonic() - start

    release = store.create_release(FNS, "a" * 40, "main")
    store.save_repository(FNS)
    took = seconds(
        lambda: store.move(release.id, BUILDER, State.BUILDING),
        lambda: told.states("report slipway ")[-1:] == ["running"],
    )
    assert took < 1.0
    store.move(release.id, BUILDER, State.FAILED, "no")
    told_all(store)

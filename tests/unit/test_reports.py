"""Releases in the words that forges share: checks, deployments, comments; and the text in them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec
import pytest

from core.models import (
    Build,
    Change,
    ChangeKind,
    FunctionRow,
    LogLine,
    Receipt,
    Release,
    State,
    Traffic,
    Verdict,
    Watch,
    Watched,
)
from core.names import NO_COMMIT
from core.repositories import Repository, Request
from core.store import LogEnd, Store
from forges import Progress, Report
from gateway.reports import tails
from gateway.reports.checks import MOST_FUNCTIONS, MOST_ROWS, Urls, progress, reports, table
from gateway.reports.comments import comment
from gateway.reports.deployments import deployment
from gateway.reports.following import Following
from gateway.reports.markdown import block, code

URLS = Urls("https://*.x.org", "https://x.org/releases")
FNS = Repository(namespace="ann", name="fns", source="github", deploy_branch="main")
STAGING = msgspec.structs.replace(
    FNS, namespace="ann--staging", parent="ann/fns", environment="staging"
)
PREVIEW = msgspec.structs.replace(
    FNS, namespace="ann--pr-5", parent="ann/fns", request=Request(number=5)
)
LINK = "https://x.org/releases/r7-aaaaaaa"


def row(name: str, build: Build = Build.BUILT, **more: object) -> FunctionRow:
    return msgspec.structs.replace(FunctionRow(name=name, build=build), **more)


def release(state: State, *rows: FunctionRow, **more: object) -> Release:
    made = Release(
        id="r7-aaaaaaa",
        namespace="ann",
        repository="fns",
        branch="main",
        commit="a" * 40,
        state=state,
        created_at="2026-01-01T00:00:00.000Z",
        finished_at="2026-01-01T00:00:09.000Z" if state.final else None,
        functions=list(rows),
    )
    return msgspec.structs.replace(made, **more)


def following(*lines: LogLine) -> Following:
    """What is known after these lines."""

    class Log(Store):
        def __init__(self) -> None:
            """Of lines alone."""

        def read_log(
            self,
            id_: str,  # noqa: ARG002
            after: str = "0",
            block: float = 0.0,  # noqa: ARG002
        ) -> Iterator[tuple[str, LogLine | LogEnd]]:
            start = int(after)
            yield from ((str(n), each) for n, each in enumerate(lines[start:], start + 1))

    made = Following()
    made.read(Log(), "r7-aaaaaaa")
    return made


def step(function: str, text: str, name: str = "build") -> LogLine:
    return LogLine(time="t", function=function, step=name, stream="step", text=text)


def told(what: Release, *lines: LogLine, by: Repository = FNS) -> dict[str, Report]:
    return {each.context: each for each in reports(what, by, following(*lines), URLS)}


def titles(what: Release, *lines: LogLine, by: Repository = FNS) -> dict[str, tuple[str, str]]:
    return {
        name: (each.progress.value, each.title) for name, each in told(what, *lines, by=by).items()
    }


# Checks


def test_a_release_on_its_way() -> None:
    assert titles(release(State.QUEUED)) == {"slipway": ("queued", "waiting for its turn")}
    assert titles(release(State.BUILDING), step("", "checking out aaaaaaa", "checkout")) == {
        "slipway": ("running", "checking out aaaaaaa")
    }
    rows = [row("a", Build.BUILDING), row("b", Build.PENDING), row("c", Build.REUSED)]
    assert titles(release(State.BUILDING, *rows), step("a", "installing dependencies")) == {
        "slipway": ("running", "building: 1 of 3 functions are built"),
        "slipway/a": ("running", "installing dependencies"),
        "slipway/b": ("queued", "waiting to be built"),
        "slipway/c": ("running", "nothing of it changed: not built again; waits for the others"),
    }
    assert titles(release(State.STAGING, row("a", seconds=2.04))) == {
        "slipway": ("running", "1 built: starting"),
        "slipway/a": ("running", "built in 2.0 s; starting"),
    }


def test_a_release_that_is_live_says_the_same_once_it_is_replaced() -> None:
    why = [Change(kind=ChangeKind.BUILD, what="handler", before="a", after="b", names=["h|`.py"])]
    receipt = Receipt(requests=40, failed=0, longest_gap_ms=3.5)
    rows = (row("a", seconds=3.21, why=why), row("old", Build.REMOVED))
    found = told(release(State.LIVE, *rows, receipt=receipt))
    assert found == told(release(State.REPLACED, *rows, receipt=receipt, reason="r8 came"))
    whole = found["slipway"]
    assert (whole.progress, whole.title) == (Progress.SUCCESS, "released: 1 built, 1 removed")
    assert (whole.url, whole.finished) == (LINK, "2026-01-01T00:00:09.000Z")
    cells = "| `a` | built | 3.2 | `handler changed (h\\|'.py)` | https://ann.x.org/a |"
    assert cells in whole.summary.splitlines()
    assert "| `old` | removed |  |  |  |" in whole.summary.splitlines()
    assert "40 requests, 0 failed, longest gap 3.5 ms" in whole.summary
    assert found["slipway/a"].title == "built in 3.2 s"
    assert "https://ann.x.org/a" in found["slipway/a"].summary
    assert "slipway/old" not in found


def test_what_changed_but_was_built_before_does_not_say_that_nothing_changed() -> None:
    """A promotion, or a commit that was built on another branch."""
    why = [Change(kind=ChangeKind.BUILD, what="handler", before="a", after="b", names=["h.py"])]
    reused = told(release(State.LIVE, row("a", Build.REUSED, why=why)))["slipway/a"]
    assert reused.title == "built before: not built again"
    assert "handler changed" in reused.summary


def test_a_function_that_fails_names_itself_and_lets_the_others_off() -> None:
    rows = (row("a", Build.FAILED), row("b"), row("c", Build.PENDING))
    failed = release(State.FAILED, *rows, reason="a test: the tests failed")
    line = step("a", "failed: the tests failed: pytest exited with status 1", "test")
    assert titles(failed, line) == {
        "slipway": ("failure", "failed: a test: the tests failed"),
        "slipway/a": ("failure", "the tests failed: pytest exited with status 1"),
        "slipway/b": ("cancelled", "not released: a test: the tests failed"),
        "slipway/c": ("cancelled", "not released: a test: the tests failed"),
    }


def test_a_replica_that_does_not_start_is_its_functions_failure() -> None:
    failed = release(State.FAILED, row("a"), row("b"), reason="a ended with status 1")
    found = titles(failed, step("a", "starting", "start"), step("a", "failed", "start"))
    assert found["slipway/a"] == ("failure", "a ended with status 1")
    assert found["slipway/b"][0] == "cancelled"


def test_what_failed_once_and_is_tried_again_is_no_failure() -> None:
    lines = step("a", "failed: the registry is away"), step("a", "building")
    assert following(*lines).failures == {}


@pytest.mark.parametrize("state", [State.SUPERSEDED, State.CANCELLED, State.ROLLED_BACK])
def test_nothing_is_wrong_with_what_was_called_off(state: State) -> None:
    found = titles(release(state, row("a"), reason="r8-bbbbbbb came after it"))
    text = f"{state}: r8-bbbbbbb came after it"
    assert found == {"slipway": ("cancelled", text), "slipway/a": ("cancelled", text)}


def test_what_was_taken_back_failed_by_the_function_that_did_worse() -> None:
    watched = [Watched(name=name, before=Traffic()) for name in ("a", "b")]
    watch = Watch(verdict=Verdict.RETURNED, until="t", functions=watched)
    back = release(
        State.ROLLED_BACK, row("a"), row("b"), watch=watch, reason="taken back: b: 5 of 6 failed"
    )
    assert {name: shown for name, (shown, _) in titles(back).items()} == {
        "slipway": "failure",
        "slipway/a": "cancelled",
        "slipway/b": "failure",
    }


def test_environments_and_previews_have_checks_of_their_own() -> None:
    assert list(told(release(State.LIVE, row("a")), by=STAGING)) == [
        "slipway/staging",
        "slipway/staging/a",
    ]
    assert list(told(release(State.LIVE, row("a")), by=PREVIEW)) == [
        "slipway/preview",
        "slipway/preview/a",
    ]


def test_of_very_many_functions_only_those_that_fail_have_checks() -> None:
    rows = [row(f"f{n}") for n in range(MOST_FUNCTIONS + 1)]
    assert list(told(release(State.LIVE, *rows))) == ["slipway"]
    rows[3] = row("f3", Build.FAILED)
    assert list(told(release(State.FAILED, *rows))) == ["slipway", "slipway/f3"]
    assert len(told(release(State.LIVE, *rows[1:]))) == MOST_FUNCTIONS + 1


def test_a_branch_that_was_deleted_has_no_commit_to_show_anything_at() -> None:
    gone = release(State.LIVE, row("a", Build.REMOVED), commit=NO_COMMIT)
    assert told(gone) == {}
    assert deployment(gone, FNS, URLS, before=False) is None


def test_titles_are_one_short_line_and_reasons_stay_in_their_block() -> None:
    reason = "stack.yml has 2 mistakes:\n  line 1: ```\n  line 2: @all <img src=x>" + "y" * 5000
    whole = told(release(State.FAILED, reason=reason))["slipway"]
    assert "\n" not in whole.title
    assert len(whole.title) <= 140
    before, opened, inside = whole.summary.partition("````text\n")
    assert opened
    assert inside.rstrip().endswith("````")
    assert "@all" in inside
    assert "@all" not in before
    assert len(whole.summary) < 2000


def test_summaries_are_bounded() -> None:
    why = [Change(kind=ChangeKind.BUILD, what="x" * 5000, names=["n" * 5000])]
    many = release(State.LIVE, *[row(f"f{n}" * 5, why=why) for n in range(MOST_ROWS * 3)])
    assert len(table(many, URLS)) < 60_000
    assert table(many, URLS).endswith(f"\nand {MOST_ROWS * 2} more")


# Deployments


def test_a_deployment_begins_with_its_functions_and_is_one_at_a_time() -> None:
    def shown(what: Release, *, before: bool = True, by: Repository = FNS) -> object:
        made = deployment(what, by, URLS, before=before)
        return made and (made.environment, made.progress.value, made.url, made.gone)

    a = row("a")
    assert shown(release(State.BUILDING), before=False) is None
    for state in (State.SUPERSEDED, State.CANCELLED, State.REPLACED, State.ROLLED_BACK):
        assert shown(release(state, a), before=False) is None
    assert shown(release(State.BUILDING, a), before=False) == ("production", "running", "", False)
    assert shown(release(State.FAILED), before=False) is None
    assert shown(release(State.FAILED, a), before=False) == ("production", "failure", "", False)
    url = "https://ann.x.org/a"
    assert shown(release(State.LIVE, a), before=False) == ("production", "success", url, False)
    assert shown(release(State.LIVE, a, row("b"))) == ("production", "success", LINK, False)
    assert shown(release(State.FAILED, a)) == ("production", "failure", "", False)
    assert shown(release(State.SUPERSEDED, a)) == ("production", "cancelled", "", False)
    assert shown(release(State.REPLACED, a)) == ("production", "success", "", True)
    assert shown(release(State.ROLLED_BACK, a)) == ("production", "cancelled", "", True)
    assert shown(release(State.BUILDING, a), by=STAGING) == ("staging", "running", "", False)
    gone = msgspec.structs.replace(PREVIEW, gone="the request was closed")
    assert shown(release(State.LIVE, a), by=gone) == ("pr-5", "success", url, True)


def test_only_previews_are_transient() -> None:
    for repository, transient in ((FNS, False), (STAGING, False), (PREVIEW, True)):
        made = deployment(release(State.LIVE, row("a")), repository, URLS, before=True)
        assert made
        assert made.transient is transient
        assert made.log_url == LINK


# Comments


def commented(of: Release, preview: Repository, live: str) -> str:
    return comment(of, preview, URLS, progress(of), live=live)


def test_one_comment_tells_of_all_functions() -> None:
    text = commented(release(State.LIVE, row("a"), row("b")), PREVIEW, live="r7-aaaaaaa")
    assert text.startswith("The preview of `aaaaaaa` **is live**.")
    assert "https://ann.x.org/a" in text
    assert "https://ann.x.org/b" in text
    assert text.endswith(f"Log: {LINK}")


def test_a_comment_on_the_way_and_at_the_end() -> None:
    going = commented(release(State.BUILDING, row("a")), PREVIEW, live="r6-bbbbbbb")
    assert "**is being built**" in going
    assert "the commit before it answers" in going
    assert going == commented(release(State.TESTING, row("a")), PREVIEW, live="r6-bbbbbbb")
    failed = release(State.FAILED, row("a", Build.FAILED), reason="a test: @all ``` no")
    text = commented(failed, PREVIEW, live="")
    assert "**could not be released**" in text
    assert "````text\na test: @all ``` no\n````" in text
    gone = msgspec.structs.replace(PREVIEW, gone="the request was closed")
    text = commented(release(State.LIVE, row("a")), gone, live="")
    assert (
        text == "The preview of this request was removed.\n\n```text\nthe request was closed\n```"
    )


# Text of others


@pytest.mark.parametrize("text", ["plain", "a ``` b", "`````", "```text\nx\n```", "~~~", "`"])
def test_nothing_leaves_a_block(text: str) -> None:
    shown = block(text)
    fence = shown.partition("text\n")[0]
    assert shown == f"{fence}text\n{text}\n{fence}"
    assert not any(re.match(rf" {{0,3}}{fence}", line) for line in text.splitlines())


def test_nothing_leaves_a_span() -> None:
    assert code("") == ""
    assert code("a `b` | c\nd\x1b[31m") == "`a 'b' \\| c d`"
    assert len(code("x" * 900)) == 202


def test_a_tail_has_the_newest_lines_made_harmless() -> None:
    lines = [
        step("a", "testing", "test"),
        *(
            LogLine(time="t", function="a", step="test", stream="stdout", text=f"\x1b[2J{n} ```")
            for n in range(tails.LINES + 5)
        ),
        LogLine(time="t", function="a", step="test", stream="stdout", text="x" * 5000),
    ]
    shown = tails.shown(lines, "a").splitlines()
    assert (shown[0], shown[-1]) == ("````text", "````")
    assert len(shown) == tails.LINES + 2
    assert shown[-3] == f"  {tails.LINES + 4} ```"
    assert shown[-2] == "  " + "x" * tails.WIDTH
    assert tails.shown([], "a") == ""
    assert tails.shown([step("a", "built")], "") == "```text\na: built\n```"

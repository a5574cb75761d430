"""A release's log as a pushing client sees it."""

from __future__ import annotations

import msgspec
import pytest

from core.models import (
    Build,
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
from core.store import LogEnd
from gateway.progress import TAIL, closing, follow, one_line, printable


def line(function: str, step: str, stream: str, text: str) -> LogLine:
    return LogLine(time="t", function=function, step=step, stream=stream, text=text)


def shown(*lines: LogLine) -> list[str]:
    return [str(each) for each in follow(lines) if each != ""]


def release(state: State, *rows: FunctionRow) -> Release:
    return Release(
        id="r7-aaaaaaa",
        namespace="ann",
        repository="fns",
        branch="main",
        commit="a" * 40,
        state=state,
        created_at="t",
        functions=list(rows),
    )


def test_stages_are_told_and_output_is_not() -> None:
    assert shown(
        line("", "checkout", "step", "checking out aaaaaaa"),
        line("hello", "dependencies", "step", "installing"),
        line("hello", "dependencies", "stdout", "Resolved 7 packages"),
        line("hello", "publish", "step", "publishing"),
    ) == ["checking out aaaaaaa", "hello: installing", "hello: publishing"]


def test_the_end_of_a_failing_steps_output_is_shown_and_no_other() -> None:
    lines = shown(
        line("hello", "dependencies", "step", "installing"),
        line("hello", "dependencies", "stdout", "earlier step"),
        line("hello", "test", "step", "testing"),
        *(line("hello", "test", "stdout", f"line {n}") for n in range(TAIL + 5)),
        line("other", "test", "stdout", "of another function"),
        line("hello", "test", "step", "failed: two tests\n  test_a\n  test_b"),
    )
    assert lines[:3] == ["hello: installing", "hello: testing", "  hello | line 5"]
    assert len(lines) == 2 + TAIL + 1
    assert lines[-1] == "hello: test failed: two tests\n      test_a\n      test_b"


def test_output_that_the_message_holds_is_not_shown_twice() -> None:
    assert shown(
        line("f", "build", "stdout", "error: no such package"),
        line("f", "build", "step", "failed: uv said:\nerror: no such package"),
    ) == ["f: build failed: uv said:\n    error: no such package"]


def test_output_that_follows_a_failure_is_shown() -> None:
    """The controller tells of a replica that died, and then what it had written."""
    lines = shown(
        line("f", "start", "step", "failed"),
        *(line("f", "start", "stderr", f"Traceback {n}") for n in range(TAIL + 9)),
    )
    assert lines[:2] == ["f: start failed", "  f | Traceback 0"]
    assert len(lines) == 1 + TAIL


def test_warnings_of_the_stack_file_are_shown() -> None:
    assert shown(line("", "plan", "stderr", "stack.yml: line 3: unknown key")) == [
        "stack.yml: line 3: unknown key"
    ]


def test_a_log_ends_with_its_end() -> None:
    end = LogEnd(state=State.LIVE, reason="")
    assert list(follow([None, end, line("", "a", "step", "late")])) == ["", end]


def test_the_last_line_says_what_became_of_it() -> None:
    rows = (
        FunctionRow(name="a", build=Build.BUILT, url="http://x/function/a.ann"),
        FunctionRow(name="b", build=Build.REUSED),
        FunctionRow(name="c", build=Build.REMOVED),
    )
    live = closing(release(State.LIVE, *rows), LogEnd(state=State.LIVE, reason=""), "http://u")
    assert list(live) == [
        "a: http://x/function/a.ann",
        "b: http://u/function/b.ann",
        "c: removed",
        "slipway: live r7-aaaaaaa",
    ]


@pytest.mark.parametrize(
    ("state", "reason", "told"),
    [
        (State.SUPERSEDED, "r8 came", "slipway: superseded r7-aaaaaaa: r8 came"),
        (State.CANCELLED, "", "slipway: cancelled r7-aaaaaaa"),
    ],
)
def test_other_ends(state: State, reason: str, told: str) -> None:
    end = LogEnd(state=state, reason=reason)
    assert list(closing(release(state), end, "http://u")) == [told]


def test_where_the_next_one_came_before_the_switch_was_counted() -> None:
    counted = Receipt(requests=3, failed=0, longest_gap_ms=1.5)
    end = LogEnd(state=State.REPLACED, reason="r8 took its place")
    open_ = release(State.REPLACED)
    for each, told in (
        (open_, "receipt: still counted, as the next release is live: slipway release r7-aaaaaaa"),
        (
            msgspec.structs.replace(open_, receipt=counted),
            "receipt: 3 requests, 0 failed, longest gap 1.5 ms",
        ),
    ):
        assert list(closing(each, end, "http://u")) == [told, "slipway: live r7-aaaaaaa"]


def test_where_more_is_told_of_a_failure() -> None:
    failed = LogEnd(state=State.FAILED, reason="no\nway")
    assert list(closing(release(State.FAILED), failed, "http://u")) == [
        "its whole log: slipway logs r7-aaaaaaa",
        "slipway: failed r7-aaaaaaa: no; way",
    ]
    watched = [Watched(name=name, before=Traffic()) for name in ("a", "b")]
    watch = Watch(verdict=Verdict.RETURNED, until="t", functions=watched)
    back = msgspec.structs.replace(release(State.ROLLED_BACK), watch=watch)
    end = LogEnd(state=State.ROLLED_BACK, reason="taken back: b: 5 of 6 requests failed")
    assert list(closing(back, end, "http://u")) == [
        "what b wrote: slipway logs b.ann",
        "slipway: rolled-back r7-aaaaaaa: taken back: b: 5 of 6 requests failed",
    ]


def test_a_cause_is_one_line() -> None:
    assert one_line("stack.yml has 2 mistakes:\n  line 1: a\n\n  line 2: b\n") == (
        "stack.yml has 2 mistakes: line 1: a; line 2: b"
    )
    assert len(one_line("x" * 10_000)) < 500
    assert one_line("") == ""


def test_nothing_steers_the_terminal() -> None:
    assert printable("\x1b[31mred\x1b[0m\x07\x9b2J\rover\ttab") == "red2Jover\ttab"
    assert shown(line("f", "a", "step", "x\x1b]0;title\x07\ny")) == ["f: x]0;title\n    y"]

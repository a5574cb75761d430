"""How results look, and that what strangers wrote cannot steer a terminal."""

from __future__ import annotations

import re

import pytest

from cli import show

FUNCTION = {
    "name": "hello",
    "namespace": "alice",
    "replicas": 2,
    "availableReplicas": 1,
    "invocationCount": 12345678.0,
    "annotations": {"com.slipway.release": "r1-abcdef0"},
}
RELEASE = {
    "id": "r1-abcdef0",
    "namespace": "alice",
    "repository": "fns",
    "branch": "main",
    "commit": "abcdef0" + "0" * 33,
    "state": "failed",
    "reason": "hello test: one\ntwo",
    "createdAt": "2026-01-01T00:00:00.000Z",
    "finishedAt": None,
    "receipt": None,
    "promotedFrom": None,
    "functions": [
        {"name": "hello", "build": "failed", "seconds": 1.25, "key": "f" * 64, "url": ""}
    ],
}


def test_functions_are_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    api = {"name": "plain", "namespace": "openfaas-fn"}  # deployed by API, nothing known yet
    show.functions([FUNCTION, api], "http://here")
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["FUNCTION", "NAMESPACE", "REPLICAS", "INVOCATIONS", "RELEASE", "URL"]
    url = "http://here/function/hello.alice"
    assert first.split() == ["hello", "alice", "1/2", "12345678", "r1-abcdef0", url]
    url = "http://here/function/plain"
    assert second.split() == ["plain", "openfaas-fn", "0/0", "0", "-", url]
    assert head.index("URL") == first.index("http") == second.index("http")
    show.functions([{**api, "url": "http://told/function/plain"}], "http://*.here")
    assert "  http://told/function/plain" in capsys.readouterr().out


def test_schedules_are_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    schedule = {
        "name": "tick",
        "namespace": "alice",
        "schedule": "*/5 * * * *",
        "timezone": "UTC",
        "next": "2026-01-01T12:05:00Z",
        "last": {"at": "2026-01-01T12:00:00Z", "callId": "c1"},
        "missed": {"count": 3, "since": "2026-01-01T11:45:00Z"},
        "error": None,
    }
    wrong = {**schedule, "next": None, "last": None, "missed": None, "error": "schedule: \x1b[2J!"}
    show.schedules([schedule, wrong])
    head, first, second = capsys.readouterr().out.splitlines()
    assert re.split(" {2,}", head) == [
        *("FUNCTION", "SCHEDULE", "TIMEZONE", "NEXT", "LAST", "MISSED OR ERROR"),
    ]
    assert re.split(" {2,}", first) == [
        *("tick.alice", "*/5 * * * *", "UTC", "2026-01-01T12:05:00Z", "2026-01-01T12:00:00Z"),
        "3 since 2026-01-01T11:45:00Z",
    ]
    assert second.split()[-4:] == ["-", "-", "schedule:", "[2J!"]
    show.function({"name": "tick", "schedule": schedule})
    told = capsys.readouterr().out.splitlines()
    assert f"{'schedule':<24}last.callId=c1" in told
    assert f"{'schedule':<24}missed.count=3" in told
    assert not [line for line in told if "error" in line]


def test_releases_tell_why_one_failed(capsys: pytest.CaptureFixture[str]) -> None:
    show.releases([RELEASE])
    assert capsys.readouterr().out.splitlines()[1].endswith("hello test: one two")
    row = {"name": "hello", "build": "removed"}
    show.releases([{**RELEASE, "state": "live", "functions": [row]}])
    assert capsys.readouterr().out.splitlines()[1].endswith("  taken down: hello")
    show.releases([{**RELEASE, "state": "live", "reason": "b3 went back to it"}])
    assert capsys.readouterr().out.splitlines()[1].endswith(" hello")


def test_environments_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    one = {
        "environment": "production",
        "namespace": "ann",
        "repository": "fns",
        "branch": "main",
        "live": "r1-abcdef0",
        "gone": "",
    }
    gone = {"environment": "staging", "namespace": "ann--staging", "live": "", "gone": "not\nnamed"}
    absent = {"environment": "demo", "branch": "demo", "live": "r2-0000000"}
    show.environments([one, {**one, **gone}, {**one, **absent}])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:] == [
        ["production", "ann/fns", "main", "r1-abcdef0"],
        ["staging", "ann--staging/fns", "main", "-", "not", "named"],
        ["demo", "ann/fns", "demo", "-", "there", "is", "no", "branch", "demo"],
    ]


def test_a_release_is_told_whole(capsys: pytest.CaptureFixture[str]) -> None:
    receipt = {"requests": 40, "failed": 0, "longestGapMs": 3.5}
    show.release({**RELEASE, "receipt": receipt})
    told = capsys.readouterr().out
    assert "reason     hello test: one\ntwo" in told
    assert "40 requests during the switch, 0 failed, longest gap 3.5 ms" in told
    assert "promoted" not in told
    show.release({**RELEASE, "promotedFrom": {"environment": "staging", "release": "r7-1"}})
    assert "promoted   from staging r7-1\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            {"time": "T", "function": "hello", "step": "test", "stream": "stdout", "text": "x"},
            "T hello test | x",
        ),
        (
            {"time": "T", "function": "", "step": "checkout", "stream": "step", "text": "begins"},
            "T checkout = begins",
        ),
        ({"state": "live", "reason": ""}, "live"),
        ({"state": "failed", "reason": "it broke"}, "failed: it broke"),
    ],
)
def test_log_lines(line: dict[str, str], told: str) -> None:
    assert show.log_line(line) == told


def test_what_a_build_printed_cannot_steer_the_terminal() -> None:
    hostile = "\x1b]0;owned\x07\x1b[2Jok\r\x9b31m\u202e"
    line = {"time": "T", "function": "f", "step": "s", "stream": "stdout", "text": hostile}
    assert show.log_line(line) == "T f s | ]0;owned[2Jok31m"
    assert show.log_line({"state": "failed", "reason": hostile}) == "failed: ]0;owned[2Jok31m"

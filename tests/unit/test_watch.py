"""When a new release counts as worse than what it replaced."""

from __future__ import annotations

import random

import pytest

from core.models import Traffic, Watched
from runtime.edge.collector import Line
from runtime.edge.traffic import Answers, Recent, Since
from runtime.verdict import breaches


def did(requests: int, errors: int = 0, p50: float = 5.0, p95: float = 10.0) -> Traffic:
    return Traffic(requests=requests, errors=errors, p50_ms=p50, p95_ms=p95)


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [
        (did(0), did(0), False),
        (did(0), did(3, 3), True),  # nothing is known of before: no error is normal
        (did(0), did(2, 2), False),  # two may be an accident
        (did(1000), did(100, 3), False),
        (did(1000), did(100, 8), True),
        (did(100, 100), did(100, 100), False),  # it was like that
        (did(100, 50), did(1000, 520), False),
        (did(100, 10), did(100, 30), False),
        (did(100, 10), did(100, 60), True),
        (did(1000, 0), did(10_000, 100), False),  # one in a hundred
        (did(1000, 0), did(10_000, 300), True),
    ],
)
def test_errors(before: Traffic, after: Traffic, worse: bool) -> None:
    assert bool(breaches([Watched(name="f", before=before, after=after)])) is worse


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [
        (did(100), did(100, p50=40), False),
        (did(100), did(100, p50=70), True),
        (did(100), did(100, p95=200), False),
        (did(100), did(100, p95=300), True),
        (did(100), did(19, p50=0, p95=0), False),  # too few were timed
        (did(19, p50=0, p95=0), did(100, p50=5000), False),
    ],
)
def test_times(before: Traffic, after: Traffic, worse: bool) -> None:
    each = [Watched(name="f", before=before, after=after)]
    assert bool(breaches(each)) is worse


def test_the_reason_has_the_figures() -> None:
    each = Watched(name="f", before=did(50, 1), after=did(40, 25))
    assert breaches([each]) == {"f": "25 of 40 requests failed (62.5 %; before 1 of 50)"}


def line(function: str, at: float, waited: float, code: int = 200, uploaded: int = 200) -> Line:
    return Line(
        function=function,
        status=code,
        answered=at,
        arrived=at - waited,
        seconds=waited,
        platform_failed=False,
        code=code,
        uploaded=uploaded,
    )


def test_percentiles_are_at_most_a_tenth_too_high() -> None:
    source = random.Random(1)
    waits = sorted(source.lognormvariate(-5, 1) for _ in range(1000))
    answers = Answers()
    for wait in waits:
        answers.add(line("f.a", 100.0, wait))
    told = answers.traffic()
    for share, value in ((0.5, told.p50_ms), (0.95, told.p95_ms)):
        true = waits[int(share * 1000) - 1] * 1000
        assert true * 0.99 <= value <= true * 1.11 + 0.1


def test_uploads_count_and_are_not_timed() -> None:
    """How long they take is for the client's line to say."""
    answers = Answers()
    for number in range(40):
        answers.add(line("f.a", 1.0, 0.01))
        answers.add(line("f.a", 1.0, 3.0, 200 if number else 500, 2**20))
    told = answers.traffic()
    assert (told.requests, told.errors) == (80, 1)
    assert told.p95_ms < 12


def test_who_gave_up_says_nothing_of_the_function() -> None:
    answers = Answers()
    answers.add(line("f.a", 1.0, 0.1, 499))
    answers.add(line("f.a", 1.0, 0.1, 502))
    assert (answers.traffic().requests, answers.traffic().errors) == (1, 1)


def test_only_the_last_minute_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    recent = Recent()
    for at in (10.0, 45.0, 90.0):
        recent.add(line("f.a", at, 0.01))
    recent.add(line("g.a", 90.0, 0.01))
    monkeypatch.setattr("runtime.edge.traffic.time.time", lambda: 100.0)
    assert recent.traffic("f.a").requests == 2
    recent.only(["f.a"])
    assert recent.traffic("g.a").requests == 0


def test_times_count_from_the_middle_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.edge.traffic.time.time", lambda: 100.0)
    since = Since(["f.a"], timed_from=200.0)
    for number in range(30):
        since.add(line("f.a", 110.0 + number, 2.0, 500))
        since.add(line("f.a", 210.0 + number, 0.01))
    since.add(line("f.a", 99.0, 0.01))  # before the switch
    told = since.traffic("f.a")
    assert (told.requests, told.errors) == (60, 30)
    assert told.p95_ms < 12
    few = Since(["f.a"], timed_from=0.0)
    few.add(line("f.a", 102.0, 1.0))
    assert few.traffic("f.a").p50_ms == 0.0
    since.restart(["f.a"])
    assert since.traffic("f.a").requests == 0


@pytest.mark.parametrize(("share", "rate"), [(0.05, 10), (0.1, 5), (0.3, 10)])
def test_what_always_failed_so_often_is_seldom_taken_back(share: float, rate: int) -> None:
    source, wrong = random.Random(7), 0
    for _ in range(300):
        errors = [source.random() < share for _ in range(70 * rate)]
        before = did(60 * rate, sum(errors[: 60 * rate]))
        wrong += any(
            breaches([Watched(name="f", before=before, after=did(n, sum(errors[60 * rate :][:n])))])
            for n in range(1, 10 * rate, max(rate // 4, 1))
        )
    assert wrong <= 3

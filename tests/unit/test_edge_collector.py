"""The collector's arithmetic: lines, gaps, replays."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.settings import Settings
from runtime.edge import collector as module
from runtime.edge import config
from runtime.edge.collector import Collector, Line
from runtime.edge.receipt import Gaps

START = 1_795_476_195_480_685_000


def text(
    function: str = "f.ann",
    status: int = 200,
    end: str = "--",
    backend: str = "b1",
    total: int = 12,
    start: int = START,
) -> str:
    return f"{function} {status} {start} 2 {total} 3 100 200 {end} {backend}"


def test_line() -> None:
    line = Line.parse(text())
    assert (line.function, line.status, line.received, line.sent) == ("f.ann", 200, 100, 200)
    assert line.arrived == pytest.approx(START / 1e9)
    assert line.answered - line.arrived == pytest.approx(0.007, abs=1e-5)
    assert line.seconds == 0.012
    assert not line.by_gateway


@pytest.mark.parametrize(
    "torn", ["", "f.ann 200", text()[7:], text() + " more", text().replace("200", "2x0")]
)
def test_torn_line(torn: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Line.parse(torn)


@pytest.mark.parametrize(
    ("status", "end", "backend", "failed"),
    [
        (200, "--", "b1", False),
        (500, "--", "b1", False),
        (503, "--", "b1", False),
        (503, "SC", "b1", True),
        (504, "sH", "b1", True),
        (502, "PH", "b1", True),
        (-1, "SH", "b1", True),
        (200, "SD", "b1", True),
        (200, "KD", "b1", True),
        (101, "KD", "b1", False),
        (-1, "CH", "b1", False),
        (200, "CD", "b1", False),
        (200, "cD", "b1", False),
        (403, "LR", "b1", False),
        (400, "PR", "b1", False),
        (503, "--", "gateway", True),
        (500, "--", "gateway", False),
        (404, "--", "gateway", False),
    ],
)
def test_whose_failure(status: int, end: str, backend: str, failed: bool) -> None:
    assert Line.parse(text(status=status, end=end, backend=backend)).platform_failed is failed


# Gaps.


def gap(*requests: tuple[float, float, bool], since: float = 0.0, until: float = 100.0) -> float:
    gaps = Gaps(since)
    for arrived, ended, answered in requests:
        gaps.add(arrived, ended, answered=answered)
    return gaps.longest(until)


def test_idle_time_is_no_gap() -> None:
    assert gap() == 0.0
    assert gap((1, 1.1, True), (50, 50.1, True)) == pytest.approx(0.1)


def test_waiting_while_others_are_answered_is_no_gap() -> None:
    quick = [(t / 10, t / 10 + 0.05, True) for t in range(100)]
    assert gap((0, 9.96, True), *quick) == pytest.approx(0.1)


def test_stall_counts_from_the_first_that_waits() -> None:
    assert gap((1, 1.1, True), (2, 5, True), (3, 5.1, True)) == pytest.approx(3)
    assert gap((1, 4, True), (3.5, 3.6, True)) == pytest.approx(2.6)


def test_arrived_before_the_window() -> None:
    assert gap((1, 12, True), since=10) == pytest.approx(2)


def test_outage_counts_from_the_first_failure_to_the_next_answer() -> None:
    assert gap((1, 1, True), (2, 2, False), (3, 3, False), (6, 6.5, True)) == pytest.approx(4.5)
    assert gap((1, 1, True), (2, 2, False), until=10) == pytest.approx(8)


def test_gaps_agree_with_the_definition() -> None:
    """Against the definition itself, on a grid of time."""
    source = random.Random(4)
    for _ in range(200):
        requests = []
        for _ in range(source.randint(1, 8)):
            arrived = source.randint(0, 40)
            requests.append((float(arrived), float(arrived + source.randint(0, 12)), True))
        answers = {ended for _, ended, _ in requests}
        longest = 0
        for arrived, ended, _ in requests:
            for begin in range(int(arrived), int(ended)):
                stretch = 0
                for second in range(begin, int(ended)):
                    stretch = second + 1 - begin
                    if second + 1 in answers:
                        break
                longest = max(longest, stretch)
        assert gap(*source.sample(requests, len(requests))) == pytest.approx(longest), requests


def test_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.edge.receipt._SLICE", 10)
    quick = [(t / 10, t / 10 + 0.05, True) for t in range(100)]
    assert gap(*quick, (12, 13, True)) == pytest.approx(1)


# The socket.


@pytest.fixture
def settings(short_tmp: Path) -> Settings:
    (short_tmp / "run").mkdir()
    return Settings.from_env({"SLIPWAY_STATE": str(short_tmp)})


@pytest.fixture
def collector(settings: Settings) -> Iterator[Collector]:
    collector = Collector(settings)
    collector.start()
    yield collector
    collector.stop()


def connect(settings: Settings) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(config.log_socket(settings)))
    return connection


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_lines_in_pieces_and_from_two_processes(settings: Settings, collector: Collector) -> None:
    line = (text() + "\n").encode()
    with connect(settings) as one, connect(settings) as two:
        for piece in (line[:20], line[20:] + line[:5], line[5:]):
            one.sendall(piece)
            two.sendall(line)
            time.sleep(0.05)
        until(lambda: collector.counts() == {"f.ann": 5})
    with connect(settings) as connection:  # begins with what is left of an overwritten line
        connection.sendall(line[9:] + line)
        until(lambda: collector.counts() == {"f.ann": 6})


def test_started_again_in_the_same_place(settings: Settings, collector: Collector) -> None:
    collector.stop()
    collector.stop()
    following = Collector(settings)
    following.start()
    try:
        with connect(settings) as connection:
            connection.sendall((text() + "\n").encode())
            until(lambda: following.counts() == {"f.ann": 1})
    finally:
        following.stop()


def test_made_up_names_do_not_fill_the_memory(
    settings: Settings, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_FUNCTIONS", 3)
    with connect(settings) as connection:
        connection.sendall((text("no.such", 404, backend="gateway") + "\n").encode())
        for number in range(2, 9):
            connection.sendall((text(f"f{number}.ann") + "\n").encode())
        connection.sendall(b"- 400 - -1 -1 -1 0 0 PR public\n" + b"x" * 100_000)
        until(lambda: len(collector.counts()) == 3)
        connection.sendall(f"\n{text('f2.ann')}\n".encode())
        until(lambda: collector.counts().get("f2.ann") == 2)
    assert set(collector.counts()) == {"f2.ann", "f3.ann", "f4.ann"}

"""The collector's arithmetic: lines, gaps, replays."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.settings import Settings
from runtime.edge import config
from runtime.edge.collector import Collector, Line
from runtime.edge.receipt import Gaps
from tests.waiting import until

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
    assert (line.function, line.status) == ("f.ann", 200)
    assert line.arrived == pytest.approx(START / 1e9)
    assert line.answered - line.arrived == pytest.approx(0.007, abs=1e-5)
    assert line.seconds == 0.01


@pytest.mark.parametrize(
    "torn", ["", "f.ann 200", text()[7:], text() + " more", text().replace("200", "2x0", 1)]
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


@pytest.mark.parametrize(
    ("status", "end", "code"),
    [
        (200, "--", 200),
        (200, "CD", 200),
        (400, "PR", 400),
        (408, "cD", 408),
        (400, "CH", 499),
        (-1, "CH", 499),
        (-1, "cD", 499),
        (-1, "SH", 502),
    ],
)
def test_what_it_is_counted_as(status: int, end: str, code: int) -> None:
    assert Line.parse(text(status=status, end=end)).code == code


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


def test_what_a_killed_edge_had_is_lost(settings: Settings) -> None:
    collector = Collector(settings)
    collector.only(["f.ann", "g.ann"])
    window = collector.begin_window(["f.ann"])
    collector.lose({"f.ann": 3, "g.ann": 1, "gone.ann": 5})
    receipt = window.close()
    assert (receipt.requests, receipt.failed) == (3, 3)
    assert collector.counts() == {"f.ann": 3, "g.ann": 1}, "of functions that there are"


# The socket.


@pytest.fixture
def settings(short_tmp: Path) -> Settings:
    settings = Settings.from_env({"SLIPWAY_STATE": str(short_tmp)})
    settings.edge_folder.mkdir(parents=True)
    return settings


@pytest.fixture
def collector(settings: Settings) -> Iterator[Collector]:
    collector = Collector(settings)
    collector.only(["f.ann"])
    collector.start()
    yield collector
    collector.stop()


def connect(settings: Settings) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(config.log_socket(settings)))
    return connection


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
    following.only(["f.ann"])
    following.start()
    try:
        with connect(settings) as connection:
            connection.sendall((text() + "\n").encode())
            until(lambda: following.counts() == {"f.ann": 1})
    finally:
        following.stop()


def send(connection: socket.socket, *lines: str) -> None:
    connection.sendall("".join(line + "\n" for line in lines).encode())


def test_made_up_names_are_not_counted(settings: Settings, collector: Collector) -> None:
    """Whatever their requests come to, and however many there are."""
    with connect(settings) as connection:
        connection.sendall(b"- 400 - -1 -1 -1 0 0 PR public\n" + b"x" * 100_000 + b"\n")
        for number in range(11_000):
            name = f"f{number}.ann"
            send(connection, text(name, -1, "CH"), text(name, 503, "SC", "gateway"))
        send(connection, text("f"), text())
        until(lambda: collector.counts() == {"f.ann": 1})
        collector.only(["f.ann", "new.ann"])
        send(connection, text("new.ann"), text())
        until(lambda: collector.counts() == {"f.ann": 2, "new.ann": 1})


def test_functions_that_are_gone_are_forgotten(settings: Settings, collector: Collector) -> None:
    with connect(settings) as connection:
        send(connection, text())
        until(lambda: collector.counts() == {"f.ann": 1})
        collector.only(["other.ann"])
        assert collector.counts() == {"other.ann": 0}
        send(connection, text(), text("other.ann"))
        until(lambda: collector.counts() == {"other.ann": 1})
        collector.only(["f.ann", "other.ann"])
        assert collector.counts() == {"f.ann": 0, "other.ann": 1}


def test_window_sees_what_is_not_counted(settings: Settings, collector: Collector) -> None:
    window = collector.begin_window(["new.ann"])
    start = time.time_ns()
    with connect(settings) as connection:
        send(connection, text("made.up", start=start), text("new.ann", start=start))
        send(connection, text("new.ann", 503, "SC", start=start), text())
        until(lambda: collector.counts() == {"f.ann": 1})
    receipt = window.close()
    assert (receipt.requests, receipt.failed) == (2, 1)

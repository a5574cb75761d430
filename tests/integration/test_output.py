"""Functions' output through real pipes, written by real processes: floods, bounds, who is heard."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.logfiles import function_lines
from runtime.providers import output as module
from runtime.providers.output import Output, make_pipe
from tests.waiting import until

BOUND = 2**16
NEWLINES = b"\n" * 4096
LINES = (b"x" * 99 + b"\n") * 40

FLOOD = """
import os, sys, time
data, end, written = eval(sys.argv[1]), time.monotonic() + float(sys.argv[2]), 0
while time.monotonic() < end:
    written += os.write(1, data)
print(written, file=sys.stderr)
"""


class Pipes:
    """Some functions' pipes and the thread that reads them."""

    def __init__(self, folder: Path, bound: int) -> None:
        self.folder = folder
        self.output = Output(bound)
        self._writers: dict[str, int] = {}

    def open(self, function: str) -> int:
        """The descriptor that the function writes to."""
        writer = make_pipe(self.folder / f"{function}.pipe")
        self._writers[function] = writer
        self.output.add(function, self.folder / f"{function}.pipe", self.log(function))
        return writer

    def log(self, function: str) -> Path:
        return self.folder / function

    def texts(self, function: str) -> list[str]:
        return [line.text for line in function_lines(self.log(function))]

    def size(self, function: str) -> int:
        """Bytes of its log on disk."""
        total = 0
        for each in self.log(function).glob("*.ndjson"):
            with contextlib.suppress(FileNotFoundError):  # it is just being renamed
                total += each.stat().st_size
        return total

    def close(self) -> None:
        self.output.close()
        for writer in self._writers.values():
            os.close(writer)


@pytest.fixture
def pipes(tmp_path: Path) -> Iterator[Pipes]:
    pipes = Pipes(tmp_path, 64 * 2**20)
    yield pipes
    pipes.close()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Pipes]:
    """Logs of ``BOUND`` bytes each."""
    small = Pipes(tmp_path, BOUND)
    yield small
    small.close()


def flood(writer: int, data: bytes, seconds: float) -> subprocess.Popen[str]:
    """Writes ``data`` again and again as fast as it goes; tells at the end how many bytes."""
    return subprocess.Popen(
        [sys.executable, "-c", FLOOD, repr(data), str(seconds)],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("data", [NEWLINES, LINES, b"x" * 4096, b"x"])
def test_flood_costs_little_and_is_hardly_held_up(pipes: Pipes, data: bytes) -> None:
    writer, quiet = pipes.open("loud"), pipes.open("quiet")
    begun, cpu = time.monotonic(), time.process_time()
    said: list[str] = []
    with flood(writer, data, 3) as process:
        while process.poll() is None:
            said.append(f"word {len(said)}")
            os.write(quiet, f"{said[-1]}\n".encode())
            until(lambda: pipes.texts("quiet") == said, 2)
            time.sleep(0.1)
        took, cpu = time.monotonic() - begun, time.process_time() - cpu
        written = int(process.communicate()[1])
    assert len(said) > 10
    assert cpu / took < 0.25
    assert written > 32 * 2**20 or len(data) == 1
    assert pipes.size("loud") < took * module._RATE + 2 * module._BURST


def test_flood_stays_within_the_bound_of_its_log(small: Pipes) -> None:
    most = 0
    with flood(small.open("loud"), NEWLINES, 2) as process:
        while process.poll() is None:
            most = max(most, small.size("loud"))
    assert BOUND / 2 < most <= BOUND


def test_longest_line_fits_however_it_is_written(small: Pipes) -> None:
    writer = small.open("f")
    for number, byte in enumerate((b"x", b"\0", b"\xff", b'"', "\u2028".encode())):
        os.write(writer, byte * 20_000 + b"\nnext %d\n" % number)
        until(lambda last=f"next {number}": small.texts("f")[-1:] == [last])
        line = small.texts("f")[-2]
        assert len(line) > 500
        assert "bytes of this line left out" in line
        assert small.size("f") <= BOUND
        time.sleep(2 * BOUND / module._RATE)  # what was taken at once has to be made good


def test_what_comes_at_once_is_kept_as_far_as_the_budget_goes(pipes: Pipes) -> None:
    os.write(pipes.open("f"), b"".join(b"%d\n" % number for number in range(100_000)))
    until(lambda: pipes.texts("f")[-1:] == ["99999"])
    texts = pipes.texts("f")
    (note,) = (place for place, text in enumerate(texts) if text.startswith("[slipway: "))
    assert note > 5000
    assert texts[:note] == [str(number) for number in range(note)]
    rest = texts[note + 1 :]
    assert rest == [str(number) for number in range(100_000 - len(rest), 100_000)]
    left_out = sum(len(str(number)) + 1 for number in range(note, 100_000 - len(rest)))
    assert texts[note] == f"[slipway: {left_out} bytes left out: written too fast]"


def test_flood_that_ends_is_told_while_others_go_on_writing(pipes: Pipes) -> None:
    writer, busy = pipes.open("loud"), pipes.open("busy")
    with flood(writer, LINES, 1):
        pass
    os.write(writer, b"last words\n")
    ended = time.monotonic()
    while pipes.texts("loud")[-1:] != ["last words"]:
        assert time.monotonic() < ended + 5
        os.write(busy, b"and on\n")
        time.sleep(0.05)
    assert any("bytes left out: written too fast" in text for text in pipes.texts("loud"))


def test_end_in_the_middle_of_a_flood(pipes: Pipes) -> None:
    """Its descriptor's number is the next one's: nothing of the old may be left."""
    writer = pipes.open("loud")
    with flood(writer, NEWLINES, 1):
        pass
    os.write(writer, b"last words")
    pipes.output.finish("loud")
    assert pipes.texts("loud")[-1] == "last words"
    assert any("bytes left out" in text for text in pipes.texts("loud"))
    os.write(pipes.open("next"), b"heard\n")
    until(lambda: pipes.texts("next") == ["heard"], 1)

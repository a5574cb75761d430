"""The arithmetic of the benches: a wrong ratio would be worse than none."""

from __future__ import annotations

import mmap
import os

import msgspec
import pytest

from bench import figures, processes, wrk
from bench.figures import Figure, Result, least, most
from bench.harness import BenchError

WRK = """\
Running 3s test @ http://127.0.0.1:8080/function/hello.bench
  2 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.02ms    0.95ms  20.11ms   90.00%
  120345 requests in 3.01s, 30.00MB read
Requests/sec:  39981.73
Transfer/sec:      9.97MB
"""


def test_ratio_of_rounds_in_pairs_is_the_median_of_their_ratios():
    figure = Figure(
        name="f", unit="s", samples=[1, 4, 3], reference="r", reference_samples=[2, 2, 2]
    )
    assert (figure.value, figure.reference_value, figure.ratio) == (3, 2, 1.5)
    drifted = msgspec.structs.replace(figure, samples=[1, 20, 3], reference_samples=[1, 10, 1])
    assert drifted.ratio == 2  # 1, 2, 3; the medians alone would say 3


def test_ratio_of_unequal_rounds_is_that_of_the_medians():
    figure = Figure(name="f", unit="s", samples=[6], reference="r", reference_samples=[1, 2, 9])
    assert figure.ratio == 3


@pytest.mark.parametrize(
    ("aim", "met"),
    [
        (most(3), True),
        (most(2.9), False),
        (least(3), True),
        (least(3.1), False),
        (most(1.5, "ratio"), True),
        (most(1.4, "ratio"), False),
        (least(1.6, "ratio"), False),
        (None, None),
    ],
)
def test_an_aim_is_met_or_not(aim, met):
    figure = Figure(name="f", unit="s", samples=[3], reference="r", reference_samples=[2], aim=aim)
    assert figure.met is met


def test_an_aim_for_a_ratio_without_a_reference_is_a_mistake():
    with pytest.raises(ValueError, match="needs a reference"):
        _ = Figure(name="f", unit="s", samples=[3], aim=most(1, "ratio")).met


def test_results_are_kept_as_text_and_json(tmp_path):
    result = Result(
        figures=[
            Figure(
                name="slow",
                unit="s",
                samples=[2.0, 4.0],
                reference="by hand",
                reference_samples=[1.0, 2.0],
                aim=most(1.5, "ratio"),
            )
        ],
        notes=["A note."],
    )
    text = figures.save("some", result, "abc1234", tmp_path)
    assert (tmp_path / "some.txt").read_text() == text
    assert "MISSED" in text
    assert "A note." in text
    told = msgspec.json.decode((tmp_path / "some.json").read_bytes())
    (figure,) = told["figures"]
    assert (figure["value"], figure["ratio"], figure["met"]) == (3.0, 2.0, False)
    assert figure["samples"] == [2.0, 4.0]
    assert told["commit"] == "abc1234"


def test_wrk_is_read_to_its_numbers():
    assert wrk.read(WRK) == wrk.Round(requests=120345, rate=39981.73)


@pytest.mark.parametrize(
    "spoilt",
    [
        WRK + "  Non-2xx or 3xx responses: 12\n",
        WRK + "  Socket errors: connect 0, read 3, write 0, timeout 0\n",
        "unable to connect to 127.0.0.1:1 Connection refused\n",
    ],
)
def test_a_round_with_errors_counts_for_nothing(spoilt):
    with pytest.raises(BenchError, match="spoilt"):
        wrk.read(spoilt)


def test_memory_and_time_of_this_process():
    own = os.getpid()
    before = processes.pss(own)
    size = 64 * 2**20
    with mmap.mmap(-1, size) as ballast:  # fresh pages, whatever was freed before
        for place in range(0, size, mmap.PAGESIZE):
            ballast[place] = 1
        grown = processes.pss(own)
    assert grown - before > 0.9 * size
    assert processes.cpu_seconds(own) > 0
    family = processes.tree([os.getppid(), own])
    assert family.count(own) == 1  # though it descends from the other
    with processes.PeakMemory([own]) as memory:
        pass
    assert memory.peak >= 0.9 * before


def test_a_process_that_is_gone_weighs_nothing():
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)
    assert processes.pss(pid) == 0
    assert processes.arguments(pid) == []
    with pytest.raises(RuntimeError, match="is gone"):
        processes.cpu_seconds(pid)


def test_samples_that_lack_a_phase_count_as_nothing_there():
    told = figures.breakdown([{"a": 1.0, "b": 2.0}, {"a": 3.0}, {"a": 5.0, "c": 9.0}])
    assert told == {"a": 3.0, "b": 0.0, "c": 0.0}

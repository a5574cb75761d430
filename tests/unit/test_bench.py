"""The arithmetic of the benches: a wrong ratio would be worse than none."""

from __future__ import annotations

import importlib
import mmap
import os

import msgspec
import pytest

from bench import figures, plot, processes, replicas, scaling, wrk
from bench.byhand import TEMPLATE
from bench.empty import THREADS
from bench.figures import Figure, Result, least, most
from bench.harness import BenchError
from bench.openloop import Measured, Stretch
from bench.replicas import Look

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


@pytest.mark.parametrize(
    ("samples", "share", "found"),
    [
        (range(1, 101), 0.99, 99),
        (range(1, 101), 0.5, 50),
        (range(1, 1101), 0.99, 1089),
        (range(1, 11), 0.99, 10),  # too few: the largest
        ([7], 0.5, 7),
    ],
)
def test_a_percentile_is_one_of_the_samples(samples, share, found):
    assert figures.percentile(list(reversed(samples)), share) == found


def test_steady_requests_are_due_evenly():
    assert list(Stretch(1, 4, 4).times()) == [0, 0.25, 0.5, 0.75]
    assert list(Stretch(10, 0, 0).times()) == []


@pytest.mark.parametrize(("rate", "to"), [(0, 100), (10, 90), (90, 10), (100, 0)])
def test_the_rate_of_requests_goes_evenly_from_one_to_the_other(rate, to):
    times = list(Stretch(10, rate, to).times())
    assert times == sorted(times)
    assert times[0] == 0
    assert times[-1] < 10
    assert len(times) == (rate + to) / 2 * 10
    for second in range(10):  # as the rate in the middle of each says
        due = sum(second <= each < second + 1 for each in times)
        assert due == pytest.approx(rate + (to - rate) / 10 * (second + 0.5), abs=1)


LOAD = Measured(
    answered=[(0.1, 0.2), (0.5, 0.05), (0.9, 2.0), (1.2, 0.25)], failed=[(1.0, "429 b''")]
)
LOOKS = [Look(0.1, 1, 1), Look(1, 1, 1), Look(2, 4, 1), Look(3, 3, 2), Look(4, 3, 3), Look(5, 3, 3)]


def test_a_look_has_the_second_before_it_beside_it():
    looks = [Look(0.6, 1, 1), Look(1.5, 2, 1), Look(2.95, 2, 2), Look(9, 0, 0)]
    first, second, third, last = replicas.rows(looks, LOAD)
    assert (first.offered, first.p50, first.p95, first.failed) == (2, 50, 200, 0)
    assert (second.offered, second.p50, second.p95, second.failed) == (3, 50, 250, 1)
    assert (third.offered, third.p50, third.failed) == (0, 2000, 0)
    assert (last.offered, last.p50, last.p95, last.failed) == (0, None, None, 0)
    assert (second.seconds, second.desired, second.available) == (1.5, 2, 1)


def test_a_number_is_reached_when_it_is_there_to_stay():
    assert replicas.reached(LOOKS, lambda look: look.desired) == 3
    assert replicas.reached(LOOKS, lambda look: look.available) == 4
    assert replicas.reached(LOOKS[:3], lambda look: look.desired) == 2
    with pytest.raises(BenchError, match="moved nothing: 1 replicas"):
        replicas.reached(LOOKS[:3], lambda look: look.available)


def test_changes_are_those_of_the_number_desired():
    assert replicas.changes(LOOKS) == 2
    assert replicas.changes(replicas.within(LOOKS, 3, 5)) == 0
    assert replicas.within(LOOKS, 1, 3) == LOOKS[1:3]


def test_p95_is_of_what_was_due_in_between():
    load = Measured(answered=[(each / 10, each / 1000) for each in range(100)])
    assert replicas.p95(load, 0, 10) == 94
    assert replicas.p95(load, 5, 10) == 97
    with pytest.raises(BenchError, match="19 answers are too few"):
        replicas.p95(load, 0, 1.9)


def test_the_phases_of_scaling_take_the_whole_time_and_join():
    phases = scaling._phases(600)
    assert sum(each.seconds for each in phases.values()) == pytest.approx(600)
    assert (phases["burst"].rate, phases["steady"].rate) == (scaling.BURST, scaling.RATE)
    assert phases["up"].to == phases["down"].rate
    assert list(phases["idle"].times()) == []
    assert sum(scaling.SHARES.values()) == pytest.approx(1)


def test_a_line_in_steps_is_drawn_by_its_corners():
    points = [(0.0, 1), (1.0, 1), (2.0, 3), (3.0, 3), (4.0, 0)]
    assert plot._corners(points) == [(0, 1), (2, 1), (2, 3), (4, 3), (4, 0), (4, 0)]


def test_of_many_points_the_worst_are_drawn():
    points = [(float(at), 900.0 if at == 501 else 1.0) for at in range(1200)]
    drawn = plot._worst(points)
    assert len(drawn) == 300
    assert (501.0, 900.0) in drawn


def test_gunicorn_has_as_many_threads_as_a_function_handles_at_once(monkeypatch):
    monkeypatch.syspath_prepend(TEMPLATE)
    assert importlib.import_module("slipway_watchdog.options").Options().workers == THREADS

"""Draws the newspaper's year, and a function that grows with its load: SVG, so that it can be read
in a browser and compared in git."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pygal
from pygal.style import CleanStyle

if TYPE_CHECKING:
    from bench.openloop import Stretch
    from bench.replicas import Row
    from bench.year import Year

# pygal's finder of plugins, which nothing here needs, has no find_spec: every later import warns.
sys.meta_path[:] = [each for each in sys.meta_path if type(each).__module__ != "pygal"]

_BAD = {"build": "cannot be built", "test": "its test fails", "never healthy": "never healthy"}
_MOST = 300
"""Points of a line: more cannot be told apart."""


def year(seen: Year, restores: Sequence[float], path: Path, *, by_hand: float) -> None:
    """Releases over time with the bad ones on the line; memory, disk and functions below each
    other in a second file beside it."""
    done = sorted(seen.done, key=lambda each: each.begun + each.seconds)
    ends = [(each.begun + each.seconds - seen.begun) / 60 for each in done]
    minutes = max(ends)
    chart = _chart(
        f"A year of {len(done):,} releases in {minutes:.0f} minutes", "minutes", "releases decided"
    )
    line = [(at, number) for number, at in enumerate(ends, 1)]
    chart.add("decided", _thinned(line), show_dots=False)
    chart.add("by hand, one after another", [(0, 0), (minutes, minutes * 60 / by_hand)])
    for kind, told in _BAD.items():
        points = [point for point, each in zip(line, done, strict=True) if each.bad == kind]
        chart.add(f"{told}: nobody saw it", points, stroke=False, dots_size=3)
    points = [point for point, each in zip(line, done, strict=True) if each.bad == "errors"]
    restored = f", restored in {sorted(restores)[len(restores) // 2]:.1f} s" if restores else ""
    chart.add(f"errors after the switch{restored}", points, stroke=False, dots_size=4)
    chart.render_to_file(str(path))

    chart = _chart("What the platform itself needs meanwhile", "minutes", "MB, and functions")
    for number, name, unit in ((1, "memory (PSS), MB", 2**20), (2, "disk, MB", 2**20)):
        chart.add(name, [(each[0] / 60, each[number] / unit) for each in seen.samples])
    chart.add("functions that run", [(each[0] / 60, each[3]) for each in seen.samples])
    chart.render_to_file(str(path.with_name(f"{path.stem}-resources.svg")))


def scaling(
    phases: Iterable[Stretch], rows: Sequence[Row], fixed: Sequence[Row], path: Path
) -> None:
    """Replicas and load over time; how long answers took in a second file beside it, with those of
    as many replicas all the time (``fixed``)."""
    chart = _chart("A function that grows with its load, and sleeps", "seconds", "replicas")
    for name in ("desired", "available"):
        steps = _corners([(each.seconds, getattr(each, name)) for each in rows])
        chart.add(name, steps, show_dots=False)
    load: list[tuple[float, float]] = []
    begins = 0.0
    for each in phases:
        load += [(begins, each.rate), (begins + each.seconds, each.to)]
        begins += each.seconds
    chart.add("load, requests/s (right)", load, show_dots=False, secondary=True)
    chart.render_to_file(str(path))

    chart = _chart("How long its answers took in the second before", "seconds", "milliseconds")
    chart.include_x_axis = True
    for told, name, of in (
        ("it", "p50", rows),
        ("it", "p95", rows),
        ("as many all the time", "p95", fixed),
    ):
        points = [(each.seconds, getattr(each, name)) for each in of]
        line = [(at, took) for at, took in points if took is not None]
        chart.add(f"{told}, {name}", _worst(line), show_dots=False)
    chart.render_to_file(str(path.with_name(f"{path.stem}-latency.svg")))


def _chart(title: str, x: str, y: str) -> pygal.XY:
    return pygal.XY(
        title=title,
        x_title=x,
        y_title=y,
        style=CleanStyle,
        js=[],  # no script from elsewhere
        width=900,
        height=500,
        dots_size=2,
        legend_at_bottom=True,
        legend_at_bottom_columns=2,
        x_value_formatter=lambda value: f"{value:.0f}",
        value_formatter=lambda value: f"{value:,.0f}",
    )


def _thinned(points: list[tuple[float, int]]) -> list[tuple[float, int]]:
    step = max(len(points) // _MOST, 1)
    return [*points[::step], points[-1]]


def _worst(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of each so many the largest: what lasts a moment shall be seen."""
    step = max(len(points) // _MOST, 1)
    parts = (points[at : at + step] for at in range(0, len(points), step))
    return [max(each, key=lambda point: point[1]) for each in parts]


def _corners(points: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    """The points of a line in steps where it changes, and its ends."""
    found = [points[0]]
    for at, value in points[1:]:
        if value != found[-1][1]:
            found += [(at, found[-1][1]), (at, value)]
    return [*found, points[-1]]

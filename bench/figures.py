"""One measured figure: its samples, those of its reference, what was aimed at, and how it reads."""

from __future__ import annotations

import datetime
import math
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from core.models import Struct

RESULTS = Path(__file__).parent / "results"


class Aim(Struct, frozen=True):
    """``number`` is the most or the least that the value, or its ratio to the reference, may be."""

    of: Literal["value", "ratio"]
    bound: Literal["most", "least"]
    number: float

    def __str__(self) -> str:
        sign = "≤" if self.bound == "most" else "≥"
        return f"{sign} {self.number:g}{' of reference' if self.of == 'ratio' else ''}"


class Figure(Struct, frozen=True):
    """What one row of a table says."""

    name: str
    unit: str
    samples: list[float]
    reference: str = ""
    """What the reference samples are of; empty: there is no reference."""
    reference_samples: list[float] = msgspec.field(default_factory=list)
    aim: Aim | None = None

    @property
    def value(self) -> float:
        return statistics.median(self.samples)

    @property
    def reference_value(self) -> float | None:
        return statistics.median(self.reference_samples) if self.reference_samples else None

    @property
    def ratio(self) -> float | None:
        """Value to reference; of samples in pairs (one round each) the median of their ratios.

        A machine that is slow for a while slows both halves of a pair.
        """
        if not self.reference_samples:
            return None
        if len(self.samples) == len(self.reference_samples):
            pairs = zip(self.samples, self.reference_samples, strict=True)
            return statistics.median(own / other for own, other in pairs)
        return self.value / statistics.median(self.reference_samples)

    @property
    def met(self) -> bool | None:
        """Whether the aim is reached; None without one."""
        if self.aim is None:
            return None
        number = self.value if self.aim.of == "value" else self.ratio
        if number is None:
            raise ValueError(f"{self.name}: an aim for a ratio needs a reference")
        return number <= self.aim.number if self.aim.bound == "most" else number >= self.aim.number


class Result(Struct, frozen=True):
    """What a bench returns: its figures, and what else a reader should know."""

    figures: list[Figure]
    notes: list[str] = msgspec.field(default_factory=list)


def most(number: float, of: Literal["value", "ratio"] = "value") -> Aim:
    return Aim(of=of, bound="most", number=number)


def least(number: float, of: Literal["value", "ratio"] = "value") -> Aim:
    return Aim(of=of, bound="least", number=number)


def table(result: Result) -> str:
    """The figures as aligned text, the notes below."""
    rows = [("figure", "value", "spread", "reference", "", "ratio", "aim", "met")]
    for figure in result.figures:
        reference = figure.reference_value
        ratio = figure.ratio
        rows.append(
            (
                figure.name,
                _number(figure.value, figure.unit),
                _spread(figure.samples),
                "" if reference is None else _number(reference, figure.unit),
                figure.reference,
                "" if ratio is None else f"{ratio:.2f}",
                str(figure.aim or ""),
                {True: "met", False: "MISSED", None: ""}[figure.met],
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*lines, *(["", *result.notes] if result.notes else [])]) + "\n"


def save(name: str, result: Result, commit: str, folder: Path = RESULTS) -> str:
    """Writes ``<name>.txt`` and ``<name>.json``; returns the text."""
    told = {
        "bench": name,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit,
        "machine": machine(),
        "figures": [
            {
                "name": figure.name,
                "unit": figure.unit,
                "value": round(figure.value, 4),
                "reference": figure.reference,
                "referenceValue": _rounded(figure.reference_value),
                "ratio": _rounded(figure.ratio),
                "aim": str(figure.aim or ""),
                "met": figure.met,
                "samples": [round(sample, 4) for sample in figure.samples],
                "referenceSamples": [round(sample, 4) for sample in figure.reference_samples],
            }
            for figure in result.figures
        ],
        "notes": result.notes,
    }
    heading = f"{name} · {told['date']} · commit {commit} · {machine()}\n\n"
    text = heading + table(result)
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(told)) + b"\n")
    (folder / f"{name}.txt").write_text(text)
    return text


def machine() -> str:
    """What it was measured on, in a few words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} CPUs, {memory:.0f} GiB, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}"
    )


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest that at least this share of them is no larger than; of few the largest."""
    # Rounded: a hundred times 0.99 shall be 99, whatever floats say.
    return sorted(samples)[math.ceil(round(len(samples) * share, 6)) - 1]


def breakdown(samples: Sequence[dict[str, float]]) -> dict[str, float]:
    """Medians by name, in order of appearance; a name that a sample lacks is 0 there."""
    names = dict.fromkeys(name for sample in samples for name in sample)
    return {name: statistics.median(s.get(name, 0.0) for s in samples) for name in names}


def _number(value: float, unit: str) -> str:
    digits = 0 if value >= 1000 else 1 if value >= 100 else 2
    return f"{value:,.{digits}f} {unit}"


def _spread(samples: Sequence[float]) -> str:
    """Least and most, and how many."""
    if len(samples) < 2:
        return f"n={len(samples)}"
    digits = 0 if max(samples) >= 1000 else 2
    return f"{min(samples):.{digits}f}…{max(samples):.{digits}f} n={len(samples)}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)

"""From two readings of each instance to what functions use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from core.models import Usage


@dataclass(frozen=True)
class Reading:
    """What an instance has used."""

    at: float
    """Seconds, on one clock for all readings of an instance."""
    cpu_seconds: float
    """Since its start."""
    memory_bytes: int
    """At this moment, without the page cache that the kernel would give up first."""


def between(first: Reading, last: Reading) -> Usage:
    seconds = last.at - first.at
    spent = max(last.cpu_seconds - first.cpu_seconds, 0.0)
    return Usage(
        cpu=1000 * spent / seconds if seconds > 0 else 0.0,
        total_memory_bytes=float(last.memory_bytes),
    )


def totals(found: Iterable[tuple[str, Usage]]) -> dict[str, Usage]:
    """From (function, what one of its instances uses) to what each function uses."""
    made: dict[str, Usage] = {}
    for function, each in found:
        so_far = made.get(function, Usage(cpu=0.0, total_memory_bytes=0.0))
        made[function] = Usage(
            cpu=round(so_far.cpu + each.cpu, 3),
            total_memory_bytes=so_far.total_memory_bytes + each.total_memory_bytes,
        )
    return made

"""Whether a new release does worse than what it replaced: pure functions, no clock, no I/O.

Held against the minute before the switch is each function that the release changed, by the requests
that came after the routes moved:

- errors (5xx, or no answer): the lower end of the interval of their share (Wilson 1927) is more
  than ``MARGIN`` above the upper end before, and there are at least ``LEAST_ERRORS``;
- time to the first byte, of the second half, with enough requests on both sides: the median or the
  95th percentile is several times what it was.

The watch itself sees to two more: no answer begun by its end, where as many requests wait and
answers were quick before; and no replica left, whether anybody asked or not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from core.models import Traffic, Watched

MARGIN = 0.02
LEAST_ERRORS = 3
LEAST_BEFORE = 10
"""Requests below which nothing is known of the share before: no errors are expected then."""
SLOWER_P50, SLOWER_P95 = (2.0, 50.0), (3.0, 200.0)
"""Times as slow, and milliseconds more besides."""
_Z = 3.0
"""Standard deviations: there are many looks at many functions, and each could be wrong."""


def breaches(functions: Sequence[Watched]) -> dict[str, str]:
    """Those functions that do worse than before, and why, with the figures."""
    told = {}
    for each in functions:
        before, after = each.before, each.after
        if after.errors >= LEAST_ERRORS and _share(after)[0] > _usual(before) + MARGIN:
            told[each.name] = (
                f"{after.errors} of {after.requests} requests failed "
                f"({_percent(after)}; before {before.errors} of {before.requests})"
            )
        elif after.p50_ms and before.p50_ms:
            if _slower(before.p50_ms, after.p50_ms, *SLOWER_P50):
                told[each.name] = f"half of the answers take {_times(each, 'p50_ms')}"
            elif _slower(before.p95_ms, after.p95_ms, *SLOWER_P95):
                told[each.name] = f"one answer in twenty takes {_times(each, 'p95_ms')}"
    return told


def _usual(before: Traffic) -> float:
    """The share of errors that is nothing new."""
    if not before.errors or before.requests < LEAST_BEFORE:
        return 0.0
    return _share(before)[1]


def _share(did: Traffic) -> tuple[float, float]:
    """The Wilson score interval of the share of errors."""
    n, share, z2 = did.requests, did.errors / did.requests, _Z * _Z
    spread = _Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    middle, scale = share + z2 / (2 * n), 1 + z2 / n
    return (middle - spread) / scale, (middle + spread) / scale


def _percent(did: Traffic) -> str:
    return f"{100 * did.errors / did.requests:.1f} %"


def _slower(before: float, after: float, times: float, more: float) -> bool:
    return after > before * times + more


def _times(each: Watched, which: str) -> str:
    before, after = getattr(each.before, which), getattr(each.after, which)
    return f"over {after:.0f} ms ({each.after.requests} requests; before {before:.0f} ms)"

"""How long a function may be silent before it is given up: the same at the edge and the gateway."""

from __future__ import annotations

from core.models import FunctionSpec
from core.quantities import seconds

USUAL = 600.0
"""Of one that says nothing. OpenFaaS cuts off after 60 s; whoever takes longer here loses nothing,
and one that hangs holds a connection, no thread."""
LONGEST = 3600.0
LEEWAY = 5.0
"""A function's own server shall be the first to say that it took too long."""


def patience_of(spec: FunctionSpec) -> float:
    """Seconds by the function's own word, or 0 where it gives none.

    The word is of-watchdog's ``exec_timeout`` (0: no bound), or ``write_timeout`` where that is
    longer: what streams its answer may be quiet for so long.
    """
    told = spec.env_vars or {}
    own = _seconds(told.get("exec_timeout", ""))
    if own is None:
        return 0.0
    if own == 0:
        return LONGEST
    return min(max(own, _seconds(told.get("write_timeout", "")) or 0.0) + LEEWAY, LONGEST)


def _seconds(text: str) -> float | None:
    try:
        return seconds(text)
    except ValueError:  # its own server says what is wrong with it
        return None

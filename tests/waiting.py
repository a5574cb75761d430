"""Waiting for what comes true in a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 3.0
"""How much longer than on a quiet machine things may take: tests share theirs with builds."""


def until(
    what: Callable[[], T | None], seconds: float = 10, why: Callable[[], str] = lambda: ""
) -> T:
    """Returns what it gives once that is true; ``seconds``: what it takes on a quiet machine."""
    deadline = time.monotonic() + seconds * PATIENCE
    while not (result := what()):
        assert time.monotonic() < deadline, f"it did not come true in time {why()}".rstrip()
        time.sleep(0.02)
    return result

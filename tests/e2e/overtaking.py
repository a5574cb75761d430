"""Holds up the builds of one repository, so that others of it come meanwhile."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from tests.e2e.platform import Platform


@contextmanager
def held(platform: Platform, owner: str, name: str) -> Iterator[None]:
    """Builds of this repository wait at their checkout: somebody else uses its mirror."""
    lock = platform.settings.mirrors / owner / f"{name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

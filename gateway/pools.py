"""Bounds on requests that last: so many at once of each kind, so that a thread is left for the
short ones (webhooks, ``/healthz``, lists)."""

from __future__ import annotations

import threading
from collections.abc import Callable

from core.errors import Unavailable


class Pool:
    """Slots for one kind of request."""

    def __init__(self, kind: str, slots: int) -> None:
        self.kind = kind
        self.slots = slots
        self._free = threading.BoundedSemaphore(slots)

    def take(self) -> Callable[[], None]:
        """Takes a slot; returns what gives it back, which may be called more than once.

        Raises:
            Unavailable: none is free.
        """
        if not self._free.acquire(blocking=False):
            raise Unavailable(
                f"all {self.slots} places for {self.kind} are taken: try again in a moment"
            )
        once = threading.Lock()

        def give_back() -> None:
            if once.acquire(blocking=False):
                self._free.release()

        return give_back


class Pools:
    """A push takes two threads while its progress is shown: one of git, one of the hook."""

    def __init__(self) -> None:
        self.pushes = Pool("git requests", 12)
        self.progress = Pool("pushes that are watched", 8)
        self.followers = Pool("log followers", 8)
        self.invocations = Pool("invocations through the gateway", 24)
        self.webhooks = Pool("webhooks", 6)


THREADS = 72
"""Of the one worker: the slots of all pools, and 14 for what is short."""

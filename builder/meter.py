"""Counts how long builds of an owner take, while they do: a worker that is killed has told all but
its last seconds."""

from __future__ import annotations

import contextlib
import threading
import time
from types import TracebackType

from redis.exceptions import RedisError

from core.store import Store

EVERY = 10.0
"""Seconds."""


class Meter:
    """Runs while a release of the owner is built; ``forks``: of a request from a fork."""

    def __init__(self, store: Store, owner: str, *, forks: bool = False) -> None:
        self._store = store
        self._owner = owner
        self._forks = forks
        self._told = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="meter", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        self._tell()

    def _keep(self) -> None:
        while not self._done.wait(EVERY):
            self._tell()

    def _tell(self) -> None:
        now = time.monotonic()
        with contextlib.suppress(RedisError):  # away: told with what comes next
            self._store.count_built(self._owner, now - self._told, forks=self._forks)
            self._told = now

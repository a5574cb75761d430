"""The lease of the worker that builds a release: lost when the worker dies, so others take over."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from types import TracebackType
from typing import Any

from redis.exceptions import RedisError

from core import keys
from core.alive import place
from core.errors import NotFound
from core.store import Store

SECONDS = 5.0
"""Life of a lease that is not renewed: the longest a dead worker's release waits."""
RENEW = 1.0
RETRY = 0.2
"""Seconds until a store that was away is asked again."""


class LeaseLost(Exception):
    """Another worker builds the release now: this one ends, and says nothing about it."""


def died(store: Store, release: str, pid: int) -> None:
    """Ends the lease of a process of this machine or container, of which it is known that it is
    gone; somebody else's stays."""
    token = store.holder(keys.lease(release))
    if token.startswith(_holder(pid)):
        store.give_back(keys.lease(release), token)


def _holder(pid: int) -> str:
    return f"{place()} {pid} "


class Lease:
    """Held while a release is built.

    ``ended`` is set once this worker shall stop: the release was decided, or (``lost`` is set as
    well) the lease ran out, and another worker may have taken over. Decisions are heard of as they
    are made: the store tells of every one.

    Raises LeaseLost on entry if another worker has it.
    """

    def __init__(self, store: Store, release: str) -> None:
        self.store = store
        self.release = release
        self.ended = threading.Event()
        self.lost = threading.Event()
        self._token = f"{_holder(os.getpid())}{secrets.token_hex(8)}"
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Lease:
        if not self._renew():
            raise LeaseLost(self.release)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        with contextlib.suppress(RedisError):  # away: then the thread does not wait for news
            self.store.wake()
        self._thread.join()
        self.store.give_back(keys.lease(self.release), self._token)

    def _renew(self) -> bool:
        return self.store.take(keys.lease(self.release), self._token, SECONDS)

    def _keep(self) -> None:
        while not self._done.is_set():
            try:
                with self.store.wakes() as news:
                    self._listen(news)
            except RedisError:
                self._done.wait(RETRY)  # the store restarts; a lost lease shows at the next turn

    def _listen(self, news: Any) -> None:
        """Looks whenever something changed, and renews in time."""
        due = 0.0
        while not self._done.is_set():
            if time.monotonic() >= due:
                if not self._renew():
                    self.lost.set()
                    self.ended.set()
                due = time.monotonic() + RENEW
            with contextlib.suppress(NotFound):
                if not self.store.release(self.release).state.with_builder:
                    self.ended.set()
            news.get_message(timeout=max(due - time.monotonic(), 0.01))

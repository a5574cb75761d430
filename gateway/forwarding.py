"""Tells the store which functions this gateway forwards requests to: none of them is put to sleep
meanwhile, and their load is known (core/store/sleeping.py). Knows which replica has how many, too.

That there are any is in the store before the function's address is looked up; how many, and that
there are none any more, within half a second.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable

from redis.exceptions import RedisError

from core import logging
from core.store import Store

TELL_EVERY = 0.5
AGAIN = 5.0
"""Seconds after which what has not changed is told again; the store forgets it after three times
that."""

log = logging.get()


class Forwarding:
    """Of one process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._gateway = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._now: Counter[str] = Counter()
        self._with: Counter[str] = Counter()
        """Replicas by their addresses → requests of ours that they have."""
        self._told: dict[str, int] = {}
        """What the store has of us."""
        self._told_at = 0.0
        self._keeper: threading.Thread | None = None

    def begin(self, function: str) -> Callable[[], None]:
        """A request is about to be forwarded; returns what is to be called once it is over.

        Raises:
            RedisError: the store does not answer.
        """
        with self._lock:
            if function not in self._told:
                self._store.forwarding(self._gateway, {function: 1})
                self._told[function] = 1
            self._now[function] += 1
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._keep, name="forwarding", daemon=True)
                self._keeper.start()
        return lambda: self._end(function)

    def least(self, endpoints: Iterable[str]) -> list[str]:
        """The replicas of a function, the one with the fewest requests of ours first."""
        with self._lock:
            return sorted(endpoints, key=lambda each: (self._with[each], random.random()))

    def takes(self, endpoint: str) -> Callable[[], None]:
        """A replica has a request; returns what is to be called once it has answered."""
        with self._lock:
            self._with[endpoint] += 1

        def answered() -> None:
            with self._lock:
                self._with[endpoint] -= 1
                if not self._with[endpoint]:
                    del self._with[endpoint]

        return answered

    def _end(self, function: str) -> None:
        with self._lock:
            self._now[function] -= 1

    def _keep(self) -> None:
        while True:
            time.sleep(TELL_EVERY)
            try:
                self._tell()
            except RedisError as error:
                log.warning("store_unavailable", reason=f"{type(error).__name__}: {error}")

    def _tell(self) -> None:
        # Under the lock: who begins meanwhile must not find itself told of and then taken out.
        with self._lock:
            now = {function: self._now[function] for function in self._told}
            if now == self._told and time.monotonic() - self._told_at < AGAIN:
                return
            self._store.forwarding(self._gateway, now)
            self._told = {function: count for function, count in now.items() if count}
            self._now += Counter()  # without those at zero
            self._told_at = time.monotonic()

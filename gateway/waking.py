"""Wakes a function that is called while it sleeps: the first caller does, all wait for the same.

    desired: least replicas ── the controller starts them ── tells where they answer ── all go on

Who waits holds one of the gateway's threads. One thread looks for all of them, each time the
controller has told something new.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from redis.exceptions import RedisError

from core import logging
from core.errors import NoEndpoints, NotFound, SlipwayError
from core.models import FunctionRecord, Observed
from core.store import Store

LOOK_EVERY = 0.25
"""Seconds between two looks while somebody waits and nothing is told: a word may have been lost."""
LEEWAY = 2.0
"""Seconds that the controller has to tell why a function does not come up."""

log = logging.get()


@dataclass
class _Sleeper:
    """One function that callers wait for."""

    over: threading.Event = field(default_factory=threading.Event)
    waiting: int = 0
    seen: Observed | None = None
    trouble: str = ""
    """What was last told of why it does not answer."""
    error: SlipwayError | None = None


class Waking:
    """Of one process."""

    def __init__(self, store: Store, health_timeout: float) -> None:
        """``health_timeout``: seconds that a replica has to become healthy."""
        self._store = store
        self._patience = health_timeout + LEEWAY
        self._lock = threading.Lock()
        self._sleepers: dict[tuple[str, frozenset[str]], _Sleeper] = {}
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def start(self) -> None:
        """Begins to listen, so that the first who waits misses nothing."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._follow, name="waking", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()

    def wait(self, function: str, refused: frozenset[str] = frozenset()) -> Observed:
        """Where it answers, once it does anywhere but where it ``refused``; wakes it if it sleeps.

        Raises:
            NotFound: it is gone.
            NoEndpoints: it did not wake; nobody waits longer than a replica has to become healthy,
                if it asks for no ``initialDelay`` beside that.
        """
        with self._lock:
            sleeper = self._sleepers.setdefault((function, refused), _Sleeper())
            sleeper.waiting += 1
            first = sleeper.waiting == 1
        self.start()
        try:
            if first:
                self._store.rouse(function)
                self._look()  # it may have been told before we listened
            sleeper.over.wait(self._patience)
        finally:
            with self._lock:
                sleeper.waiting -= 1
                if not sleeper.waiting and self._sleepers.get((function, refused)) is sleeper:
                    del self._sleepers[function, refused]
        if sleeper.error:
            raise sleeper.error
        if sleeper.seen is None:
            told = f" ({sleeper.trouble})" if sleeper.trouble else ""
            raise NoEndpoints(
                f"{function} did not wake within {self._patience:g} s{told}: call again, and see "
                f"'slipway describe {function}'"
            )
        return sleeper.seen

    def _follow(self) -> None:
        while not self._stop.wait(0):
            try:
                with self._store.sightings() as told:
                    while not self._stop.wait(0):
                        told.get_message(timeout=LOOK_EVERY)
                        self._look()
            except RedisError as error:
                log.warning("store_unavailable", reason=f"{type(error).__name__}: {error}")
                self._stop.wait(LOOK_EVERY)
            except Exception:  # whoever waits does so in vain, but the next look may be better
                log.exception("waking_failed")
                self._stop.wait(LOOK_EVERY)

    def _look(self) -> None:
        with self._lock:
            sleepers = dict(self._sleepers)
        if not sleepers:
            return
        functions = list({function for function, _ in sleepers})
        records = self._store.of_names(functions)
        observed = self._store.observed_of(functions)
        for (function, refused), sleeper in sleepers.items():
            record, seen = records.get(function), observed.get(function)
            if record and not record.replicas:
                self._store.rouse(function)  # who was to do that has died, or it fell asleep again
                continue
            if record is None:
                sleeper.error = NotFound(f"there is no function {function}: see 'slipway list'")
            elif seen and not refused.issuperset(seen.endpoints):
                sleeper.seen = seen
            elif failed := failure(record, seen):
                sleeper.error = NoEndpoints(failed)
            else:
                sleeper.trouble = _told(record, seen) if seen and seen.trouble else ""
                continue
            with self._lock:
                self._sleepers.pop((function, refused), None)
            sleeper.over.set()


def failure(record: FunctionRecord, seen: Observed | None) -> str:
    """Why a function that is desired to run does not; empty while that is not known."""
    if seen is None or not seen.trouble or seen.starting:
        return ""
    return f"no endpoints available for {record.spec.function}: {_told(record, seen)}"


def _told(record: FunctionRecord, seen: Observed) -> str:
    if record.spec.foreign:  # it may quote what a registry answered, and anybody may ask
        return f"it does not run: 'slipway describe {record.spec.function}' says why"
    return seen.trouble

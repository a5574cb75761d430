"""What the controller tells of each function: the state that it was observed in."""

from __future__ import annotations

import time
from collections.abc import Mapping

from core.models import FunctionRecord, Observed
from core.store import Store
from runtime.edge import Route
from runtime.replicas import Replicas

TELL_EVERY = 10.0
"""Seconds after which what was observed is written again: a store may have lost its last second."""

PASSES = 2
"""Failures in a row that may pass, while whoever waits for a function is not sent away."""


class Telling:
    """Of all functions."""

    def __init__(self, store: Store, replicas: Replicas) -> None:
        self._store = store
        self._replicas = replicas
        self._told: dict[str, Observed] = {}
        self._told_at = 0.0
        self._overtaken = False

    def last(self, function: str) -> Observed | None:
        """What was told of one."""
        return self._told.get(function)

    def forget(self) -> None:
        """All that was told may be lost."""
        self._told = {}

    def overtaken(self) -> None:
        """Somebody else told something: the next word is written even if it is our last one."""
        self._overtaken = True

    def tell(self, records: Mapping[str, FunctionRecord], table: Mapping[str, Route]) -> None:
        """Writes what was observed."""
        observed = {}
        for function, record in records.items():
            route = table.get(function)
            endpoints = list(route.endpoints) if route else []
            trouble, starting = self._trouble(record, route)
            observed[function] = Observed(
                available=len(endpoints),
                endpoints=endpoints,
                trouble=trouble,
                starting=starting,
                deployment=record.spec.deployment,
                revision=route.revision if route else "",
            )
        stale = self._overtaken or time.monotonic() - self._told_at > TELL_EVERY
        self._overtaken = False
        if observed != self._told or stale:
            self._store.save_observed(observed)
            self._told, self._told_at = observed, time.monotonic()

    def _trouble(self, record: FunctionRecord, route: Route | None) -> tuple[str, bool]:
        """Why fewer replicas are available than desired, or not those of the last deploy; and
        whether it is no more than that they are being started, as after what seems to pass."""
        if not record.previous and len(route.endpoints if route else ()) >= record.replicas:
            return "", False
        trouble = self._replicas.trouble((record.spec.function, record.spec.revision))
        reason = trouble.reason if trouble else "it is starting"
        if record.previous and route and route.revision == record.previous.revision:
            reason = f"{reason}; what was deployed before it still serves"
        return reason, trouble is None or (trouble.passing and trouble.failures <= PASSES)

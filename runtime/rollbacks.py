"""Rollbacks under way: when all that they bring back is healthy it becomes the desired state, and
once the routes follow they are done. What cannot become healthy fails the rollback; what is live
stays.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from core import failpoints, logging
from core.errors import Conflict, NotFound, SlipwayError
from core.models import FunctionRecord, FunctionSpec, Rollback, RollbackState
from core.settings import Settings
from core.store import Store, of_repository
from runtime.edge import Route
from runtime.plan import Key, replicas
from runtime.providers import Provider
from runtime.receipts import Receipts, replaced
from runtime.replicas import Replicas

log = logging.get()

Specs = dict[str, FunctionSpec]


class Rollbacks:
    """The way of a rollback from ``starting`` to ``done`` or ``failed``."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        provider: Provider,
        replicas: Replicas,
        receipts: Receipts,
    ) -> None:
        self.settings = settings
        self.store = store
        self.provider = provider
        self.replicas = replicas
        self.receipts = receipts
        self._moving: list[tuple[Rollback, Specs]] = []
        self._seen: dict[str, float] = {}
        """When each was first seen: monotonic time."""

    def moving(self) -> list[Specs]:
        """What those under way bring back, oldest first."""
        self._moving = []
        for rollback in self.store.rolling():
            try:
                self._moving.append((rollback, self.store.rollback_specs(rollback)))
            except NotFound as error:
                self._fail(rollback, str(error))
        now = time.monotonic()
        self._seen = {each.id: self._seen.get(each.id, now) for each, _ in self._moving}
        return [specs for _, specs in self._moving]

    def advance(self, records: Mapping[str, FunctionRecord], healthy: Mapping[Key, int]) -> bool:
        """Switches what is ready and fails what cannot be; True if the desired state changed.

        ``healthy``: so many replicas of each revision.
        """
        changed = False
        for rollback, specs in self._moving:
            if rollback.state is not RollbackState.STARTING:
                continue
            try:
                changed |= self._advance(rollback, specs, records, healthy)
            except (SlipwayError, OSError, ValueError):  # it holds up nobody else's
                log.exception("rollback_stuck", rollback=rollback.id)
        return changed

    def finish(self, records: Mapping[str, FunctionRecord], table: Mapping[str, Route]) -> None:
        """Calls done what the routes, which were just applied, follow."""
        for rollback, specs in self._moving:
            if rollback.state is RollbackState.SWITCHED and all(
                _follows(function, spec, records, table) for function, spec in specs.items()
            ):
                try:
                    self.store.finish_rollback(rollback.id)
                except Conflict:
                    continue
                failpoints.at("rollback-done")
                log.info("rolled_back", rollback=rollback.id, to=rollback.to)

    # Inside

    def _advance(
        self,
        rollback: Rollback,
        specs: Specs,
        records: Mapping[str, FunctionRecord],
        healthy: Mapping[Key, int],
    ) -> bool:
        missing = [
            spec
            for spec in specs.values()
            if healthy.get(_key(spec), 0) < replicas(spec)
            and not ((held := records.get(spec.function)) and held.spec.revision == spec.revision)
        ]
        troubles = [
            f"{spec.name} {trouble.reason}"
            for spec in missing
            if (trouble := self.replicas.trouble(_key(spec)))
            and self.replicas.counts(trouble, self._seen[rollback.id])
        ]
        if troubles:
            self._fail(rollback, "; ".join(sorted(troubles)))
            return False
        return not missing and self._switch(rollback, specs, records)

    def _switch(
        self, rollback: Rollback, specs: Specs, records: Mapping[str, FunctionRecord]
    ) -> bool:
        whole = "" if rollback.function else rollback.repository
        before = of_repository(records, rollback.namespace, whole, specs)
        window = self.receipts.window(specs.keys() | before.keys())
        try:
            self.store.roll_back(rollback.id, specs, replicas, warm=self.settings.warm)
            failpoints.at("rollback-switched")
        except BaseException as error:
            if window:
                window.close()
            if not isinstance(error, Conflict):
                raise
            self._fail(rollback, str(error))
            return False
        after = {_key(spec) for spec in specs.values()}
        old = replaced(self.provider.instances(), before, after)
        self.receipts.begin(rollback.id, window, old)
        self._moving = [
            (self.store.rollback(each.id) if each.id == rollback.id else each, theirs)
            for each, theirs in self._moving
        ]
        return True

    def _fail(self, rollback: Rollback, reason: str) -> None:
        self.store.fail_rollback(rollback.id, reason)
        log.warning("rollback_failed", rollback=rollback.id, reason=reason)


def _follows(
    function: str,
    spec: FunctionSpec,
    records: Mapping[str, FunctionRecord],
    table: Mapping[str, Route],
) -> bool:
    """Whether the route follows, or the function is another's or asleep by now."""
    record, route = records.get(function), table.get(function)
    if record is None or record.spec.revision != spec.revision or not record.replicas:
        return True
    return route is not None and route.revision == spec.revision


def _key(spec: FunctionSpec) -> Key:
    return spec.function, spec.revision

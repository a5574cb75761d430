"""Rollbacks under way: when all that they bring back is healthy it becomes the desired state, and
once the routes follow they are done. What cannot become healthy fails the rollback; what is live
stays.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from core import failpoints, logging
from core.errors import Conflict, SlipwayError
from core.models import FunctionRecord, FunctionSpec, Rollback, RollbackState
from core.settings import Settings
from core.store import Store, of_repository
from runtime.edge import Route
from runtime.plan import Key, Want, follows, replicas, returned
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

    def look(self) -> None:
        """Reads which are under way, oldest first."""
        self._moving = []
        for rollback in self.store.rolling():
            try:
                self._moving.append((rollback, self.store.rollback_specs(rollback)))
            except (SlipwayError, ValueError) as error:
                self._fail(rollback, str(error))
        now = time.monotonic()
        self._seen = {each.id: self._seen.get(each.id, now) for each, _ in self._moving}

    def wants(self, records: Mapping[str, FunctionRecord]) -> list[Want]:
        """What they bring back."""
        return [returned(spec, records) for _, specs in self._moving for spec in specs.values()]

    def switched(self) -> set[str]:
        """Repositories in which one is the desired state, and the routes may not follow yet."""
        return {each.key for each, _ in self._moving if each.state is RollbackState.SWITCHED}

    def advance(self, records: Mapping[str, FunctionRecord], healthy: Mapping[Key, int]) -> bool:
        """Switches what is ready and fails what cannot be; True if the desired state changed.

        ``healthy``: so many replicas of each revision.
        """
        changed = False
        for rollback, specs in list(self._moving):
            if rollback.state is not RollbackState.STARTING:
                continue
            try:
                changed |= self._advance(rollback, specs, records, healthy)
            except (SlipwayError, OSError, ValueError):  # it holds up nobody else's
                log.exception("rollback_stuck", rollback=rollback.id)
        return changed

    def finish(self, records: Mapping[str, FunctionRecord], table: Mapping[str, Route]) -> None:
        """Calls done what the routes, which were just applied, follow."""
        troubled = self.replicas.troubled()
        for rollback, specs in self._moving:
            if rollback.state is not RollbackState.SWITCHED:
                continue
            if not all(follows(spec, records, table, troubled) for spec in specs.values()):
                continue
            try:
                self.store.finish_rollback(rollback.id)
            except SlipwayError as error:
                log.info("rollback_not_done", rollback=rollback.id, reason=str(error))
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
            if healthy.get(_key(spec), 0) < returned(spec, records).replicas
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
        old = replaced(self.provider.instances(), before, {_key(spec) for spec in specs.values()})
        self.receipts.begin(rollback.id, specs.keys() | before.keys(), old)
        try:
            self.store.roll_back(rollback.id, specs, replicas, warm=self.settings.warm)
        except Conflict as error:
            self.receipts.drop(rollback.id)
            self._fail(rollback, str(error))
            return False
        failpoints.at("rollback-switched")
        switched = self.store.rollback(rollback.id)
        self._moving = [
            (switched if each is rollback else each, theirs) for each, theirs in self._moving
        ]
        return True

    def _fail(self, rollback: Rollback, reason: str) -> None:
        self.store.fail_rollback(rollback.id, reason)
        self._moving = [(each, specs) for each, specs in self._moving if each is not rollback]
        log.warning("rollback_failed", rollback=rollback.id, reason=reason)


def _key(spec: FunctionSpec) -> Key:
    return spec.function, spec.revision

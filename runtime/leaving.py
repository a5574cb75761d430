"""Replicas on their way out: drained, then paused or told to end, and removed once they have.

Ids are kept in memory alone: who is on its way out and not told to end yet runs, unwanted, and the
next controller finds that again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from core import failpoints, logging
from core.errors import SlipwayError, Unavailable
from core.models import FunctionRecord
from core.settings import Settings
from core.store import Store
from runtime.edge import Edge
from runtime.naps import Naps
from runtime.plan import Key, Want, taken_back
from runtime.providers import Instance, Phase, Provider
from runtime.replicas import Replicas

log = logging.get()


class Leaving:
    """Of all functions; a collection of the ids."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        provider: Provider,
        replicas: Replicas,
        edge: Edge,
        naps: Naps,
    ) -> None:
        self._settings = settings
        self._store = store
        self._provider = provider
        self._replicas = replicas
        self._edge = edge
        self._naps = naps
        self._told: dict[str, float] = {}
        """Ids → when they were told to end, monotonic (0: still draining)."""
        self._since: dict[str, float] = {}
        """The same ids → when they began to leave."""

    def __contains__(self, id_: object) -> bool:
        return id_ in self._told

    def __iter__(self) -> Iterator[str]:
        return iter(self._told)

    def __len__(self) -> int:
        return len(self._told)

    def begin(self, instances: Iterable[Instance]) -> None:
        """These have to go."""
        for instance in instances:
            self._told.setdefault(instance.id, 0.0)
            self._since.setdefault(instance.id, time.monotonic())

    def take_back(
        self, instances: Sequence[Instance], wants: Mapping[Key, Want], staying: Sequence[Instance]
    ) -> list[Instance]:
        """Those that drain and are wanted again, as of a function that fell asleep just now."""
        drain = [each for each in instances if self._told.get(each.id) == 0.0]
        back = taken_back(drain, wants, staying, self._replicas.ready()) if drain else []
        for each in back:
            self._forget(each.id)
        return back

    def bury(self, dead: Sequence[Instance], wants: Mapping[Key, object]) -> None:
        """Removes the dead; has those noted that should have lived."""
        for instance in dead:
            self._edge.mark_down(instance.address)
            expected = instance.id in self._told or self._replicas.condemned(instance)
            self._forget(instance.id)
            if not expected and (instance.function, instance.revision) in wants:
                self._replicas.died(instance)
            self._remove(instance)

    def drain(self, instances: Sequence[Instance], records: Mapping[str, FunctionRecord]) -> None:
        """Ends replicas that left the routes, or pauses them, once no request is with them or time
        is up."""
        there = {instance.id: instance for instance in instances}
        paused = Counter(each.function for each in instances if each.phase is Phase.PAUSED)
        now = time.monotonic()
        for each in instances:  # told to end by an earlier controller
            if each.phase is Phase.STOPPING:
                self._told.setdefault(each.id, now)
        forwarded: Counter[str] | None = None
        for id_, told in list(self._told.items()):
            instance = there.get(id_)
            if instance is None:
                self._forget(id_)
            elif self._replicas.condemned(instance) or self._replicas.untried(instance):
                self._remove(instance)
            elif not told and instance.phase in (Phase.RUNNING, Phase.PAUSED):
                if not self._edge.released(instance.address):
                    continue
                forwarded = self._store.forwarded() if forwarded is None else forwarded
                held = forwarded[instance.function]
                record, asleep = records.get(instance.function), paused[instance.function]
                naps = instance.phase is Phase.RUNNING
                naps = naps and self._naps.may_begin(instance, record, asleep)
                # Without an edge these may be the new one's, without end: SIGTERM lets them finish.
                waits = held and (naps or self._settings.edge != "none")
                if waits and now - self._since.get(id_, now) <= self._settings.drain_timeout:
                    continue
                if naps and not held and self._pause(instance):
                    paused[instance.function] += 1
                elif self._terminate(instance):
                    self._told[id_] = now
            elif told and now - told > self._settings.drain_timeout:
                self._remove(instance)

    def _forget(self, id_: str) -> None:
        self._told.pop(id_, None)
        self._since.pop(id_, None)

    def _remove(self, instance: Instance) -> None:
        """Ends one and its traces; one that cannot be ended now is tried again by the next pass."""
        try:
            self._provider.remove(instance)
            failpoints.at("old-removed")
        except (SlipwayError, OSError) as error:
            log.warning("not_removed", instance=instance.id, reason=str(error))

    def _pause(self, instance: Instance) -> bool:
        """Halts one that drained; False: that cannot be, so it is to end."""
        try:
            self._replicas.pause(instance)
        except SlipwayError as error:
            log.warning("not_paused", instance=instance.id, reason=str(error))
            return False
        log.info("replica_paused", instance=instance.id)
        self._forget(instance.id)
        return True

    def _terminate(self, instance: Instance) -> bool:
        """Asks one to end; one that cannot be asked now is asked by the next pass."""
        try:
            self._replicas.terminate(instance)
        except Unavailable as error:
            log.warning("not_terminated", instance=instance.id, reason=str(error))
            return False
        failpoints.at("old-asked")
        return True

"""The watch over a release that has just gone live: where it does worse than what it replaced, what
was there before comes back at once.

What counts as worse: ``verdict``.

What is to come back is started first where it does not run any more. If it cannot be, the release
stays.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from core import failpoints, logging
from core.errors import Conflict, SlipwayError
from core.models import FunctionRecord, FunctionSpec, LogLine, Release, Traffic, Watched, now
from core.settings import Settings
from core.store import Store
from runtime.edge import Edge, Route
from runtime.edge.collector import Collector
from runtime.edge.traffic import Since
from runtime.plan import Key, Want, follows
from runtime.receipts import Receipts
from runtime.replicas import Replicas
from runtime.verdict import LEAST_ERRORS, breaches

LOOK_EVERY = 0.25
"""Seconds between two looks."""
RECEIPT_PATIENCE = 5.0
"""Seconds that a verdict waits for the receipt, to be told with it."""

log = logging.get()


@dataclass
class _Watching:
    release: Release
    ends: float
    """Unix time."""
    answers: Since | None
    at: float
    """Monotonic time from which a replica's trouble counts: of the switch."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Function → why the release goes back, once that is decided."""
    before: Sequence[FunctionRecord] = ()
    """What comes back then."""
    patience: float = 0.0
    """Monotonic time until which that has to be healthy."""
    lived: dict[str, float] = field(default_factory=dict)
    """Function → monotonic time at which it was first seen healthy, where ``at`` is not known."""
    mute: dict[str, float] = field(default_factory=dict)
    """Function → monotonic time since which its requests wait and none is answered."""


class Watch:
    """Of all releases that are watched."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        replicas: Replicas,
        receipts: Receipts,
        edge: Edge,
        collector: Collector | None,
    ) -> None:
        self.settings = settings
        self.store = store
        self.replicas = replicas
        self.receipts = receipts
        self.edge = edge
        self.collector = collector
        self._watching: dict[str, _Watching] = {}

    def until(self) -> str:
        """When the watch of what goes live now is over."""
        over = datetime.now(UTC) + timedelta(seconds=self.settings.watch)
        return over.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def baseline(
        self, before: Mapping[str, FunctionRecord], after: Collection[Key]
    ) -> list[Watched]:
        """How what is about to be replaced did; empty where nothing is watched."""
        if not self.settings.watch:
            return []
        functions = {key[0] for key in after}
        changed = [
            record.spec
            for function, record in before.items()
            if function in functions and (function, record.spec.revision) not in after
        ]
        did = self.collector.recent(spec.function for spec in changed) if self.collector else {}
        return [
            Watched(name=spec.name, before=did.get(spec.function, Traffic())) for spec in changed
        ]

    def begin(self, release: Release, at: float) -> None:
        """The routes have moved, and the release is live; they were about to ``at`` (monotonic
        time; 0: an earlier controller saw to that)."""
        if release.settled or release.watch is None or release.id in self._watching:
            return
        functions = [f"{each.name}.{release.namespace}" for each in release.watch.functions]
        ends = datetime.fromisoformat(release.watch.until).timestamp()
        half = (time.time() + ends) / 2
        self._watching[release.id] = _Watching(
            release=release,
            ends=ends,
            answers=self.collector.watch(functions, half) if self.collector else None,
            at=at,
        )

    def look(
        self,
        records: Mapping[str, FunctionRecord],
        table: Mapping[str, Route],
        healthy: Mapping[Key, int],
    ) -> bool:
        """One look at each; True if one was taken back, so that the routes have to move."""
        releases = {release.id: release for release in self.store.watched()}
        for id_ in self._watching.keys() - releases.keys():
            self._forget(id_)
        returned = False
        for id_, release in releases.items():
            try:
                if release.settled:
                    self._end(release, records, table)
                self.begin(release, 0.0)  # an earlier controller had begun
                if watching := self._watching.get(id_):
                    returned |= self._look(watching, records, table, healthy)
            except Conflict as error:  # a newer one is about to take its place
                log.info("not_taken_back", release=id_, reason=str(error))
            except (SlipwayError, OSError, ValueError):  # it holds up nobody else's
                log.exception("watch_stuck", release=id_)
        return returned

    def wants(self) -> list[Want]:
        """What is to come back and may have to be started for it."""
        return [
            Want(record.spec, record.replicas)
            for watching in self._watching.values()
            for record in watching.before
        ]

    @property
    def busy(self) -> bool:
        return bool(self._watching)

    # Inside

    def _look(
        self,
        watching: _Watching,
        records: Mapping[str, FunctionRecord],
        table: Mapping[str, Route],
        healthy: Mapping[Key, int],
    ) -> bool:
        release, left = watching.release, watching.ends - time.time()
        if not watching.at:
            self._resume(watching, records, healthy)
        ours = [each for each in self._figures(watching) if self._is_of(release, each, records)]
        if watching.reasons.keys().isdisjoint(each.name for each in ours):
            watching.reasons, watching.before = {}, ()
        if not watching.reasons:
            reasons = breaches(ours) | dict(self._ended(watching, ours, records, table))
            mute = dict(self._mute(watching, ours))
            if left <= 0:
                reasons |= mute
            if reasons:
                watching.reasons = reasons
                watching.before = self.store.replaced_by(release.id)
                watching.patience = time.monotonic() + self.settings.health_timeout
        if watching.reasons:
            return self._take_back(watching, ours, records, healthy)
        if left <= (-RECEIPT_PATIENCE if self.receipts.pending(release.id) else 0.0):
            self.store.keep(release.id, ours)
            failpoints.at("watch-kept")
            self._forget(release.id)
        return False

    def _end(
        self,
        release: Release,
        records: Mapping[str, FunctionRecord],
        table: Mapping[str, Route],
    ) -> None:
        """A return is told once the routes follow it."""
        troubled = self.replicas.troubled()
        before = self.store.replaced_by(release.id)
        if all(follows(record.spec, records, table, troubled) for record in before):
            self.store.end_return(release.id)

    def _take_back(
        self,
        watching: _Watching,
        did: Sequence[Watched],
        records: Mapping[str, FunctionRecord],
        healthy: Mapping[Key, int],
    ) -> bool:
        """What the release left as it was may be ill: that is no reason to stay."""
        release = watching.release
        reason = "; ".join(f"{name}: {why}" for name, why in watching.reasons.items())
        cold = [
            spec
            for record in watching.before
            if record.replicas
            for spec in [record.spec]
            if not healthy.get((spec.function, spec.revision))
            and not _serves(spec, records.get(spec.function))
        ]
        if not cold:
            self.store.take_back(release.id, did, f"taken back: {reason}")
            failpoints.at("given-back")
            log.warning("release_taken_back", release=release.id, reason=reason)
            self._forget(release.id)
            return True
        if time.monotonic() > watching.patience:
            names = ", ".join(spec.name for spec in cold)
            log.warning("not_taken_back", release=release.id, cold=names, reason=reason)
            text = f"it would be taken back: {reason}; but what was before does not start: {names}"
            line = LogLine(time=now(), function="", step="watch", stream="step", text=text)
            self.store.append_log(release.id, [line])
            self.store.keep(release.id, did)
            self._forget(release.id)
        return False

    def _figures(self, watching: _Watching) -> list[Watched]:
        watch = watching.release.watch
        assert watch is not None  # begin() saw to it
        if self.collector is None or watching.answers is None:
            return watch.functions
        did = self.collector.answered(watching.answers)
        space = watching.release.namespace
        return [
            Watched(name=each.name, before=each.before, after=did[f"{each.name}.{space}"])
            for each in watch.functions
        ]

    def _is_of(
        self, release: Release, each: Watched, records: Mapping[str, FunctionRecord]
    ) -> bool:
        """Not rolled back or another repository's by now."""
        record = records.get(f"{each.name}.{release.namespace}")
        return record is not None and record.release == release.id

    def _ended(
        self,
        watching: _Watching,
        functions: Iterable[Watched],
        records: Mapping[str, FunctionRecord],
        table: Mapping[str, Route],
    ) -> Iterable[tuple[str, str]]:
        """Functions without a replica that answers, by their own fault, and why."""
        for each in functions:
            function = f"{each.name}.{watching.release.namespace}"
            record, route = records[function], table.get(function)
            if not record.replicas or (route and route.endpoints):
                continue
            trouble = self.replicas.trouble((function, record.spec.revision))
            if trouble is None or trouble.passing:
                continue
            since = watching.at or watching.lived.get(function)
            if trouble.at > since if since else trouble.failures > record.replicas:
                yield each.name, f"no replica is left: {trouble.reason}"

    def _resume(
        self,
        watching: _Watching,
        records: Mapping[str, FunctionRecord],
        healthy: Mapping[Key, int],
    ) -> None:
        """What a new controller finds dead, the machine may have taken with it: until it has seen
        a function healthy, what is asked of that one does not count."""
        release = watching.release
        for each in self._figures(watching):
            function = f"{each.name}.{release.namespace}"
            if function in watching.lived or not self._is_of(release, each, records):
                continue
            if self.collector and watching.answers:
                self.collector.restart(watching.answers, [function])
            if healthy.get((function, records[function].spec.revision)):
                watching.lived[function] = time.monotonic()

    def _mute(self, watching: _Watching, functions: Iterable[Watched]) -> Iterable[tuple[str, str]]:
        """Functions that have long begun no answer, though they were quick before and several
        requests wait: one may be a slow upload. How long, a look alone does not say: the edge may
        be a new one."""
        quick, now_ = self.settings.watch / 4, time.monotonic()
        since, watching.mute = watching.mute, {}
        for each in functions:
            if each.after.requests or not 0 < each.before.p95_ms < quick * 1000:
                continue
            waiting = self.edge.unanswered(f"{each.name}.{watching.release.namespace}")
            if waiting >= LEAST_ERRORS:
                watching.mute[each.name] = since.get(each.name, now_)
                if now_ - watching.mute[each.name] > quick:
                    yield each.name, f"none of {waiting} requests was answered"

    def _forget(self, id_: str) -> None:
        watching = self._watching.pop(id_)
        if self.collector and watching.answers:
            self.collector.forget(watching.answers)


def _serves(spec: FunctionSpec, held: FunctionRecord | None) -> bool:
    """Whether it is what is desired already."""
    return held is not None and held.spec.revision == spec.revision

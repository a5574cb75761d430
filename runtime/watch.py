"""The watch over a release that has just gone live: where it does worse than what it replaced, what
was there before comes back at once.

Held against the minute before the switch is each function that the release changed, by the requests
that came after the routes moved:

- errors (5xx, or no answer): the lower end of the 95 % interval of their share (Wilson 1927) is
  more than ``MARGIN`` above the share before, and there are at least ``LEAST_ERRORS``;
- time to the first byte: half way through, with at least ``LEAST_REQUESTS`` on both sides, the
  median or the 95th percentile is several times what it was;
- no replica that answers: those that it had have ended, whether anybody asked or not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from core import failpoints, logging
from core.errors import Conflict
from core.models import FunctionRecord, Release, Traffic, Watched
from core.settings import Settings
from core.store import Store
from runtime.edge import Route
from runtime.edge.collector import Collector
from runtime.edge.traffic import Since
from runtime.plan import Key
from runtime.receipts import Receipts
from runtime.replicas import Replicas

LOOK_EVERY = 0.25
"""Seconds between two looks."""
MARGIN = 0.02
LEAST_ERRORS = 3
LEAST_REQUESTS = 20
SLOWER_P50, SLOWER_P95 = (2.0, 50.0), (3.0, 200.0)
"""Times as slow, and milliseconds more besides."""
_Z = 1.96
RECEIPT_PATIENCE = 5.0
"""Seconds that a verdict waits for the receipt, to be told with it."""

log = logging.get()


@dataclass
class _Watching:
    release: Release
    ends: float
    """Unix time."""
    begun: float
    answers: Since | None
    at: float
    """Monotonic time from which a replica's trouble counts."""


class Watch:
    """Of all releases that are watched."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        replicas: Replicas,
        receipts: Receipts,
        collector: Collector | None,
    ) -> None:
        self.settings = settings
        self.store = store
        self.replicas = replicas
        self.receipts = receipts
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

    def begin(self, release: Release) -> None:
        """The routes have moved, and the release is live."""
        if release.settled or release.watch is None or release.id in self._watching:
            return
        functions = [f"{each.name}.{release.namespace}" for each in release.watch.functions]
        self._watching[release.id] = _Watching(
            release=release,
            ends=datetime.fromisoformat(release.watch.until).timestamp(),
            begun=time.time(),
            answers=self.collector.watch(functions) if self.collector else None,
            at=time.monotonic(),
        )

    def look(self, records: Mapping[str, FunctionRecord], table: Mapping[str, Route]) -> bool:
        """One look at each; True if one was taken back, so that the routes have to move."""
        releases = {release.id: release for release in self.store.watched()}
        for id_ in self._watching.keys() - releases.keys():
            self._forget(id_)
        returned = False
        for id_, release in releases.items():
            self.begin(release)  # an earlier controller had begun
            if id_ in self._watching:
                returned |= self._look(self._watching[id_], records, table)
        return returned

    @property
    def busy(self) -> bool:
        return bool(self._watching)

    # Inside

    def _look(
        self,
        watching: _Watching,
        records: Mapping[str, FunctionRecord],
        table: Mapping[str, Route],
    ) -> bool:
        release = watching.release
        did = self._figures(watching)
        late = time.time() > (watching.begun + watching.ends) / 2
        reasons = [*self._ended(watching, records, table), *breaches(did, slow=late)]
        if reasons:
            reason = f"taken back: {'; '.join(reasons)}"
            try:
                self.store.take_back(release.id, did, reason)
            except Conflict as error:  # a newer one is about to take its place
                log.info("not_taken_back", release=release.id, reason=str(error))
                return False
            failpoints.at("given-back")
            log.warning("release_taken_back", release=release.id, reason=reason)
            self._forget(release.id)
            return True
        over = time.time() - watching.ends
        if over > (RECEIPT_PATIENCE if self.receipts.pending(release.id) else 0.0):
            self.store.keep(release.id, did)
            failpoints.at("watch-kept")
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

    def _ended(
        self,
        watching: _Watching,
        records: Mapping[str, FunctionRecord],
        table: Mapping[str, Route],
    ) -> Iterable[str]:
        """Of functions without a replica that answers, why."""
        release = watching.release
        for each in release.watch.functions if release.watch else ():
            function = f"{each.name}.{release.namespace}"
            record = records.get(function)
            if record is None or record.release != release.id or not record.replicas:
                continue
            if (route := table.get(function)) and route.endpoints:
                continue
            trouble = self.replicas.trouble((function, record.spec.revision))
            if trouble and trouble.at > watching.at and not trouble.passing:
                yield f"{each.name}: no replica is left: {trouble.reason}"

    def _forget(self, id_: str) -> None:
        watching = self._watching.pop(id_)
        if self.collector and watching.answers:
            self.collector.forget(watching.answers)


def breaches(functions: Sequence[Watched], *, slow: bool) -> list[str]:
    """Why these functions do worse than before, with the figures; ``slow``: their times count."""
    told = []
    for each in functions:
        before, after = each.before, each.after
        share = before.errors / before.requests if before.requests else 0.0
        if after.errors >= LEAST_ERRORS and _at_least(after) > share + MARGIN:
            told.append(
                f"{each.name}: {after.errors} of {after.requests} requests failed "
                f"({_percent(after)}; before {before.errors} of {before.requests})"
            )
        elif slow and min(before.requests, after.requests) >= LEAST_REQUESTS:
            if _slower(before.p50_ms, after.p50_ms, *SLOWER_P50):
                told.append(f"{each.name}: half of the answers take {_times(each, 'p50_ms')}")
            elif _slower(before.p95_ms, after.p95_ms, *SLOWER_P95):
                told.append(f"{each.name}: one answer in twenty takes {_times(each, 'p95_ms')}")
    return told


def _at_least(did: Traffic) -> float:
    """Lower end of the Wilson score interval of the share of errors."""
    n, share, z2 = did.requests, did.errors / did.requests, _Z * _Z
    spread = _Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return (share + z2 / (2 * n) - spread) / (1 + z2 / n)


def _percent(did: Traffic) -> str:
    return f"{100 * did.errors / did.requests:.1f} %"


def _slower(before: float, after: float, times: float, more: float) -> bool:
    return after > before * times + more


def _times(each: Watched, which: str) -> str:
    before, after = getattr(each.before, which), getattr(each.after, which)
    return f"over {after:.0f} ms ({each.after.requests} requests; before {before:.0f} ms)"

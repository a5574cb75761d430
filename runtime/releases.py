"""Releases in staging: when all their replicas are healthy they become the desired state, and once
the routes follow they are live. What cannot become healthy fails the release; what was live stays.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence

from core import failpoints, logging
from core.errors import Conflict, SlipwayError
from core.models import Artifact, FunctionRecord, LogLine, Release, State, now
from core.settings import Settings
from core.store import Store, of_repository, repository_key
from runtime.edge import Route
from runtime.plan import Key, follows, replicas
from runtime.providers import Provider
from runtime.receipts import Receipts, replaced
from runtime.replicas import Replicas, Trouble
from runtime.watch import Watch

FAILED_LINES = 50
"""Lines of a function's own log that a failed release shows."""

log = logging.get()


class Releases:
    """The last part of a release's way, from ``staging`` to ``live`` or ``failed``."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        provider: Provider,
        replicas: Replicas,
        receipts: Receipts,
        watch: Watch,
    ) -> None:
        self.settings = settings
        self.store = store
        self.provider = provider
        self.replicas = replicas
        self.receipts = receipts
        self.watch = watch
        self._seen: dict[str, float] = {}
        """When each release in staging was first seen: monotonic time."""
        self._switched_at: dict[str, float] = {}
        self.given_up: set[str] = set()
        """What ``advance`` found to be staged no more."""

    def staged(self) -> dict[str, list[Artifact]]:
        """Artifacts of every release in staging, oldest release first."""
        return {release.id: self.store.artifacts(release.id) for release in self.store.staging()}

    def advance(
        self,
        staged: Mapping[str, list[Artifact]],
        records: Mapping[str, FunctionRecord],
        healthy: Mapping[Key, int],
        rolling: Collection[str] = (),
    ) -> bool:
        """Switches what is ready and fails what cannot be; True if the desired state changed.

        ``healthy``: so many replicas of each revision. ``rolling``: repositories whose routes
        follow a rollback just now; what it replaced is not known before it is done.
        """
        changed = False
        self.given_up = set()
        self._seen = {id_: self._seen.get(id_, time.monotonic()) for id_ in staged}
        self._switched_at = {id_: at for id_, at in self._switched_at.items() if id_ in staged}
        for id_, artifacts in staged.items():
            try:
                changed |= self._advance(id_, artifacts, records, healthy, rolling)
            except (SlipwayError, OSError, ValueError):  # it holds up nobody else's release
                log.exception("release_stuck", release=id_)
        return changed

    def _advance(
        self,
        id_: str,
        artifacts: list[Artifact],
        records: Mapping[str, FunctionRecord],
        healthy: Mapping[Key, int],
        rolling: Collection[str],
    ) -> bool:
        """One release's step. Only what it changes has to be healthy: what is live already may be
        restarting just now, and is healed whatever becomes of the release."""
        if self.store.switched(id_):
            return False
        missing = [
            a
            for a in artifacts
            if healthy.get(_key(a), 0) < replicas(a.spec) and not _is_live(a, records)
        ]
        failed = {
            a.name: (a, trouble)
            for a in missing
            if (trouble := self.replicas.trouble(_key(a)))
            and self.replicas.counts(trouble, self._seen[id_])
        }
        if failed:
            self._fail(id_, [failed[name] for name in sorted(failed)])
            return False
        if missing or (rolling and repository_key(self.store.release(id_)) in rolling):
            return False
        return self._switch(id_, artifacts, records)

    def finish(
        self,
        staged: Mapping[str, list[Artifact]],
        records: Mapping[str, FunctionRecord],
        table: Mapping[str, Route],
    ) -> None:
        """Calls live what the routes, which were just applied, follow."""
        for id_, artifacts in staged.items():
            try:
                changed = self.store.switched(id_)
                troubled = self.replicas.troubled()
                if changed is not None and all(
                    follows(a.spec, records, table, troubled)
                    for a in artifacts
                    if a.name in changed
                ):
                    self._finish(id_)
            except Conflict:
                continue
            except (SlipwayError, OSError, ValueError):
                log.exception("release_stuck", release=id_)

    def _finish(self, id_: str) -> None:
        url = self.store.functions_url(self.settings, self.store.release(id_).namespace)
        done = self.store.finish(id_, url, self.watch.until())
        if not done.settled:
            line = f"live; watched for {self.settings.watch:g} s"
            self.store.append_log(id_, [_step("", "watch", line)])
        self.watch.begin(done, self._switched_at.pop(id_, 0.0))
        failpoints.at("live-said")
        log.info("release_live", release=id_)

    def _switch(
        self, id_: str, artifacts: list[Artifact], records: Mapping[str, FunctionRecord]
    ) -> bool:
        release = self.store.release(id_)
        after = {_key(a) for a in artifacts}
        functions = {a.spec.function for a in artifacts}
        before = of_repository(records, release.namespace, release.repository, functions)
        old = replaced(self.provider.instances(), before, after)
        self.receipts.begin(id_, functions | before.keys(), old)
        self._switched_at[id_] = time.monotonic()
        try:
            self.store.switch(
                id_,
                lambda artifact: replicas(artifact.spec),
                warm=self.settings.warm,
                watched=self.watch.baseline(before, after),
            )
        except Conflict as error:
            self.receipts.drop(id_)
            self._give_up(id_, str(error))
            return False
        failpoints.at("switched")
        return True

    def _fail(self, id_: str, failed: Sequence[tuple[Artifact, Trouble]]) -> None:
        release = self.store.release(id_)
        wrote = [self._show_log(release, artifact) for artifact, _ in failed]
        told = "; ".join(f"{artifact.name} {trouble.reason}" for artifact, trouble in failed)
        if any(wrote):
            told += "; what it wrote last is in the release's log"
        failpoints.at("failing-start")
        self._give_up(id_, told)

    def _give_up(self, id_: str, reason: str) -> None:
        self.given_up.add(id_)
        try:
            self.store.move(id_, [State.STAGING], State.FAILED, reason)
        except Conflict:  # decided meanwhile: that stands
            return
        log.info("release_failed", release=id_, reason=reason)

    def _show_log(self, release: Release, artifact: Artifact) -> bool:
        """Copies the last lines of the revision that failed; tells whether there were any."""
        ours = f"{artifact.spec.function}-{artifact.spec.revision}-"
        wrote = deque(
            (
                line
                for line in self.provider.logs(artifact.spec.function)
                if line.instance.startswith(ours)  # not what the live revision writes
            ),
            maxlen=FAILED_LINES,
        )
        name = artifact.name
        self.store.append_log(
            release.id,
            [_step(name, "start", "failed")]
            + [
                LogLine(
                    time=line.time, function=name, step="start", stream="stderr", text=line.text
                )
                for line in wrote
            ],
        )
        return bool(wrote)


def _step(function: str, step: str, text: str) -> LogLine:
    return LogLine(time=now(), function=function, step=step, stream="step", text=text)


def _is_live(artifact: Artifact, records: Mapping[str, FunctionRecord]) -> bool:
    record = records.get(artifact.spec.function)
    return record is not None and record.spec.revision == artifact.spec.revision


def _key(artifact: Artifact) -> Key:
    return artifact.spec.function, artifact.spec.revision

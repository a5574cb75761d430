"""The desired state of a repository is rewritten in one transaction: by a release, and by its
return where it does worse than what it replaced.

What is replaced is not forgotten: its revisions can be rolled back to (``rollbacks``), go on
running for a while (``keys.WARM``), and until the verdict of the watch the records lie beside the
release, as they were.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

import msgspec
from redis.client import Pipeline

from core import keys
from core.errors import Conflict, NotFound
from core.models import (
    Artifact,
    Build,
    FunctionRecord,
    FunctionRow,
    Release,
    Rollback,
    RollbackState,
    State,
    Verdict,
    Warm,
    Watch,
    Watched,
    now,
)
from core.names import function_url
from core.store.base import decided, encode, moved, repository_key, text
from core.store.environments import note_environments
from core.store.staging import Staging, takes

_RECORDS = list[FunctionRecord]


class Switching(Staging):
    def switch(
        self,
        id_: str,
        replicas: Callable[[Artifact], int],
        *,
        warm: float = 0.0,
        watched: Sequence[Watched] = (),
    ) -> Release:
        """Makes a staged release the desired state of its repository, functions removed included.

        ``warm``: seconds that what it replaces goes on running. ``watched``: how what it replaces
        did; where there is any, the release is watched once it is live.

        Repeating it changes nothing. Raises Conflict where the release was decided otherwise.
        """

        def change(pipe: Pipeline) -> Release:
            release = self.release(id_)
            if release.state is not State.STAGING:
                raise Conflict(decided(release))
            if pipe.hget(keys.release(id_), "switched"):
                pipe.multi()
                return release
            artifacts = self.artifacts(id_)
            functions = self.functions()
            self.check_claims(release, takes(artifacts))
            others = self._others_switched(release)
            said = {each.id: _environments(pipe, each.id) for each in others}
            was_live = self.live_release(repository_key(release))
            last = self.release(was_live) if others and was_live else None
            last = last if last and last.state is State.LIVE else None
            specs = {artifact.spec.function: artifact.spec for artifact in artifacts}
            before = of_repository(functions, release.namespace, release.repository, specs)
            changed = [
                artifact.name
                for artifact in artifacts
                if (held := before.get(artifact.spec.function)) is None
                or held.spec.revision != artifact.spec.revision
            ]
            dropped = [record.spec for function, record in before.items() if function not in specs]
            after = {
                artifact.spec.function: FunctionRecord(
                    spec=artifact.spec,
                    release=id_,
                    replicas=replicas(artifact),
                    created_at=held.created_at if held else now(),
                )
                for artifact in artifacts
                for held in [before.get(artifact.spec.function)]
            }
            pipe.multi()
            for other in others:  # the edge was away: they were live in all but name
                if last:
                    self._displace(
                        pipe,
                        last,
                        State.REPLACED,
                        f"{other.id} took its place",
                        end=last.state is State.LIVE,
                    )
                self._write(pipe, moved(other, State.LIVE, ""))
                pipe.set(keys.live(repository_key(release)), other.id)
                if (wanted := said[other.id]) is not None:
                    note_environments(pipe, repository_key(release), wanted)
                last = other
            if others and last:  # its log was ended just now
                self._displace(pipe, last, State.REPLACED, f"{id_} took its place", end=False)
            self._put_records(pipe, before, after, warm)
            for spec in dropped:
                row = FunctionRow(
                    name=spec.name, key=spec.key, build=Build.REMOVED, artifact=spec.artifact
                )
                pipe.hset(keys.rows(id_), spec.name, encode(row))
            kept = {f"{spec.name}@{spec.revision}": encode(spec) for spec in specs.values()}
            if kept:
                pipe.hset(keys.revisions(repository_key(release)), mapping=dict(kept.items()))
            revisions = {spec.name: spec.revision for spec in specs.values()}
            told = {"switched": encode(changed), "revisions": encode(revisions)}
            if watched:
                told["before"] = encode(list(before.values()))
                watch = Watch(verdict=Verdict.WATCHING, until="", functions=list(watched))
                release = msgspec.structs.replace(release, watch=watch)
                self._write(pipe, release)
            pipe.hset(keys.release(id_), mapping=dict(told.items()))
            return release

        return self._transaction(change, keys.release(id_), keys.FUNCTIONS, keys.STAGING)

    def finish(self, id_: str, url: str, watch_until: str = "") -> Release:
        """Marks a switched release live and the one before it replaced.

        ``url``: ``Store.functions_url``. ``watch_until``: when its watch is over, where it has
        one: RFC 3339.
        """

        def change(pipe: Pipeline) -> Release:
            release = self.release(id_)
            if release.state is not State.STAGING:
                raise Conflict(decided(release))
            key = repository_key(release)
            before = text(pipe.get(keys.live(key)))
            last = self.release(before) if before and before != id_ else None
            wanted = _environments(pipe, id_)
            pipe.multi()
            if wanted is not None:
                note_environments(pipe, key, wanted)
            if last and last.state is State.LIVE:
                self._displace(pipe, last, State.REPLACED, f"{id_} took its place")
            if rows := {
                row.name: encode(
                    msgspec.structs.replace(row, url=function_url(url, row.name, release.namespace))
                )
                for row in release.functions
                if row.build is not Build.REMOVED
            }:
                pipe.hset(keys.rows(id_), mapping=dict(rows.items()))
            pipe.set(keys.live(key), id_)
            done = moved(release, State.LIVE, "")
            if done.watch:
                watch = msgspec.structs.replace(done.watch, until=watch_until or now())
                done = msgspec.structs.replace(done, watch=watch)
                pipe.sadd(keys.WATCHED, id_)
                pipe.hset(keys.release(id_), "instead", before)
            self._write(pipe, done, end=done.watch is None)
            return done

        return self._transaction(change, keys.release(id_), keys.FUNCTIONS, keys.WATCHED)

    # The watch

    def watched(self) -> list[Release]:
        """Releases that are live and have no verdict yet, and those whose return the routes do not
        follow yet."""
        ids = cast("set[bytes]", self.redis.smembers(keys.WATCHED))
        return self._present(keys.WATCHED, sorted(ids))

    def replaced_by(self, id_: str) -> list[FunctionRecord]:
        """What a watched release replaced: the desired state that it would be taken back to."""
        raw = self.redis.hget(keys.release(id_), "before")
        return [] if raw is None else msgspec.json.decode(cast(bytes, raw), type=_RECORDS)

    def keep(self, id_: str, functions: Sequence[Watched]) -> None:
        """A watched release stays; ``functions``: how they did. Does nothing where it was decided
        already."""

        def change(pipe: Pipeline) -> None:
            release = self.release(id_)
            pipe.multi()
            if not release.settled:
                watch = _judged(release.watch, Verdict.KEPT, functions)
                self._end_watch(pipe, id_)
                self._write(pipe, msgspec.structs.replace(release, watch=watch))

        self._transaction(change, keys.release(id_), keys.WATCHED)

    def take_back(self, id_: str, functions: Sequence[Watched], reason: str) -> Release:
        """Takes a watched release back: what it replaced is desired again, all of it at once, and
        the release before it is live again. Its log ends once the routes follow: ``end_return``.

        Raises:
            Conflict: it is not watched any more, a newer one is going live, or nothing is its own
                any more.
        """

        def change(pipe: Pipeline) -> Release:
            release = self.release(id_)
            if release.settled or release.state is not State.LIVE:
                raise Conflict(decided(release))
            if newer := self._others_switched(release):
                raise Conflict(f"{newer[0].id} is taking its place already")
            key = repository_key(release)
            for rolling in self.rolling():
                if rolling.key == key and rolling.state is RollbackState.SWITCHED:
                    raise Conflict(f"{rolling.id} is taking its place already")
            before = {record.spec.function: record for record in self.replaced_by(id_)}
            functions_now = self.functions()
            all_ours = of_repository(functions_now, release.namespace, release.repository)
            # Not what a rollback has set since.
            ours = {f: record for f, record in all_ours.items() if record.release == id_}
            if not ours:
                raise Conflict("nothing of it serves any more")
            after = {
                function: _as_scaled(record, functions_now.get(function))
                for function, record in before.items()
                if function in ours or function not in functions_now
            }
            last = self._instead(pipe, id_)
            pipe.multi()
            self._put_records(pipe, ours, after, 0.0)
            pipe.hdel(keys.WARM, *ours, *after)
            if last:
                back = msgspec.structs.replace(
                    last, reason=f"{id_} was taken back", state=State.LIVE
                )
                self._write(pipe, back, end=False)
                pipe.set(keys.live(key), last.id)
            else:
                pipe.delete(keys.live(key))
            watch = _judged(release.watch, Verdict.RETURNED, functions)
            release = msgspec.structs.replace(release, watch=watch)
            done = moved(release, State.ROLLED_BACK, reason)
            self._write(pipe, done, end=False)
            return done

        watched = (keys.FUNCTIONS, keys.WATCHED, keys.STAGING, keys.ROLLBACKS)
        return self._transaction(change, keys.release(id_), *watched)

    def end_return(self, id_: str) -> None:
        """The routes follow a release's return, or what came after it. Repeating it changes
        nothing."""

        def change(pipe: Pipeline) -> None:
            release = self.release(id_)
            open_ = pipe.sismember(keys.WATCHED, id_)
            pipe.multi()
            if open_ and release.settled:
                self._end_watch(pipe, id_)
                self._write(pipe, release)

        self._transaction(change, keys.release(id_), keys.WATCHED)

    # Rollbacks under way

    def rollback(self, id_: str) -> Rollback:
        """Raises NotFound."""
        raw = self.redis.hget(keys.ROLLBACKS, id_)
        if raw is None:
            raise no_rollback(id_)
        return msgspec.json.decode(cast(bytes, raw), type=Rollback)

    def rolling(self) -> list[Rollback]:
        """Those under way, oldest first."""
        found = []
        for id_ in cast("set[bytes]", self.redis.smembers(keys.ROLLING)):
            try:
                found.append(self.rollback(text(id_)))
            except NotFound:  # one without a record holds up nobody
                self.redis.srem(keys.ROLLING, id_)
        return sorted(found, key=lambda each: int(each.id[1:]))

    # What goes on running

    def warm(self) -> dict[str, Warm]:
        """Function → what it was before, while that goes on running."""
        rows = cast("dict[bytes, bytes]", self.redis.hgetall(keys.WARM))
        return {text(k): msgspec.json.decode(v, type=Warm) for k, v in rows.items()}

    def cool(self, functions: Iterable[str]) -> None:
        """Their time is over."""
        self.redis.hdel(keys.WARM, *functions)

    def revisions(self, id_: str) -> dict[str, str]:
        """Function → revision of a release that was live; empty if nothing is kept of it."""
        raw = self.redis.hget(keys.release(id_), "revisions")
        return {} if raw is None else msgspec.json.decode(cast(bytes, raw), type=dict[str, str])

    # Inside

    def _others_switched(self, release: Release) -> list[Release]:
        """Releases of the same repository that are live in all but name."""
        return [
            other
            for other in self.staging()
            if repository_key(other) == repository_key(release)
            and other.id != release.id
            and self.switched(other.id) is not None
        ]

    @staticmethod
    def _put_records(
        pipe: Pipeline,
        before: Mapping[str, FunctionRecord],
        after: Mapping[str, FunctionRecord],
        warm: float,
    ) -> None:
        """Writes the records ``after`` in the place of those ``before``."""
        until = time.time() + warm
        if after:
            rows = {function: encode(record) for function, record in after.items()}
            pipe.hset(keys.FUNCTIONS, mapping=dict(rows.items()))
        for function in before.keys() - after.keys():
            pipe.hdel(keys.FUNCTIONS, function)
        for function, record in before.items():
            now_ = after.get(function)
            if (
                warm
                and record.replicas
                and not (now_ and now_.spec.revision == record.spec.revision)
            ):
                kept = Warm(spec=record.spec, revision=record.spec.revision, until=until)
                pipe.hset(keys.WARM, function, encode(kept))

    def _displace(
        self, pipe: Pipeline, last: Release, to: State, reason: str, *, end: bool = True
    ) -> None:
        """The release that was live is so no more; a watch of it ends, and with it its log."""
        watching = not last.settled
        last = msgspec.structs.replace(last, watch=_judged(last.watch, Verdict.ENDED))
        self._end_watch(pipe, last.id)
        self._write(pipe, moved(last, to, reason), end=watching and end)

    @staticmethod
    def _end_watch(pipe: Pipeline, id_: str) -> None:
        pipe.srem(keys.WATCHED, id_)
        pipe.hdel(keys.release(id_), "before", "instead")

    def _instead(self, pipe: Pipeline, id_: str) -> Release | None:
        before = text(pipe.hget(keys.release(id_), "instead"))
        return self.release(before) if before else None


def _environments(pipe: Pipeline, id_: str) -> dict[str, str] | None:
    """Those that a release names → their branches; None: it is not for it to say."""
    raw = cast("bytes | None", pipe.hget(keys.release(id_), "environments"))
    return None if raw is None else msgspec.json.decode(raw, type=dict[str, str])


def of_repository(
    functions: Mapping[str, FunctionRecord],
    namespace: str,
    repository: str,
    taken: Iterable[str] = (),
) -> dict[str, FunctionRecord]:
    """What a change of a repository may replace: its functions, and those that it takes over."""
    wanted = set(taken)
    return {
        function: record
        for function, record in functions.items()
        if function in wanted
        or (record.spec.namespace, record.repository) == (namespace, repository)
    }


def _as_scaled(record: FunctionRecord, now_: FunctionRecord | None) -> FunctionRecord:
    """As it was, but for what was scaled meanwhile."""
    if now_ is None or now_.spec.revision != record.spec.revision:
        return record
    return msgspec.structs.replace(record, replicas=now_.replicas)


def _judged(
    watch: Watch | None, verdict: Verdict, functions: Sequence[Watched] = ()
) -> Watch | None:
    if watch is None or watch.verdict is not Verdict.WATCHING:
        return watch
    return msgspec.structs.replace(
        watch, verdict=verdict, functions=list(functions) or watch.functions
    )


def no_rollback(id_: str) -> NotFound:
    return NotFound(f"there is no rollback {id_!r}: see GET /system/rollbacks")

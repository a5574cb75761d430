"""Going live: a commit's artifacts are handed over, become the desired state, and then the release.

The last two are separate steps, so that a release is called live only once the routes follow the
desired state; a controller that dies in between finds ``switched`` set and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import cast

import msgspec
from redis.client import Pipeline

from core import keys
from core.errors import Conflict
from core.models import (
    Artifact,
    Build,
    FunctionRecord,
    FunctionRow,
    Receipt,
    Release,
    State,
    now,
)
from core.names import function_url, join_function
from core.store.base import decided, encode, moved, repository_key, text
from core.store.functions import Functions
from core.store.releases import Releases


class Staging(Releases, Functions):
    def put_artifacts(self, id_: str, commit: str, artifacts: Sequence[Artifact]) -> Release:
        """Hands a built commit over for staging: all its functions at once. Idempotent.

        Raises:
            Conflict: another commit, superseded or cancelled meanwhile, or a function's name
                belongs to another repository.
        """
        body = encode(list(artifacts))

        def change(pipe: Pipeline) -> Release:
            release = self.release(id_)
            if release.commit != commit:
                raise Conflict(f"{id_} is of commit {release.commit}, not {commit}")
            key = repository_key(release)
            stored = pipe.hget(keys.release(id_), "artifacts")
            if stored == body and release.state in (State.STAGING, State.LIVE):
                pipe.multi()
                return release
            if release.state not in (State.BUILDING, State.TESTING):
                raise Conflict(decided(release))
            self.check_claims(release, [artifact.name for artifact in artifacts])
            newer, older = self._others_in_staging(release)
            if newer:
                raise Conflict(f"{newer.id} of the same repository is newer and came first")
            pipe.multi()
            for other in older:
                self._write(pipe, moved(other, State.SUPERSEDED, f"{id_} came after it"))
            staged = moved(release, State.STAGING, "")
            self._write(pipe, staged)
            pipe.hset(keys.release(id_), "artifacts", body)
            pipe.delete(keys.turn(key))
            return staged

        return self._transaction(change, keys.release(id_), keys.FUNCTIONS, keys.STAGING)

    def staging(self) -> list[Release]:
        """Releases in state ``staging``, oldest first."""
        ids = cast("set[bytes]", self.redis.smembers(keys.STAGING))
        releases = [self.release(text(id_)) for id_ in ids]
        return sorted((r for r in releases if r.state is State.STAGING), key=lambda r: r.number)

    def artifacts(self, id_: str) -> list[Artifact]:
        raw = self.redis.hget(keys.release(id_), "artifacts")
        return [] if raw is None else msgspec.json.decode(cast(bytes, raw), type=list[Artifact])

    def switch(self, id_: str, replicas: Callable[[Artifact], int]) -> Release:
        """Makes a staged release the desired state of its repository, functions removed included.

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
            self.check_claims(release, [artifact.name for artifact in artifacts])
            live_in_all_but_name = [
                other
                for other in self.staging()
                if repository_key(other) == repository_key(release)
                and other.id != id_
                and self.switched(other.id) is not None
            ]
            changed = [
                artifact.name
                for artifact in artifacts
                if (before := functions.get(artifact.spec.function)) is None
                or before.spec.revision != artifact.spec.revision
            ]
            wanted = {artifact.spec.function for artifact in artifacts}
            dropped = [
                record.spec
                for function, record in functions.items()
                if record.repository == release.repository
                and record.spec.namespace == release.namespace
                and function not in wanted
            ]
            pipe.multi()
            for other in live_in_all_but_name:  # the edge was away: its push has waited until now
                self._write(pipe, moved(other, State.LIVE, ""))
                after = moved(other, State.REPLACED, f"{id_} took its place")
                self._write(pipe, after, end=False)
            for artifact in artifacts:
                before = functions.get(artifact.spec.function)
                record = FunctionRecord(
                    spec=artifact.spec,
                    release=id_,
                    replicas=replicas(artifact),
                    created_at=before.created_at if before else now(),
                )
                pipe.hset(keys.FUNCTIONS, artifact.spec.function, encode(record))
            for spec in dropped:
                pipe.hdel(keys.FUNCTIONS, spec.function)
                row = FunctionRow(
                    name=spec.name, key=spec.key, build=Build.REMOVED, artifact=spec.artifact
                )
                pipe.hset(keys.rows(id_), spec.name, encode(row))
            pipe.hset(keys.release(id_), "switched", encode(changed))
            return release

        return self._transaction(change, keys.release(id_), keys.FUNCTIONS, keys.STAGING)

    def cancel(self, id_: str, reason: str) -> Release:
        """Takes back a release that is not the desired state yet.

        Raises:
            Conflict: it is, or it was decided.
            NotFound: there is no such release.
        """

        def change(pipe: Pipeline) -> Release:
            release = self.release(id_)
            if release.state.final:
                raise Conflict(decided(release))
            if pipe.hget(keys.release(id_), "switched"):
                raise Conflict(f"{id_} is going live already: push what you want instead")
            key = repository_key(release)
            has_turn = text(pipe.get(keys.turn(key))) == id_
            waits = text(pipe.get(keys.waiting(key))) == id_
            pipe.multi()
            done = moved(release, State.CANCELLED, reason)
            self._write(pipe, done)
            if has_turn:
                pipe.delete(keys.turn(key))
            if waits:
                pipe.delete(keys.waiting(key))
            return done

        release = self.release(id_)
        key = repository_key(release)
        return self._transaction(change, keys.release(id_), keys.turn(key), keys.waiting(key))

    def switched(self, id_: str) -> set[str] | None:
        """Names of the functions that a release changed; None: it is not the desired state yet."""
        raw = self.redis.hget(keys.release(id_), "switched")
        return None if raw is None else msgspec.json.decode(cast(bytes, raw), type=set[str])

    def finish(self, id_: str, url: str) -> Release:
        """Marks a switched release live and the one before it replaced.

        ``url``: ``Settings.functions_url``.
        """

        def change(pipe: Pipeline) -> Release:
            release = self.release(id_)
            if release.state is not State.STAGING:
                raise Conflict(decided(release))
            key = repository_key(release)
            before = text(pipe.get(keys.live(key)))
            last = self.release(before) if before and before != id_ else None
            pipe.multi()
            if last and last.state is State.LIVE:
                self._write(pipe, moved(last, State.REPLACED, f"{id_} took its place"), end=False)
            for row in release.functions:
                if row.build is not Build.REMOVED:
                    its_url = function_url(url, row.name, release.namespace)
                    told = msgspec.structs.replace(row, url=its_url)
                    pipe.hset(keys.rows(id_), row.name, encode(told))
            pipe.set(keys.live(key), id_)
            done = moved(release, State.LIVE, "")
            self._write(pipe, done)
            return done

        return self._transaction(change, keys.release(id_), keys.FUNCTIONS)

    def save_receipt(self, id_: str, receipt: Receipt) -> None:
        """Writes the receipt of a release that went live, whatever became of it since."""

        def change(pipe: Pipeline) -> None:
            release = self.release(id_)
            pipe.multi()
            doc = msgspec.structs.replace(release, receipt=receipt, functions=[])
            pipe.hset(keys.release(id_), "doc", encode(doc))

        self._transaction(change, keys.release(id_))

    # Inside

    def check_claims(self, release: Release, names: Iterable[str]) -> None:
        """Raises Conflict, naming the holder, where a function of these names is another's."""
        functions = self.functions()
        for name in names:
            held = functions.get(join_function(name, release.namespace))
            if held and held.repository != release.repository:
                if not held.repository:
                    raise Conflict(
                        f"the function {name} of {release.namespace} was deployed by API: delete "
                        f"it first ('slipway remove {name}.{release.namespace}'), or rename yours"
                    )
                raise Conflict(
                    f"the function {name} of {release.namespace} belongs to the repository "
                    f"{release.namespace}/{held.repository}: rename yours, or remove it there first"
                )

    def _others_in_staging(self, release: Release) -> tuple[Release | None, list[Release]]:
        """(a newer one of the same repository that is staged or live, older staged ones)."""
        key = repository_key(release)
        staged = [r for r in self.staging() if repository_key(r) == key and r.id != release.id]
        newer = next((r for r in staged if r.number > release.number), None)
        live = self.live_release(key)
        if not newer and live and (found := self.release(live)).number > release.number:
            newer = found
        older = [r for r in staged if r.number < release.number]
        return newer, [r for r in older if self.switched(r.id) is None]  # else live but in name

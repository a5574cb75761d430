"""A built commit waits for its functions to be healthy: it is in staging.

Becoming the desired state and being called live are separate steps (``switching``), so that a
release is called live only once the routes follow the desired state; a controller that dies in
between finds ``switched`` set and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import cast

import msgspec
from redis.client import Pipeline

from core import keys
from core.errors import Conflict
from core.models import (
    Artifact,
    Release,
    State,
)
from core.names import TAKES_OVER, join_function
from core.store.base import decided, encode, moved, repository_key, text
from core.store.functions import Functions
from core.store.releases import Releases


class Staging(Releases, Functions):
    def put_artifacts(
        self,
        id_: str,
        commit: str,
        artifacts: Sequence[Artifact],
        check: Callable[[], object] = lambda: None,
        environments: Mapping[str, str] | None = None,
    ) -> Release:
        """Hands a built commit over for staging: all its functions at once. Idempotent.

        ``check`` is called last, and may refuse by raising: nothing is staged or deployed between.
        ``environments``: name → branch of those that its repository has once it is live; None: that
        is not for this release to say.

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
            self.check_claims(release, takes(artifacts))
            newer, older = self._others_in_staging(release)
            if newer:
                raise Conflict(f"{newer.id} of the same repository is newer and came first")
            check()
            pipe.multi()
            for other in older:
                self._write(pipe, moved(other, State.SUPERSEDED, f"{id_} came after it"))
            staged = moved(release, State.STAGING, "")
            self._write(pipe, staged)
            pipe.hset(keys.release(id_), "artifacts", body)
            if environments is not None:
                pipe.hset(keys.release(id_), "environments", encode(dict(environments)))
            pipe.delete(keys.turn(key))
            return staged

        watched = (keys.FUNCTIONS, keys.STAGING, keys.ROLLING, keys.POLICY)
        return self._transaction(change, keys.release(id_), *watched)

    def staging(self) -> list[Release]:
        """Releases in state ``staging``, oldest first."""
        ids = cast("set[bytes]", self.redis.smembers(keys.STAGING))
        releases = self._present(keys.STAGING, ids)
        return sorted((r for r in releases if r.state is State.STAGING), key=lambda r: r.number)

    def artifacts(self, id_: str) -> list[Artifact]:
        raw = self.redis.hget(keys.release(id_), "artifacts")
        return [] if raw is None else msgspec.json.decode(cast(bytes, raw), type=list[Artifact])

    def cancel(self, id_: str, reason: str) -> Release:
        """Takes back a release that is not the desired state yet.

        Raises:
            Conflict: it is, or it was decided.
            NotFound: there is no such release.
        """

        def change(pipe: Pipeline) -> Release:
            release = self.release(id_)
            key = repository_key(release)
            going = release.state is State.STAGING and pipe.hget(keys.release(id_), "switched")
            if going or release.state is State.LIVE:
                told = f"{id_} is {'going live' if going else 'live'} already"
                raise Conflict(f"{told}: take it back with 'slipway rollback {key}'")
            if release.state.final:
                raise Conflict(decided(release))
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

    def under_way(self, repository: str) -> list[Release]:
        """Releases of a repository that are not decided."""
        space, _, name = repository.partition("/")
        newest = self.releases(space, name, limit=20)
        return [each for each in newest if not each.state.final]

    def call_off(self, repository: str, reason: str) -> None:
        """Takes back all that is under way of a repository, but what is the desired state."""
        for release in self.under_way(repository):
            with suppress(Conflict):  # it was decided just now
                self.cancel(release.id, reason)

    def switched(self, id_: str) -> set[str] | None:
        """Names of the functions that a release changed; None: it is not the desired state yet."""
        raw = self.redis.hget(keys.release(id_), "switched")
        return None if raw is None else msgspec.json.decode(cast(bytes, raw), type=set[str])

    # Inside

    def check_claims(self, release: Release, wanted: Mapping[str, str]) -> None:
        """Raises Conflict, naming the holder, where a function is another's.

        ``wanted``: function's name → the repository of the same owner that it may be taken from,
        or empty.
        """
        functions = self.functions()
        for name, taken_from in wanted.items():
            held = functions.get(join_function(name, release.namespace))
            if not held or held.repository == release.repository:
                continue
            if not (held.repository and held.repository == taken_from):
                if not held.repository:
                    raise Conflict(
                        f"the function {name} of {release.namespace} was deployed by API: delete "
                        f"it first ('slipway remove {name}.{release.namespace}'), or rename yours"
                    )
                raise Conflict(
                    f"the function {name} of {release.namespace} belongs to the repository "
                    f"{release.namespace}/{held.repository}: rename yours, remove it there first, "
                    f"or have it move here: annotate yours with {TAKES_OVER}: {held.repository}"
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


def takes(artifacts: Sequence[Artifact]) -> dict[str, str]:
    """What ``check_claims`` asks for: each function, and which repository it moves away from."""
    return {each.name: each.spec.annotation(TAKES_OVER) for each in artifacts}

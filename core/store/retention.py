"""Which releases and revisions are kept, and how all others leave the store.

Of each repository can be gone back to: its last ``SLIPWAY_KEEP_REVISIONS`` releases that were live,
beside the one that is, and as many last revisions of each function. A release is kept while it is
among them, or is the newest one that has such a revision, or is under way, or something names it.
Of those that never were live the newest hundred stay. A revision that can be gone back to is in
``keys.revisions``, and its artifact is needed.

Everything of one repository is judged and removed within one optimistic transaction: whatever makes
something needed (a switch, a rollback, a return) changes a key that is watched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import msgspec
from redis.client import Pipeline
from redis.exceptions import WatchError

from core import keys
from core.models import FunctionRecord, State
from core.pruning import MOST
from core.store.base import text
from core.store.functions import batched
from core.store.rollbacks import Rollbacks

NOTHING = -1
"""What is kept of a repository that is gone, beside what still moves."""
NEVER_LIVE_KEPT = 100
ROLLBACKS_KEPT = 100
"""Of each repository."""
_WAS_LIVE = (State.LIVE, State.REPLACED, State.ROLLED_BACK)
_REMOVED = 1000
"""Releases, and revisions, that go in one transaction."""
_TRIES = 5
"""Until a repository in which much happens is left for the next look."""


class _Doc(msgspec.Struct):
    """What counts of a release's record."""

    state: State


class _Artifact(msgspec.Struct):
    artifact: str = ""


class _Whose(msgspec.Struct):
    """Of which repository a specification is."""

    name: str
    namespace: str
    repository: str | None = None

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.repository or ''}"


class _Record(msgspec.Struct):
    spec: _Whose
    release: str = ""


class _Warm(msgspec.Struct):
    spec: _Whose
    revision: str


@dataclass(frozen=True)
class Seen:
    """One release, as far as it counts here."""

    id: str
    state: State
    revisions: Mapping[str, str]
    """Function → revision; empty where it was never the desired state."""

    @property
    def was_live(self) -> bool:
        return bool(self.revisions) or self.state in _WAS_LIVE


@dataclass(frozen=True)
class Retained:
    """What is kept of a repository's releases, and what is not."""

    gone: list[str]
    """Releases that go, or went, oldest first."""
    kept: frozenset[str]
    """``<function>@<revision>`` that can be gone back to."""
    rows: list[str]
    """Releases whose rows say what is needed: those under way, and those that an earlier version
    of ours made live, which noted no revisions."""
    more: bool = False
    """Something is left for the next look."""


def judge(history: Sequence[Seen], keep: int, held: Collection[str] = ()) -> Retained:
    """Decides on a repository's releases, the newest first; ``held``: ids that stay anyway.

    ``keep``: how many before the one that is live; ``NOTHING``.
    """
    were_live = never_live = 0
    counted: Counter[str] = Counter()
    met: set[str] = set()
    kept: set[str] = set()
    gone: list[str] = []
    rows: list[str] = []
    for each in history:
        stays = each.id in held or not each.state.final
        places = [(name, f"{name}@{revision}") for name, revision in each.revisions.items()]
        if each.was_live:
            stays = stays or were_live <= keep  # the one that is live, and so many before it
            were_live += each.state.final
            if stays:
                kept.update(place for _, place in places)
            for name, place in places:
                if place not in met and counted[name] <= keep:
                    counted[name] += 1
                    kept.add(place)
                    stays = True
                met.add(place)
        elif not stays:
            never_live += 1
            stays = never_live <= NEVER_LIVE_KEPT and keep >= 0
        if not stays:
            gone.append(each.id)
        elif not each.state.final or (each.was_live and not places):
            rows.append(each.id)
    return Retained(gone[::-1], frozenset(kept), rows)


class Retention(Rollbacks):
    def retain(
        self, repository: str, keep: int, *, most: int = MOST, dry: bool = False
    ) -> Retained:
        """Removes what is not kept of a repository's releases, ``most`` of them, and revisions;
        ``dry``: only tells which releases would go."""
        gone: list[str] = []
        clashes = 0
        while True:
            with self.redis.pipeline(transaction=True) as pipe:
                pipe.watch(  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
                    keys.repository_releases(repository),
                    keys.revisions(repository),
                    keys.live(repository),
                    keys.ROLLING,
                    keys.WATCHED,
                )
                found = self._judged(repository, keep)
                ids = found.gone[: most - len(gone)]
                more = len(ids) < len(found.gone) or clashes > _TRIES
                if dry:
                    return replace(found, gone=ids, more=more)
                ids = ids[:_REMOVED]
                places = self._stale(repository, found.kept)[:_REMOVED]
                if clashes > _TRIES or not (ids or places):
                    return replace(found, gone=gone, more=more)
                pipe.multi()
                self._forget_releases(pipe, repository, ids)
                if places:
                    pipe.hdel(keys.revisions(repository), *places)
                try:
                    pipe.execute()
                except WatchError:  # much happens here: what is needed now is judged anew
                    clashes += 1
                    continue
            gone += ids

    def retained_artifacts(self, repository: str, retained: Retained) -> Iterator[str]:
        """What a repository needs to go back to all that is kept, and for what is under way."""
        for places in batched(sorted(retained.kept)):
            raws = self.redis.hmget(keys.revisions(repository), places)
            for raw in cast("list[bytes | None]", raws):
                if raw is not None:
                    yield msgspec.json.decode(raw, type=_Artifact).artifact
        for ids in batched(retained.rows):
            for rows in self._pipeline([("HVALS", keys.rows(id_)) for id_ in ids]):
                for raw in rows:
                    yield msgspec.json.decode(raw, type=_Artifact).artifact

    def old_rollbacks(self) -> list[str]:
        """Those that are decided, but for the newest of each repository."""
        count: Counter[str] = Counter()
        old = []
        for each in self.rollbacks():
            count[each.key] += 1
            if each.finished_at and count[each.key] > ROLLBACKS_KEPT:
                old.append(each.id)
        return old

    def forget_rollbacks(self, ids: Iterable[str]) -> None:
        for some in batched(ids):
            self.redis.hdel(keys.ROLLBACKS, *some)

    # Artifacts

    def with_artifacts(self) -> tuple[set[str], set[str]]:
        """(namespaces that have artifacts, keys of repositories that have releases): also those
        that are gone."""
        spaces, repositories = set(), set()
        for raw in self.redis.scan_iter(f"{keys.ROOT}:[nr]*s", count=1000):
            kind, _, rest = text(raw).removeprefix(f"{keys.ROOT}:").partition(":")
            name, _, what = rest.rpartition(":")
            if (kind, what) == ("namespace", "artifacts"):
                spaces.add(name)
            elif (kind, what) == ("repository", "releases"):
                repositories.add(name)
        return spaces, repositories

    def claim_artifacts(self, namespace: str, build_keys: Sequence[str]) -> dict[str, str]:
        """Those of an owner's build keys that gave an artifact before → it. These count as needed
        from now on: housekeeping that is about to remove one finds so."""

        def change(pipe: Pipeline) -> dict[str, str]:
            raws = pipe.hmget(keys.artifacts(namespace), list(build_keys))
            found = {
                key: text(raw)
                for key, raw in zip(build_keys, cast("list[bytes | None]", raws), strict=True)
                if raw is not None
            }
            pipe.multi()
            if found:
                pipe.hdel(keys.UNNEEDED, *(f"{namespace} {each}" for each in found.values()))
            return found

        return self._transaction(change, keys.artifacts(namespace)) if build_keys else {}

    def is_unneeded(self, namespace: str, artifact: str, since: float) -> bool:
        """Whether it still is on the list, as of then: no build has found or made it since."""
        noted = cast("bytes | None", self.redis.hget(keys.UNNEEDED, f"{namespace} {artifact}"))
        return noted is not None and float(noted) == since

    def release_artifact(
        self, namespace: str, artifact: str, build_keys: Collection[str], since: float
    ) -> bool:
        """Lets builds find an artifact no more, so that it can be removed; False where something
        has come to need it. It is on the list of what is unneeded until ``forget_artifact``."""
        name = f"{namespace} {artifact}"

        def change(pipe: Pipeline) -> bool:
            noted = pipe.hget(keys.UNNEEDED, name)
            pipe.multi()
            if noted is None or float(cast(bytes, noted)) != since:
                return False
            if build_keys:
                pipe.hdel(keys.artifacts(namespace), *build_keys)
                pipe.hdel(keys.inputs(namespace), *build_keys)
            return True

        return self._transaction(change, keys.UNNEEDED)

    # Inside

    def _judged(self, repository: str, keep: int) -> Retained:
        index = keys.repository_releases(repository)
        ids = [text(id_) for id_ in cast("list[bytes]", self.redis.zrevrange(index, 0, -1))]
        held, serving = self._serving(repository)
        held.add(self.live_release(repository))
        for rollback in self.rolling():
            held |= {rollback.from_, rollback.to}
        history = []
        for some in batched(ids):
            fields = ("doc", "revisions", "instead")
            raws = self._pipeline([("HMGET", keys.release(id_), *fields) for id_ in some])
            for id_, (doc, revisions, instead) in zip(some, raws, strict=True):
                state = msgspec.json.decode(doc, type=_Doc).state if doc else State.FAILED
                had = msgspec.json.decode(revisions, type=dict[str, str]) if revisions else {}
                history.append(Seen(id_, state, had))
                held.add(text(instead))
        found = judge(history, keep, held)
        return replace(found, kept=found.kept | serving)

    def _serving(self, repository: str) -> tuple[set[str], set[str]]:
        """(releases, ``<function>@<revision>``) of what shall run or is warm of a repository.

        All functions there are pass by for each repository: of others only these few are decoded.
        """
        releases, places = set(), set()
        for raw in cast("list[bytes]", self.redis.hvals(keys.FUNCTIONS)):
            record = msgspec.json.decode(raw, type=_Record)
            if record.spec.key == repository:
                releases.add(record.release)
                spec = msgspec.json.decode(raw, type=FunctionRecord).spec
                places.add(f"{spec.name}@{spec.revision}")
        for raw in cast("list[bytes]", self.redis.hvals(keys.WARM)):
            warm = msgspec.json.decode(raw, type=_Warm)
            if warm.spec.key == repository:
                places.add(f"{warm.spec.name}@{warm.revision}")
        return releases, places

    def _stale(self, repository: str, kept: Collection[str]) -> list[str]:
        places = cast("list[bytes]", self.redis.hkeys(keys.revisions(repository)))
        return [place for place in map(text, places) if place not in kept]

    @staticmethod
    def _forget_releases(pipe: Pipeline, repository: str, ids: Sequence[str]) -> None:
        if not ids:
            return
        for id_ in ids:
            pipe.unlink(keys.release(id_), keys.rows(id_), keys.log(id_), keys.reports(id_))
        pipe.zrem(keys.repository_releases(repository), *ids)
        pipe.zrem(keys.RELEASES, *ids)
        pipe.hdel(keys.DEATHS, *ids)
        pipe.srem(keys.REPORTING, *ids)

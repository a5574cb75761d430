"""What of the store git cannot give back, as one value: for a backup, and to start anew from one.

Functions that a repository brought are not in it: the commit that was live is released again, out
of the repository. What was deployed by API is in it as it was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from redis.client import Pipeline

from core import keys, names
from core.errors import InvalidRequest, SlipwayError
from core.models import FunctionRecord, Repository, Struct
from core.store.base import encode, text
from core.store.releases import Releases
from core.store.repositories import Repositories

_SCAN = 1000


class Live(Struct, frozen=True):
    """The commit of a repository that was live."""

    repository: str
    """Its key."""
    commit: str
    branch: str


class Snapshot(Struct, frozen=True):
    """Bytes are base64 in JSON."""

    sequence: int
    """Number of the newest release: later ones have higher numbers."""
    hashes: dict[str, dict[str, bytes]]
    """``keys.BACKED_UP``, whole."""
    functions: dict[str, FunctionRecord]
    """Those that were deployed by API."""
    live: list[Live]
    heads: dict[str, str]
    """Repository key → the branch's head that had a release."""


class Snapshots(Repositories, Releases):
    def snapshot(self) -> Snapshot:
        """All of it as it is at one moment."""
        repositories = [repository.key for repository in self.repositories()]
        with self.redis.pipeline(transaction=True) as pipe:
            for key in (*keys.BACKED_UP, keys.FUNCTIONS):
                pipe.hgetall(key)
            pipe.get(keys.SEQUENCE)
            for key in repositories:
                pipe.get(keys.head(key))
            for key in repositories:
                pipe.get(keys.live(key))
            found = iter(pipe.execute())
        hashes = {key: {text(n): v for n, v in next(found).items()} for key in keys.BACKED_UP}
        functions = {text(n): v for n, v in next(found).items()}
        sequence = int(next(found) or 0)
        heads = {key: text(next(found)) for key in repositories}
        live = [text(id_) for id_ in found]
        records = {n: msgspec.json.decode(v, type=FunctionRecord) for n, v in functions.items()}
        releases = [self.release(id_) for id_ in live if id_]
        return Snapshot(
            sequence=sequence,
            hashes=hashes,
            functions={n: each for n, each in records.items() if each.repository is None},
            live=[
                Live(repository=f"{r.namespace}/{r.repository}", commit=r.commit, branch=r.branch)
                for r in releases
            ],
            heads={key: head for key, head in heads.items() if head},
        )

    def begin_with(self, snapshot: Snapshot) -> None:
        """Fills a store that has nothing of Slipway's, and asks for what was live to be released.

        Raises:
            InvalidRequest: the snapshot is not one that ``snapshot`` made.
        """
        repositories = checked(snapshot)

        def change(pipe: Pipeline) -> None:
            pipe.multi()
            for key, rows in snapshot.hashes.items():
                if rows:
                    pipe.hset(key, mapping=dict(rows.items()))
            for name, record in snapshot.functions.items():
                pipe.hset(keys.FUNCTIONS, name, encode(record))
            for key, head in snapshot.heads.items():
                pipe.set(keys.head(key), head)
            pipe.set(keys.SEQUENCE, snapshot.sequence)

        self._transaction(change)
        for each in snapshot.live:
            repository = repositories[each.repository]
            self.create_release(repository, each.commit, each.branch, again=True, pinned=True)

    def is_empty(self) -> bool:
        return not any(True for _ in self._ours())

    def clear(self) -> None:
        """Removes all that is Slipway's, its queues included. Nothing may run."""
        for key in self._ours():
            self.redis.delete(key)

    def _ours(self) -> Iterable[bytes]:
        for pattern in (f"{keys.ROOT}:*", "rq:*"):
            yield from self.redis.scan_iter(pattern, count=_SCAN)


def checked(snapshot: Snapshot) -> dict[str, Repository]:
    """The repositories in it, by key.

    Raises:
        InvalidRequest: a name in it is none, or does not fit to another.
    """
    try:
        return _checked(snapshot)
    except (SlipwayError, msgspec.MsgspecError, ValueError, KeyError) as error:
        raise InvalidRequest(f"what it has of the store does not fit together: {error}") from error


def _checked(snapshot: Snapshot) -> dict[str, Repository]:
    if unknown := set(snapshot.hashes) - set(keys.BACKED_UP):
        raise KeyError(*sorted(unknown))
    for space in snapshot.hashes.get(keys.NAMESPACES, {}):
        names.namespace(space)
    for place in snapshot.hashes.get(keys.SECRETS, {}):
        space, _, name = place.partition("/")
        names.namespace(space)
        names.secret_name(name)
    repositories = {}
    for key, raw in snapshot.hashes.get(keys.REPOSITORIES, {}).items():
        found = msgspec.json.decode(raw, type=Repository)
        names.namespace(found.namespace)
        names.repository_name(found.name)
        if found.key != key:
            raise KeyError(key)
        repositories[key] = found
    for name, record in snapshot.functions.items():
        if names.split_function(name) != (record.spec.name, record.spec.namespace):
            raise KeyError(name)
    for key, head in snapshot.heads.items():
        names.commit(head)
        _ = repositories[key]
    for each in snapshot.live:
        names.commit(each.commit)
        _ = repositories[each.repository]
    return repositories

"""What of the store git cannot give back, as one value: for a backup, and to start anew from one.

Functions that a repository brought are not in it: the commit that was live is released again, out
of the repository. What was deployed by API is in it as it was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from redis.client import Pipeline

from core import keys, names
from core.errors import InvalidRequest, NotFound, SlipwayError
from core.models import FunctionRecord, Struct
from core.repositories import Repository
from core.store import tokens
from core.store.base import encode, text
from core.store.releases import Releases, queued
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
    lost: tuple[str, ...] = ()
    """Repositories whose live release has no record any more: their branches' heads are released
    instead."""


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
        releases, lost = [], []
        for repository, id_ in zip(repositories, live, strict=True):
            try:
                releases += [self.release(id_)] if id_ else []
            except NotFound:
                lost.append(repository)
        return Snapshot(
            sequence=sequence,
            hashes=hashes,
            functions={n: each for n, each in records.items() if each.repository is None},
            live=[
                Live(repository=f"{r.namespace}/{r.repository}", commit=r.commit, branch=r.branch)
                for r in releases
            ],
            heads={key: head for key, head in heads.items() if head and key not in lost},
            lost=tuple(lost),
        )

    def begin_with(self, snapshot: Snapshot, instead_of: Sequence[bytes] = ()) -> None:
        """Fills a store that has nothing of Slipway's but the keys ``instead_of``, which go, and
        asks for what was live to be released: all of it, or none.

        Raises:
            InvalidRequest: the snapshot is not one that ``snapshot`` made.
        """
        repositories = checked(snapshot)
        fresh = [
            queued(number, repositories[each.repository], each.commit, each.branch)
            for number, each in enumerate(snapshot.live, snapshot.sequence + 1)
        ]

        def change(pipe: Pipeline) -> None:
            pipe.multi()
            for start in range(0, len(instead_of), _SCAN):
                pipe.delete(*instead_of[start : start + _SCAN])
            for key, rows in snapshot.hashes.items():
                if rows:
                    pipe.hset(key, mapping=dict(rows.items()))
            for name, record in snapshot.functions.items():
                pipe.hset(keys.FUNCTIONS, name, encode(record))
            for key, head in snapshot.heads.items():
                pipe.set(keys.head(key), head)
            pipe.set(keys.SEQUENCE, snapshot.sequence + len(fresh))
            for release in fresh:
                self._add(pipe, release, pinned=True)

        self._transaction(change)

    def ours(self) -> list[bytes]:
        """Every key of Slipway's, but for those of its queue: ``core.queues.keys_of``."""
        return list(self.redis.scan_iter(f"{keys.ROOT}:*", count=_SCAN))


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
    for id_, raw in snapshot.hashes.get(keys.TOKENS, {}).items():
        tokens.checked(id_, raw)
    repositories = {}
    for key, raw in snapshot.hashes.get(keys.REPOSITORIES, {}).items():
        found = msgspec.json.decode(raw, type=Repository)
        names.namespace(found.namespace)
        names.repository_name(found.name)
        if found.key != key:
            raise KeyError(key)
        repositories[key] = found
        if found.parent:
            namespace, _, name = found.parent.partition("/")
            names.namespace(namespace)
            names.repository_name(name)
    for key, raw in snapshot.hashes.get(keys.ENVIRONMENTS, {}).items():
        _ = repositories[key]
        for name, branch in msgspec.json.decode(raw, type=dict[str, str]).items():
            names.environment_name(name)
            names.branch(branch)
    for name, record in snapshot.functions.items():
        if names.split_function(name) != (record.spec.name, record.spec.namespace):
            raise KeyError(name)
    for key, head in snapshot.heads.items():
        names.commit(head)
        _ = repositories[key]
    for each in snapshot.live:
        names.commit(each.commit)
        _ = repositories[each.repository]
    if len({each.repository for each in snapshot.live}) < len(snapshot.live):
        raise ValueError("a repository has two live releases")
    return repositories

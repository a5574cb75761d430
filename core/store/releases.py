"""Releases: reading them, and their way from ``queued`` to the builder's last word.

Every move is compare-and-set in one transaction, together with all that must change along with it:
whose turn it is, what is superseded, the log's end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, cast

import msgspec
from redis.client import Pipeline

from core import keys
from core.errors import Conflict, NotFound
from core.models import FunctionRow, Promotion, Release, State, now, number_of
from core.names import NO_COMMIT
from core.repositories import Repository
from core.store.base import (
    decided,
    encode,
    first,
    moved,
    release_of,
    repository_key,
    text,
    with_rows,
)
from core.store.logs import LOG_SECONDS, LogEnd
from core.store.parts import BUILDERS
from core.store.policies import Policies

DELIVERY_SECONDS = 7 * 24 * 3600


class Releases(Policies):
    def release(self, id_: str) -> Release:
        """Raises NotFound."""
        raw, rows = self._pipeline(
            [("HGET", keys.release(id_), "doc"), ("HGETALL", keys.rows(id_))]
        )
        if raw is None:
            raise no_release(id_)
        return release_of(raw, rows)

    def releases(
        self,
        namespace: str = "",
        repository: str = "",
        limit: int = 50,
        visible: Callable[[str], bool] = lambda _: True,
    ) -> list[Release]:
        """The newest releases first, of one repository, of one namespace or of all that are
        ``visible``."""
        if namespace and repository:
            index = keys.repository_releases(f"{namespace}/{repository}")
        else:
            index = keys.RELEASES
        found: list[Release] = []
        start = 0
        while len(found) < limit:
            ids = cast("list[bytes]", self.redis.zrevrange(index, start, start + 199))
            if not ids:
                break
            start += len(ids)
            names = [text(id_) for id_ in ids]
            raws = self._pipeline([("HGET", keys.release(id_), "doc") for id_ in names])
            wanted = [
                release
                for release in (release_of(raw, {}) for raw in raws if raw is not None)
                if (not namespace or release.namespace == namespace)
                and visible(release.namespace)
                and (not repository or release.repository == repository)
            ][: limit - len(found)]
            rows = self._pipeline([("HGETALL", keys.rows(r.id)) for r in wanted])
            found += [with_rows(r, row) for r, row in zip(wanted, rows, strict=True)]
        return found

    def newest_releases(self, repository: str, count: int) -> list[Release]:
        """So many of one repository at most, the newest first, without what became of each
        function; nothing else is read."""
        index = keys.repository_releases(repository)
        ids = cast("list[bytes]", self.redis.zrevrange(index, 0, count - 1))
        raws = self._pipeline([("HGET", keys.release(text(id_)), "doc") for id_ in ids])
        return [release_of(raw, {}) for raw in raws if raw is not None]

    def newest_release(self, repository: str) -> Release | None:
        ids = cast("list[bytes]", self.redis.zrevrange(keys.repository_releases(repository), 0, 0))
        return self.release(text(ids[0])) if ids else None

    def _present(self, key: str, ids: Iterable[bytes]) -> list[Release]:
        """The releases of a set; one without a record holds up nobody: it leaves the set."""
        found = []
        for id_ in ids:
            try:
                found.append(self.release(text(id_)))
            except NotFound:
                self.redis.srem(key, id_)
        return found

    def live_release(self, repository: str) -> str:
        return text(self.redis.get(keys.live(repository)))

    # On their way

    def create_release(
        self,
        repository: Repository,
        commit: str,
        branch: str,
        *,
        delivery: tuple[str, str] | None = None,
        again: bool = False,
        pinned: bool = False,
        promoted_from: Promotion | None = None,
        since: str | None = None,
        still: Callable[[], bool] = lambda: True,
    ) -> Release:
        """Records a release in state ``queued``; what still waited is superseded.

        The same commit as the newest release of the repository gives that release back while it
        is on its way or live, or where it was rolled back, unless ``again``; so does one that is
        known as the head while a pinned release stands. ``delivery`` is
        (forge, delivery id): one that was seen before gives the release it made. ``pinned``:
        release exactly this commit; otherwise a forge's repository is asked for its branch's head
        when the build begins. ``promoted_from``: whose artifacts it has. ``since``: only while
        ``head`` still is this, and ``still`` says so, which is asked after that: whoever changes it
        writes ``head`` later.

        Raises:
            Conflict: another head was released meanwhile.
        """
        key = repository.key
        fresh = queued(self.redis.incr(keys.SEQUENCE), repository, commit, branch, promoted_from)

        def change(pipe: Pipeline) -> Release:
            retried = False
            if delivery and (seen := pipe.get(keys.delivery(*delivery))):
                with suppress(NotFound):  # it is not kept any more
                    made = self.release(text(seen))
                    if made.state is not State.FAILED:
                        return made
                    retried = True  # redelivered by hand: once more, then
            if since is not None and text(pipe.get(keys.head(key))) != since:
                raise Conflict(f"another commit of {key} was released meanwhile")
            if not still():
                raise Conflict(f"{commit} is not the head of {key} any more")
            newest = first(pipe.zrevrange(keys.repository_releases(key), 0, 0))
            if newest and not again:
                last = self.release(newest)
                stands = last.state in (State.LIVE, State.ROLLED_BACK) or not last.state.final
                same = last.commit == commit or (
                    # An event that comes twice is no newer commit.
                    self.pinned(last.id)
                    and text(pipe.get(keys.head(key))) == commit
                    and not retried
                )
                if same and stands:
                    pipe.multi()
                    pipe.set(keys.head(key), commit)
                    self._remember(pipe, delivery, last.id)
                    return last
            turn = text(pipe.get(keys.turn(key)))
            ids = [id_ for id_ in (text(pipe.get(keys.waiting(key))), turn) if id_]
            if ids:
                pipe.watch(*map(keys.release, ids))  # type: ignore[no-untyped-call]  # redis-py
            older = [self.release(id_) for id_ in ids]
            pipe.multi()
            for release in older:
                if release.state is State.QUEUED:
                    after = moved(release, State.SUPERSEDED, f"{fresh.id} came after it")
                    self._write(pipe, after)
                    if release.id == turn:
                        pipe.delete(keys.turn(key))
            self._add(pipe, fresh, pinned=pinned, reported=repository.source != "git")
            if not pinned:
                pipe.set(keys.head(key), commit)
            self._remember(pipe, delivery, fresh.id)
            return fresh

        watched = [keys.repository_releases(key), keys.waiting(key), keys.turn(key)]
        if delivery:
            watched.append(keys.delivery(*delivery))
        if since is not None:
            watched.append(keys.head(key))
        return self._transaction(change, *watched)

    def take_turn(self, repository: str) -> str:
        """Gives the waiting release of a repository its turn, where its owner's policy lets it
        be built now; returns its id, or ''."""

        def change(pipe: Pipeline) -> str:
            waiting = pipe.get(keys.waiting(repository))
            if (
                pipe.get(keys.turn(repository))
                or not waiting
                or not self._may_begin(pipe, repository, text(waiting))
            ):
                pipe.multi()
                return ""
            pipe.multi()
            pipe.set(keys.turn(repository), cast(bytes, waiting))
            pipe.delete(keys.waiting(repository))
            return text(waiting)

        return self._transaction(change, keys.waiting(repository), keys.turn(repository))

    def turn(self, repository: str) -> str:
        return text(self.redis.get(keys.turn(repository)))

    def move(self, id_: str, expected: Iterable[State], to: State, reason: str = "") -> Release:
        """Moves a release on.

        Raises:
            Conflict: it is not in one of the ``expected`` states any more.
            NotFound: there is no such release.
        """
        allowed = frozenset(expected)

        def change(pipe: Pipeline) -> Release:
            release = self.release(id_)
            if release.state not in allowed:
                raise Conflict(decided(release))
            turn = text(pipe.get(keys.turn(repository_key(release))))
            pipe.multi()
            after = moved(release, to, reason)
            self._write(pipe, after)
            if turn == id_ and not to.with_builder:
                pipe.delete(keys.turn(repository_key(release)))
            return after

        return self._transaction(change, keys.release(id_))

    def head(self, repository: str) -> str:
        """The newest commit of the deploy branch that a release was made for, or ''."""
        return text(self.redis.get(keys.head(repository)))

    def save_rows(self, id_: str, rows: Iterable[FunctionRow]) -> None:
        """Writes all functions; forgets those of an earlier attempt: the branch may have moved."""
        told: dict[Any, bytes] = {row.name: encode(row) for row in rows}

        def change(pipe: Pipeline) -> None:
            pipe.multi()
            pipe.delete(keys.rows(id_))
            if told:
                pipe.hset(keys.rows(id_), mapping=told)

        self._transaction(change)

    def pinned(self, id_: str) -> bool:
        return bool(self.redis.hget(keys.release(id_), "pinned"))

    def follows_branch(self, id_: str) -> bool:
        """Whether a release was to be the branch's head, and was not found to be of one before."""
        return not any(cast("list[bytes]", self.redis.hmget(keys.release(id_), "pinned", "late")))

    def set_commit(self, id_: str, commit: str) -> Release:
        """Writes what the branch's head turned out to be; only while the release is built."""

        def change(pipe: Pipeline) -> Release:
            release, moves = self._of_head(pipe, id_)
            pipe.multi()
            fresh = msgspec.structs.replace(release, commit=commit)
            self._write(pipe, fresh)
            if moves:
                pipe.set(keys.head(repository_key(release)), commit)
            return fresh

        return self._transaction(change, keys.release(id_))

    def end_late(self, id_: str, head: str, reason: str) -> None:
        """Ends the release of an event that came late: the branch's head is ``head``, which has a
        release of its own.

        Raises:
            Conflict: it is not built any more.
        """

        def change(pipe: Pipeline) -> None:
            release, moves = self._of_head(pipe, id_)
            key = repository_key(release)
            turn = text(pipe.get(keys.turn(key)))
            pipe.multi()
            self._write(pipe, moved(release, State.SUPERSEDED, reason))
            pipe.hset(keys.release(id_), "late", "1")
            if turn == id_:
                pipe.delete(keys.turn(key))
            if moves:
                pipe.set(keys.head(key), head)

        self._transaction(change, keys.release(id_))

    def save_row(self, id_: str, row: FunctionRow) -> None:
        self.redis.hset(keys.rows(id_), row.name, encode(row))

    # Inside

    def _of_head(self, pipe: Pipeline, id_: str) -> tuple[Release, bool]:
        """A release that is built, whose commit is found not to be the branch's head; and whether
        ``head`` is that commit still. Of a preview it says what its request was released at.

        Raises:
            Conflict: it is not built any more.
        """
        release = self.release(id_)
        if not release.state.with_builder:
            raise Conflict(decided(release))
        key = repository_key(release)
        pipe.watch(keys.head(key))  # type: ignore[no-untyped-call]  # redis-py
        same = text(pipe.get(keys.head(key))) == release.commit and not self.pinned(id_)
        raw = cast("bytes | None", pipe.hget(keys.REPOSITORIES, key))
        preview = raw is not None and msgspec.json.decode(raw, type=Repository).request
        return release, same and not preview

    def _may_begin(self, pipe: Pipeline, repository: str, release: str) -> bool:
        """Whether the policy is known, and the owner has a place to build: the release that has
        waited longest takes it, whichever of the owner's repositories it is of."""
        held = self.held_policy()
        if held is None or self._takes_down(pipe, repository, release):
            return True
        if held.policy is None:
            return False
        owner = self.owner_of(repository.partition("/")[0])
        most = held.policy.of(owner).concurrent_builds
        if most is None:
            return True
        own = self._repositories_of(owner)
        turns, waits = [keys.turn(each) for each in own], [keys.waiting(each) for each in own]
        pipe.watch(keys.REPOSITORIES, *turns, *waits)  # type: ignore[no-untyped-call]  # redis-py
        found = [text(each) for each in cast("list[bytes]", pipe.mget(turns + waits))]
        building, waiting = found[: len(own)], found[len(own) :]
        before = [
            id_
            for turn, id_ in zip(building, waiting, strict=True)
            if id_ and not turn and number_of(id_) < number_of(release)
        ]
        return len(before) + sum(map(bool, building)) < most

    @staticmethod
    def _takes_down(pipe: Pipeline, repository: str, release: str) -> bool:
        """Whether it is there to take down what is live; an environment's first release has no
        commit either, and builds."""
        raw = cast("bytes | None", pipe.hget(keys.release(release), "doc"))
        nothing = raw is not None and release_of(raw, {}).commit == NO_COMMIT
        return nothing and bool(pipe.exists(keys.live(repository)))

    @staticmethod
    def _add(pipe: Pipeline, fresh: Release, *, pinned: bool, reported: bool = False) -> None:
        """Writes down a new release, which then waits for its turn. ``reported``: a forge is told
        of it."""
        key, place = repository_key(fresh), {fresh.id: fresh.number}
        pipe.set(keys.waiting(key), fresh.id)
        pipe.zadd(keys.RELEASES, place)
        pipe.zadd(keys.repository_releases(key), place)
        pipe.hset(keys.release(fresh.id), "doc", encode(fresh))
        if pinned:
            pipe.hset(keys.release(fresh.id), "pinned", "1")
        if reported:
            pipe.hset(keys.release(fresh.id), "reported", "1")
            pipe.sadd(keys.REPORTING, fresh.id)
            pipe.publish(keys.WAKE, BUILDERS)

    def _write(self, pipe: Pipeline, release: Release, *, end: bool = True) -> None:
        doc = msgspec.structs.replace(release, functions=[])
        pipe.hset(keys.release(release.id), "doc", encode(doc))
        pipe.sadd(keys.REPORTING, release.id)
        if release.state is State.STAGING:
            pipe.sadd(keys.STAGING, release.id)
        else:
            pipe.srem(keys.STAGING, release.id)
        if release.state.final and release.state is not State.LIVE:
            pipe.hdel(keys.release(release.id), "artifacts")  # they may be large
        if release.state.final and end:
            line = LogEnd(state=release.state, reason=release.reason)
            pipe.xadd(keys.log(release.id), {"end": encode(line)})
            pipe.expire(keys.log(release.id), LOG_SECONDS)
        pipe.publish(keys.WAKE, BUILDERS if release.state.with_builder else b"")

    @staticmethod
    def _remember(pipe: Pipeline, delivery: tuple[str, str] | None, id_: str) -> None:
        if delivery:
            pipe.set(keys.delivery(*delivery), id_, ex=DELIVERY_SECONDS)


def no_release(id_: str) -> NotFound:
    return NotFound(f"there is no release {id_!r}: see 'slipway releases'")


def queued(
    number: int,
    repository: Repository,
    commit: str,
    branch: str,
    promoted_from: Promotion | None = None,
) -> Release:
    """A new release, as it begins."""
    return Release(
        id=f"r{number}-{commit[:7]}",
        namespace=repository.namespace,
        repository=repository.name,
        branch=branch,
        commit=commit,
        state=State.QUEUED,
        created_at=now(),
        promoted_from=promoted_from,
    )

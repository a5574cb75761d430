"""Rollbacks: back to what an earlier release brought, without a build.

Like a release on its last part of the way, and with the same steps: its revisions are started where
they do not run any more, become the desired state in one transaction, and once the routes follow it
is done. What it sets is pinned until a newer commit goes live.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import cast

import msgspec
from redis.client import Pipeline

from core import keys
from core.errors import Conflict, InvalidRequest, NotFound
from core.models import (
    FunctionRecord,
    FunctionSpec,
    OpenReceipt,
    Receipt,
    Release,
    Rollback,
    RollbackState,
    State,
    now,
)
from core.names import TAKES_OVER, join_function
from core.store.base import encode, repository_key, text
from core.store.switching import Switching, of_repository

LOOKED_AT = 1000
"""Releases among which the one to go back to is looked for."""
_WAS_LIVE = (State.LIVE, State.REPLACED, State.ROLLED_BACK)


class Rollbacks(Switching):
    def rollbacks(self, namespace: str = "", repository: str = "") -> list[Rollback]:
        """The newest first, of one repository, one namespace or all."""
        rows = cast("dict[bytes, bytes]", self.redis.hgetall(keys.ROLLBACKS))
        found = [msgspec.json.decode(raw, type=Rollback) for raw in rows.values()]
        return sorted(
            (
                each
                for each in found
                if namespace in ("", each.namespace) and repository in ("", each.repository)
            ),
            key=lambda each: -int(each.id[1:]),
        )

    def create_rollback(
        self,
        namespace: str,
        repository: str,
        function: str = "",
        to: str = "",
        *,
        check: Callable[[Rollback], object] | None = None,
    ) -> Rollback:
        """Begins one. ``function``: name of the only function that goes back; ``to``: id of the
        release, by default the newest before the live one that had something else. ``check`` is
        called last, and may refuse by raising: nothing is staged or deployed between.

        Raises:
            NotFound: there is no such release or function.
            Conflict: nothing to go back to, or something is under way.
        """
        key = f"{namespace}/{repository}"
        number = self.redis.incr(keys.ROLLBACK_SEQUENCE)

        def change(pipe: Pipeline) -> Rollback:
            live = text(pipe.get(keys.live(key)))
            if not live:
                raise Conflict(f"nothing of {key} is live, so there is nothing to go back from")
            current = self.release(live)
            for other in self.rolling():
                if other.key == key:
                    raise Conflict(f"{other.id} of {key} is under way: wait for its end")
            if switched := self._others_switched(current):
                raise Conflict(f"{switched[0].id} of {key} is going live just now: try again")
            target = self._target(current, function, to)
            self._check_moves(current, target, function)
            # Against pruning.
            pipe.watch(keys.release(target.id), keys.revisions(key))  # type: ignore[no-untyped-call]  # redis-py
            if not self.revisions(target.id):
                raise Conflict(f"{target.id} was just pruned: see 'slipway releases'")
            fresh = Rollback(
                id=f"b{number}",
                namespace=namespace,
                repository=repository,
                function=function,
                from_=live,
                to=target.id,
                state=RollbackState.STARTING,
                created_at=now(),
            )
            if check:
                check(fresh)
            pipe.multi()
            self._put_rollback(pipe, fresh)
            return fresh

        watched = (keys.ROLLING, keys.STAGING, keys.FUNCTIONS, keys.POLICY)
        return self._transaction(change, keys.live(key), *watched)

    def rollback_specs(self, rollback: Rollback) -> dict[str, FunctionSpec]:
        """``name.namespace`` → what serves again. Raises NotFound: not all is kept any more."""
        specs = self.brought(self.release(rollback.to), rollback.function)
        return {spec.function: spec for spec in specs}

    def brought(self, release: Release, function: str = "") -> list[FunctionSpec]:
        """What a release that was live made of its functions, or of one; empty if nothing is kept
        of it. Raises NotFound: not all is kept any more."""
        wanted = self.revisions(release.id)
        if function:
            wanted = {n: r for n, r in wanted.items() if n == function}
        if not wanted:
            return []
        fields = [f"{name}@{revision}" for name, revision in wanted.items()]
        raws = self.redis.hmget(keys.revisions(repository_key(release)), fields)
        built = {row.name: row.key for row in release.functions}
        specs = []
        for name, raw in zip(wanted, cast("list[bytes | None]", raws), strict=True):
            if raw is None:
                raise NotFound(f"what {release.id} brought of {name} is not kept any more")
            spec = msgspec.structs.replace(
                msgspec.json.decode(raw, type=FunctionSpec),
                commit=release.commit,
                key=built.get(name, ""),
            )
            specs.append(spec)
        return specs

    def roll_back(
        self,
        id_: str,
        specs: Mapping[str, FunctionSpec],
        replicas: Callable[[FunctionSpec], int],
        *,
        warm: float = 0.0,
    ) -> None:
        """Makes ``specs`` the desired state. Repeating it changes nothing.

        Raises:
            Conflict: it was decided, or another release is live or going live by now.
        """

        def change(pipe: Pipeline) -> None:
            rollback = self.rollback(id_)
            if rollback.state is RollbackState.SWITCHED:
                pipe.multi()
                return
            current = self._still(pipe, rollback)
            functions = self.functions()
            self.check_claims(current, {spec.name: "" for spec in specs.values()})
            whole = "" if rollback.function else rollback.repository
            before = of_repository(functions, rollback.namespace, whole, specs)
            after = {
                function: FunctionRecord(
                    spec=spec,
                    release=rollback.to,
                    replicas=held.replicas if held else replicas(spec),
                    created_at=held.created_at if held else now(),
                    pinned="" if rollback.to == rollback.from_ else id_,
                )
                for function, spec in specs.items()
                for held in [before.get(function)]
            }
            pipe.multi()
            self._put_records(pipe, before, after, warm)
            switched = msgspec.structs.replace(rollback, state=RollbackState.SWITCHED)
            self._put_rollback(pipe, switched)

        watched = (keys.ROLLBACKS, keys.FUNCTIONS, keys.STAGING)
        self._transaction(change, *watched, keys.live(self.rollback(id_).key))

    def finish_rollback(self, id_: str) -> Rollback:
        """Marks it done, now that the routes follow; of a repository the release that it went back
        to is live again."""

        def change(pipe: Pipeline) -> Rollback:
            rollback = self.rollback(id_)
            if rollback.state is not RollbackState.SWITCHED:
                raise Conflict(f"{id_} is {rollback.state}")
            key = rollback.key
            is_live = text(pipe.get(keys.live(key)))
            whole = not rollback.function and is_live == rollback.from_
            from_, to = self.release(rollback.from_), self.release(rollback.to)
            pipe.multi()
            if whole and from_.id != to.id:
                newer = to.number > from_.number
                left = State.REPLACED if newer else State.ROLLED_BACK
                self._displace(pipe, from_, left, f"{id_} went back to {to.id}")
                again = msgspec.structs.replace(
                    to, state=State.LIVE, reason=f"{id_} went back to it"
                )
                self._write(pipe, again, end=False)
                pipe.set(keys.live(key), to.id)
            done = msgspec.structs.replace(rollback, state=RollbackState.DONE, finished_at=now())
            self._put_rollback(pipe, done)
            return done

        key = self.rollback(id_).key
        return self._transaction(change, keys.ROLLBACKS, keys.live(key), keys.WATCHED)

    def fail_rollback(self, id_: str, reason: str) -> None:
        """What is live stays. Does nothing where it was decided."""

        def change(pipe: Pipeline) -> None:
            rollback = self.rollback(id_)
            pipe.multi()
            if not rollback.finished_at:
                failed = msgspec.structs.replace(
                    rollback, state=RollbackState.FAILED, reason=reason, finished_at=now()
                )
                self._put_rollback(pipe, failed)

        self._transaction(change, keys.ROLLBACKS)

    def save_receipt(self, id_: str, receipt: Receipt) -> None:
        """Writes the receipt of a release or rollback, whatever became of it since."""

        def change(pipe: Pipeline) -> None:
            rollback = self.rollback(id_) if id_.startswith("b") else None
            release = None if rollback else self.release(id_)
            pipe.multi()
            if rollback:
                done = msgspec.structs.replace(rollback, receipt=receipt)
                pipe.hset(keys.ROLLBACKS, id_, encode(done))
            if release:
                doc = msgspec.structs.replace(release, receipt=receipt, functions=[])
                pipe.hset(keys.release(id_), "doc", encode(doc))
                pipe.sadd(keys.REPORTING, id_)
            pipe.hdel(keys.RECEIPTS, id_)

        try:
            self._transaction(change, keys.release(id_), keys.ROLLBACKS)
        except NotFound:  # pruned meanwhile
            self.redis.hdel(keys.RECEIPTS, id_)

    def open_receipts(self) -> dict[str, OpenReceipt]:
        """Those that are being counted."""
        rows = cast("dict[bytes, bytes]", self.redis.hgetall(keys.RECEIPTS))
        return {text(k): msgspec.json.decode(v, type=OpenReceipt) for k, v in rows.items()}

    def drop_open_receipt(self, id_: str) -> None:
        """Nothing was switched after all."""
        self.redis.hdel(keys.RECEIPTS, id_)

    def save_open_receipt(self, id_: str, receipt: OpenReceipt) -> None:
        self.redis.hset(keys.RECEIPTS, id_, encode(receipt))

    def save_rollback_branch(self, id_: str, branch: str) -> Rollback:
        """Notes where it stands as a commit."""

        def change(pipe: Pipeline) -> Rollback:
            rollback = msgspec.structs.replace(self.rollback(id_), branch=branch)
            pipe.multi()
            pipe.hset(keys.ROLLBACKS, id_, encode(rollback))
            return rollback

        return self._transaction(change, keys.ROLLBACKS)

    # Inside

    def _target(self, current: Release, function: str, to: str) -> Release:
        """The release to go back to."""
        ours = of_repository(self.functions(), current.namespace, current.repository)
        serving = {record.spec.name: record.spec.revision for record in ours.values()}
        if function and function not in serving and not to:
            raise NotFound(
                f"{current.namespace}/{current.repository} has no function {function} now: name "
                "the release that had it with --to"
            )
        if to:
            return self._named(current, function, to, serving)
        for release in self.releases(current.namespace, current.repository, limit=LOOKED_AT):
            if release.number >= current.number or release.state is not State.REPLACED:
                continue
            had = self.revisions(release.id)
            if function and function in had and had[function] != serving[function]:
                return release
            if not function and had and had != serving:
                return release
        what = function or f"{current.namespace}/{current.repository}"
        raise Conflict(
            f"nothing else was live of {what} before {current.id}, or it is not kept any more "
            "(SLIPWAY_KEEP_REVISIONS): see 'slipway releases'"
        )

    def _named(
        self, current: Release, function: str, to: str, serving: Mapping[str, str]
    ) -> Release:
        release = self.release(to)
        if (release.namespace, release.repository) != (current.namespace, current.repository):
            raise InvalidRequest(
                f"{to} is of {release.namespace}/{release.repository}, not of "
                f"{current.namespace}/{current.repository}"
            )
        had = self.revisions(to)
        if release.state not in _WAS_LIVE or not had:
            raise Conflict(
                f"{to} cannot be gone back to: it is {release.state}, and only what was live and "
                "is still kept can (SLIPWAY_KEEP_REVISIONS)"
            )
        if function and function not in had:
            raise NotFound(f"{to} had no function {function}")
        if had == serving if not function else had[function] == serving.get(function):
            raise Conflict(f"what {to} brought serves already")
        return release

    def _check_moves(self, current: Release, target: Release, function: str) -> None:
        """Raises Conflict where a function moved to or from another repository since."""
        space, key = current.namespace, f"{current.namespace}/{current.repository}"
        functions = self.functions()
        had = set(self.revisions(target.id))
        for name in sorted({function} if function else had):
            held = functions.get(join_function(name, space))
            if held is None or held.repository == current.repository:
                continue
            what = f"was deployed by API since: 'slipway remove {name}.{space}' it first"
            if held.repository:
                what = f"belongs to {space}/{held.repository} by now: move it back with a commit"
            others = "" if function else ", or roll the others back one by one"
            raise Conflict(f"the function {name} of {target.id} {what}{others}")
        if function:
            return
        ours = of_repository(functions, space, current.repository)
        gone = {record.spec.name for record in ours.values()} - had
        for spec in self._kept(key, gone):
            former = spec.annotation(TAKES_OVER)
            if former and former != current.repository:
                raise Conflict(
                    f"the function {spec.name} moved here from {space}/{former}, and {target.id} "
                    "did not have it: to go back would take it down. Move it back with a commit, "
                    "or roll the functions back one by one"
                )

    def _kept(self, repository: str, names: Collection[str]) -> list[FunctionSpec]:
        """All revisions of some functions that are kept."""
        fields = cast("list[bytes]", self.redis.hkeys(keys.revisions(repository)) if names else [])
        wanted = [field for field in fields if text(field).partition("@")[0] in names]
        raws = self.redis.hmget(keys.revisions(repository), wanted) if wanted else []
        found = cast("list[bytes | None]", raws)
        return [msgspec.json.decode(raw, type=FunctionSpec) for raw in found if raw is not None]

    def _still(self, pipe: Pipeline, rollback: Rollback) -> Release:
        """The release that is live, which must still be the one to go back from."""
        if rollback.state is not RollbackState.STARTING:
            raise Conflict(f"{rollback.id} is {rollback.state}")
        live = text(pipe.get(keys.live(rollback.key)))
        if live != rollback.from_:
            raise Conflict(f"{live or 'nothing'} is live by now, and not {rollback.from_}")
        current = self.release(live)
        if switched := self._others_switched(current):
            raise Conflict(f"{switched[0].id} is going live by now")
        return current

    @staticmethod
    def _put_rollback(pipe: Pipeline, rollback: Rollback) -> None:
        pipe.hset(keys.ROLLBACKS, rollback.id, encode(rollback))
        if rollback.finished_at:
            pipe.srem(keys.ROLLING, rollback.id)
        else:
            pipe.sadd(keys.ROLLING, rollback.id)
        pipe.publish(keys.WAKE, b"")

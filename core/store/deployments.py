"""Functions that are deployed, deleted and scaled by API: each change is one transaction.

A function that a repository has is changed by pushing; only its scale can be set here, until its
next release. One that was deployed here is nobody's repository's: a release with its name fails.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from redis.client import Pipeline

from core import keys, scaling
from core.errors import Conflict, InvalidRequest, NotFound
from core.models import FunctionRecord, FunctionSpec, now
from core.store.base import encode
from core.store.functions import Functions
from core.store.secrets import Secrets


class Deployments(Functions, Secrets):
    def deploy(
        self, spec: FunctionSpec, *, update: bool, check: Callable[[], object]
    ) -> FunctionRecord:
        """Makes ``spec`` the desired state of its function; what serves now goes on serving until
        it is healthy.

        ``update``: the function must be there, else it must not. ``check`` is called last, and may
        refuse by raising.

        Raises:
            InvalidRequest: there is no such namespace, or not every secret.
            NotFound: an update of what is not there.
            Conflict: it is there already, or a repository's.
        """

        def change(pipe: Pipeline) -> FunctionRecord:
            if not self.has_namespace(spec.namespace):
                raise InvalidRequest(
                    f"namespace: there is no namespace {spec.namespace}: create it with POST "
                    "/system/namespace/, or push a repository to it"
                )
            before = self.function(spec.function)
            record = FunctionRecord(
                spec=self._with_secrets(spec),
                release="",
                replicas=scaling.deployed(spec.labels, before.replicas if before else 0),
                created_at=before.created_at if before else now(),
                previous=(before.previous or before.spec) if before else None,
            )
            if update and not before:
                raise NotFound(f"there is no function {spec.function} to update: POST creates it")
            if before:
                _refuse_claimed(before, "deployed")
            if before and not update:
                raise Conflict(
                    f"there is a function {spec.function} already: PUT updates it, DELETE removes "
                    "it first"
                )
            check()
            pipe.multi()
            self._put(pipe, record)
            return record

        watched = (keys.FUNCTIONS, keys.NAMESPACES, keys.SECRETS)
        return self._transaction(change, *watched, keys.STAGING, keys.ROLLING, keys.POLICY)

    def delete_function(self, function: str) -> None:
        """Removes it from the desired state. Raises NotFound, or Conflict: a repository's."""

        def change(pipe: Pipeline) -> None:
            _refuse_claimed(self._record(function), "deleted")
            pipe.multi()
            pipe.hdel(keys.FUNCTIONS, function)
            pipe.publish(keys.WAKE, b"")

        self._transaction(change, keys.FUNCTIONS)

    def scale(
        self,
        function: str,
        to: Callable[[FunctionRecord], int],
        check: Callable[[FunctionRecord], object] = lambda _: None,
    ) -> None:
        """Sets how many replicas there shall be. ``check`` is called last, with the record as it
        is to be, and may refuse by raising. Raises NotFound."""

        def change(pipe: Pipeline) -> None:
            before = self._record(function)
            after = msgspec.structs.replace(before, replicas=to(before))
            if after.replicas > before.replicas:
                check(after)
            pipe.multi()
            self._put(pipe, after)

        self._transaction(change, keys.FUNCTIONS, keys.STAGING, keys.ROLLING, keys.POLICY)

    def settle(self, spec: FunctionSpec) -> bool:
        """Forgets what served before ``spec``; False if the function was changed meanwhile."""

        def change(pipe: Pipeline) -> bool:
            record = self.function(spec.function)
            pipe.multi()
            if record is None or record.spec != spec:
                return False
            self._put(pipe, msgspec.structs.replace(record, previous=None))
            return True

        return self._transaction(change, keys.FUNCTIONS)

    # Inside

    def _record(self, function: str) -> FunctionRecord:
        record = self.function(function)
        if record is None:
            raise NotFound(f"there is no function {function}: see 'slipway list'")
        return record

    def _put(self, pipe: Pipeline, record: FunctionRecord) -> None:
        pipe.hset(keys.FUNCTIONS, record.spec.function, encode(record))
        pipe.publish(keys.WAKE, b"")

    def _with_secrets(self, spec: FunctionSpec) -> FunctionSpec:
        if not spec.secrets:
            return spec
        try:
            versions = self.secret_versions(spec.namespace, spec.secrets)
        except NotFound as error:
            raise InvalidRequest(f"secrets: {error}") from error
        return msgspec.structs.replace(spec, secret_versions=versions)


def _refuse_claimed(record: FunctionRecord, what: str) -> None:
    if record.repository:
        raise Conflict(
            f"{record.spec.function} is not {what}: it belongs to the repository "
            f"{record.spec.namespace}/{record.repository}; push a change there instead"
        )

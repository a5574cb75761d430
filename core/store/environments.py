"""Environments: branches of a repository that are deployed into namespaces of their own.

Which there shall be is what the release of the deploy branch said that went live last
(``keys.ENVIRONMENTS``, written as it does); which there are is in the repositories' records. The
gateway brings the two together (``gateway/environments.py``), and releases an environment whose
``head`` is not known: its record and that are changed in one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec
from redis.client import Pipeline

from core import keys, names
from core.errors import Conflict, NotFound
from core.repositories import Repository
from core.store.base import encode, text
from core.store.repositories import Repositories

_MAPPING = dict[str, str]


class Environments(Repositories):
    def wanted_environments(self) -> dict[str, dict[str, str]]:
        """Repository key → the environments that it names → their branches."""
        rows = cast("dict[bytes, bytes]", self.redis.hgetall(keys.ENVIRONMENTS))
        return {text(key): msgspec.json.decode(raw, type=_MAPPING) for key, raw in rows.items()}

    def for_branch(self, repository: Repository, branch: str) -> list[Repository]:
        """What a branch is released to; empty: nothing of it is deployed."""
        return self.deployed(repository).get(branch, [])

    def deployed(self, repository: Repository) -> dict[str, list[Repository]]:
        """Branch → what it is released to: environments, then the repository itself where it is
        its deploy branch."""
        found: dict[str, list[Repository]] = {}
        own = [repository] if repository.deploy_branch and not repository.gone else []
        for each in [*self.environments(repository), *own]:
            found.setdefault(each.deploy_branch, []).append(each)
        return found

    def environments(self, repository: Repository) -> list[Repository]:
        """Those that a repository has now."""
        children = self.children(repository.key)
        return [each for each in children if each.environment and not each.gone]

    def environment(self, repository: Repository, name: str) -> Repository:
        """``production`` is the repository itself. Raises NotFound."""
        if name == names.PRODUCTION:
            return repository
        there = self.environments(repository)
        for each in there:
            if each.environment == name:
                return each
        told = ", ".join([names.PRODUCTION, *sorted(each.environment for each in there)])
        raise NotFound(
            f"{repository.key} has no environment {name[:80]!r}, it has {told}: name it below "
            "x-environments in the stack file of the deploy branch, and push that"
        )

    def check_environment(self, parent: Repository, name: str) -> None:
        """
        Raises:
            Conflict: its namespace is somebody else's, or has a repository of that name.
            NotFound: the parent is not there any more.
        """
        space = names.derived_namespace(parent.namespace, name)
        holder, held = cast(
            "list[bytes | None]", self.redis.hmget(keys.NAMESPACES, [parent.namespace, space])
        )
        if holder is None or self.find_repository(parent.key) is None:
            raise NotFound(f"there is no repository {parent.key} any more")
        if held not in (None, holder):
            raise Conflict(
                f"the namespace {space} does not belong to whom {parent.namespace} does: call the "
                "environment otherwise, or have the admin delete that namespace"
            )
        there = self.find_repository(f"{space}/{parent.name}")
        if there and there.parent != parent.key:
            raise Conflict(f"{there.key} is no environment of {parent.key}: delete it first")

    def save_environment(self, parent: Repository, name: str, branch: str) -> Repository:
        """Makes an environment, or changes it to what it shall be, in a namespace that belongs to
        whom the parent's does. Repeating it changes nothing.

        Raises as ``check_environment``, and Conflict: the parent is gone by now.
        """

        def change(pipe: Pipeline) -> Repository:
            self.check_environment(parent, name)
            now = self.repository(parent.namespace, parent.name)
            if now.gone:
                raise Conflict(f"no environment of {now.key} is deployed: {now.gone}")
            wanted = environment_of(now, name, branch)
            holder = text(pipe.hget(keys.NAMESPACES, parent.namespace))
            there = self.find_repository(wanted.key)
            pipe.multi()
            if there == wanted:
                return wanted
            pipe.hset(keys.NAMESPACES, wanted.namespace, holder)
            pipe.hset(keys.REPOSITORIES, wanted.key, encode(wanted))
            if there is None or there.gone or there.deploy_branch != branch:
                pipe.delete(keys.head(wanted.key))  # so that its branch's head is released
            return wanted

        return self._transaction(change, keys.NAMESPACES, keys.REPOSITORIES)

    def end_environment(self, key: str, why: str) -> Repository | None:
        """Notes that an environment is not wanted any more; None where it is not there."""

        def change(pipe: Pipeline) -> Repository | None:
            there = self.find_repository(key)
            pipe.multi()
            if there is None or there.gone:
                return there
            gone = msgspec.structs.replace(there, gone=why)
            pipe.hset(keys.REPOSITORIES, key, encode(gone))
            return gone

        return self._transaction(change, keys.REPOSITORIES)

    # Tags that promote

    def promotion_tags(self, key: str) -> dict[str, str]:
        """Tag → the object that it named when it was looked at, of one repository."""
        start = f"{key} "
        rows = cast("dict[bytes, bytes]", self.redis.hgetall(keys.PROMOTION_TAGS))
        named = {text(name): text(id_) for name, id_ in rows.items()}
        own = (name for name in named if name.startswith(start))
        return {name.removeprefix(start): named[name] for name in own}

    def note_promotion_tag(self, key: str, tag: str, object_: str) -> None:
        """It was looked at as it is."""
        self.redis.hset(keys.PROMOTION_TAGS, f"{key} {tag}", object_)

    def begin_promotion_tags(self, key: str, there: Mapping[str, str]) -> bool:
        """Where a repository's tags were never looked through, notes all that there are, in one
        step; whether it did."""
        if self.redis.hexists(keys.PROMOTION_TAGS, key):
            return False
        noted: dict[Any, Any] = {f"{key} {tag}": object_ for tag, object_ in there.items()}
        self.redis.hset(keys.PROMOTION_TAGS, mapping=noted | {key: ""})
        return True

    def forget_promotion_tag(self, key: str, tag: str) -> None:
        self.redis.hdel(keys.PROMOTION_TAGS, f"{key} {tag}")


def environment_of(parent: Repository, name: str, branch: str) -> Repository:
    """The record that an environment of a repository has."""
    return msgspec.structs.replace(
        parent,
        namespace=names.derived_namespace(parent.namespace, name),
        deploy_branch=branch,
        parent=parent.key,
        environment=name,
    )


def note_environments(pipe: Pipeline, key: str, wanted: Mapping[str, str]) -> None:
    """As its release goes live: what a repository wants from now on."""
    if wanted:
        pipe.hset(keys.ENVIRONMENTS, key, encode(dict(sorted(wanted.items()))))
    else:
        pipe.hdel(keys.ENVIRONMENTS, key)

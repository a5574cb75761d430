"""Namespaces as the admin makes, describes and deletes them by API.

Those that owners hold came with their first push (core/store/repositories.py). One that is made
here is the admin's own, as those of Slipway's own git remote.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

import msgspec
from redis.client import Pipeline

from core import keys, names
from core.errors import Conflict, InvalidRequest, NotFound
from core.names import DEFAULT_NAMESPACE
from core.openfaas import Namespace
from core.store.base import Base, encode, release_of, repository_key, text

_HOLDER = "git"
_TOLD = 10
"""Most names that a refusal lists."""


class Namespaces(Base):
    def has_namespace(self, name: str) -> bool:
        return name == DEFAULT_NAMESPACE or bool(self.redis.hexists(keys.NAMESPACES, name))

    def require_namespace(self, name: str) -> None:
        """For what is put into one. Raises InvalidRequest where there is none."""
        if not self.has_namespace(name):
            raise InvalidRequest(
                f"there is no namespace {name}: it comes with the first push to it, or with "
                "POST /system/namespace/"
            )

    def describe_namespace(self, name: str) -> Namespace:
        """Raises NotFound. Every namespace here is for functions, which is what OpenFaaS' label
        says: one that was never described has it."""
        self._require(name)
        raw = self.redis.hget(keys.NAMESPACE_TEXTS, name)
        if raw is None:
            return Namespace(name=name, labels={"openfaas": "1"})
        return msgspec.json.decode(cast(bytes, raw), type=Namespace)

    def create_namespace(self, namespace: Namespace) -> None:
        """A derived one belongs to whom its owner's does. Raises Conflict: it is there already."""

        def change(pipe: Pipeline) -> None:
            if self.has_namespace(namespace.name):
                raise Conflict(f"the namespace {namespace.name} is there already: PUT changes it")
            holder, there = _HOLDER, self._all()
            if "--" in namespace.name:
                owner = names.owner_of(namespace.name, there)
                if owner not in there:
                    raise Conflict(
                        f"the owner of the namespace {namespace.name} is not there any more"
                    )
                holder = text(pipe.hget(keys.NAMESPACES, owner))
            pipe.multi()
            pipe.hset(keys.NAMESPACES, namespace.name, holder)
            pipe.hset(keys.NAMESPACE_TEXTS, namespace.name, encode(namespace))

        self._transaction(change, keys.NAMESPACES)

    def update_namespace(self, namespace: Namespace) -> None:
        """Replaces labels and annotations. Raises NotFound."""

        def change(pipe: Pipeline) -> None:
            self._require(namespace.name)
            pipe.multi()
            pipe.hset(keys.NAMESPACE_TEXTS, namespace.name, encode(namespace))

        self._transaction(change, keys.NAMESPACES)

    def require_empty(self, name: str, known: Collection[str] | None = None) -> None:
        """For what is deleted; ``known``: the keys of its repositories, by default all it has now.

        Raises:
            NotFound: it is not there.
            Conflict: naming what is in it.
        """
        self._require(name)
        if found := self._content(name, known):
            raise Conflict(
                f"the namespace {name} is not empty: it has {'; '.join(found)}. Remove them first"
            )

    def delete_namespace(self, name: str) -> None:
        """Deletes one in which nothing is deployed, and forgets its repositories. Its tokens go,
        and to whom it was given: who holds the namespace next has nothing to do with them. Raises
        as ``require_empty``."""
        key = f"{name}/"
        own = [each for each in self.redis.hkeys(keys.REPOSITORIES) if text(each).startswith(key)]
        repositories = [text(each) for each in own]
        moving = [key(each) for each in repositories for key in (keys.turn, keys.waiting)]

        def change(pipe: Pipeline) -> None:
            self.require_empty(name, repositories)
            tokens = [
                text(id_)
                for id_, raw in cast("dict[bytes, bytes]", pipe.hgetall(keys.TOKENS)).items()
                if msgspec.json.decode(raw)["namespace"] == name
            ]
            named = self._naming(name, repositories)
            pipe.multi()
            if tokens:
                pipe.hdel(keys.TOKENS, *tokens)
                pipe.hdel(keys.TOKENS_USED, *tokens)
            for hash_, field in named:
                pipe.hdel(hash_, field)
            pipe.hdel(keys.NAMESPACES, name)
            pipe.hdel(keys.NAMESPACE_TEXTS, name)
            for each in repositories:
                pipe.hdel(keys.REPOSITORIES, each)
                pipe.hdel(keys.ENVIRONMENTS, each)
                pipe.delete(keys.head(each), keys.live(each))

        watched = (keys.NAMESPACES, keys.FUNCTIONS, keys.REPOSITORIES, keys.SECRETS)
        others = (keys.VARIABLES, keys.STAGING, keys.TOKENS, keys.OWNERS, keys.FORGE_REPOSITORIES)
        self._transaction(change, *watched, *others, keys.PREVIEWS, keys.PROMOTION_TAGS, *moving)

    def _naming(self, name: str, repositories: Collection[str]) -> list[tuple[str, bytes]]:
        """What elsewhere names a namespace, or a repository in it: (hash, field)."""

        def rows(key: str) -> list[tuple[bytes, str]]:
            found = cast("dict[bytes, bytes]", self.redis.hgetall(key))
            return [(field, text(value)) for field, value in found.items()]

        own = [(keys.OWNERS, field) for field, value in rows(keys.OWNERS) if value == name]
        for hash_ in (keys.FORGE_REPOSITORIES, keys.PREVIEWS):
            own += [(hash_, field) for field, value in rows(hash_) if value in repositories]
        tags = [field for field, _ in rows(keys.PROMOTION_TAGS)]
        own += [(keys.PROMOTION_TAGS, tag) for tag in tags if text(tag.split()[0]) in repositories]
        return own

    def _require(self, name: str) -> None:
        if not self.has_namespace(name):
            raise NotFound(f"there is no namespace {name}: see 'slipway namespaces'")

    def _content(self, name: str, known: Collection[str] | None) -> list[str]:
        """What is in it, in words; ``known`` are the keys of its repositories. One whose functions
        are all gone is forgotten with it."""
        functions, repositories, secrets = (
            [text(each) for each in self.redis.hkeys(key)]
            for key in (keys.FUNCTIONS, keys.REPOSITORIES, keys.SECRETS)
        )
        last, start = f".{name}", f"{name}/"
        there = {each for each in repositories if each.startswith(start)}
        new = set() if known is None else there - set(known)
        moving = new | {each for each in there if self._moves(each)}
        own = {
            "functions": [f.removesuffix(last) for f in functions if f.endswith(last)],
            "releases under way of": [each.removeprefix(start) for each in moving],
            "secrets": [s.removeprefix(start) for s in secrets if s.startswith(start)],
        }
        variables = self.redis.hget(keys.VARIABLES, name)
        if "--" not in name:
            own["namespaces of environments and previews"] = [
                each for each in self._all() if each != name and names.is_of(each, name)
            ]
        own["variables"] = list(msgspec.json.decode(cast(bytes, variables))) if variables else []
        return [f"{what} {_listed(found)}" for what, found in own.items() if found]

    def _all(self) -> list[str]:
        return [text(each) for each in self.redis.hkeys(keys.NAMESPACES)]

    def _moves(self, repository: str) -> bool:
        """Whether a release of the repository is on its way."""
        if self.redis.exists(keys.turn(repository), keys.waiting(repository)):
            return True
        ids = cast("set[bytes]", self.redis.smembers(keys.STAGING))
        staged = self._pipeline([("HGET", keys.release(text(id_)), "doc") for id_ in ids])
        return any(repository_key(release_of(raw, {})) == repository for raw in staged if raw)


def _listed(found: list[str]) -> str:
    more = f" and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
    return ", ".join(sorted(found)[:_TOLD]) + more

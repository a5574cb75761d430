"""Namespaces as the admin makes, describes and deletes them by API.

Those that owners hold came with their first push (core/store/repositories.py). One that is made
here is the admin's own, as those of Slipway's own git remote.
"""

from __future__ import annotations

from typing import cast

import msgspec
from redis.client import Pipeline

from core import keys
from core.errors import Conflict, InvalidRequest, NotFound
from core.names import DEFAULT_NAMESPACE
from core.openfaas import Namespace
from core.store.base import Base, encode, text

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
        """Raises Conflict: it is there already."""

        def change(pipe: Pipeline) -> None:
            if self.has_namespace(namespace.name):
                raise Conflict(f"the namespace {namespace.name} is there already: PUT changes it")
            pipe.multi()
            pipe.hset(keys.NAMESPACES, namespace.name, _HOLDER)
            pipe.hset(keys.NAMESPACE_TEXTS, namespace.name, encode(namespace))

        self._transaction(change, keys.NAMESPACES)

    def update_namespace(self, namespace: Namespace) -> None:
        """Replaces labels and annotations. Raises NotFound."""

        def change(pipe: Pipeline) -> None:
            self._require(namespace.name)
            pipe.multi()
            pipe.hset(keys.NAMESPACE_TEXTS, namespace.name, encode(namespace))

        self._transaction(change, keys.NAMESPACES)

    def delete_namespace(self, name: str) -> None:
        """Deletes an empty one.

        Raises:
            NotFound: it is not there.
            Conflict: naming what is in it.
        """

        def change(pipe: Pipeline) -> None:
            self._require(name)
            if found := self._content(name):
                raise Conflict(
                    f"the namespace {name} is not empty: it has {'; '.join(found)}. Remove them "
                    "first"
                )
            pipe.multi()
            pipe.hdel(keys.NAMESPACES, name)
            pipe.hdel(keys.NAMESPACE_TEXTS, name)

        watched = (keys.NAMESPACES, keys.FUNCTIONS, keys.REPOSITORIES, keys.SECRETS)
        self._transaction(change, *watched, keys.VARIABLES)

    def _require(self, name: str) -> None:
        if not self.has_namespace(name):
            raise NotFound(f"there is no namespace {name}: see 'slipway namespaces'")

    def _content(self, name: str) -> list[str]:
        """What is in it, in words."""
        functions, repositories, secrets = (
            [text(each) for each in self.redis.hkeys(key)]
            for key in (keys.FUNCTIONS, keys.REPOSITORIES, keys.SECRETS)
        )
        last, first = f".{name}", f"{name}/"
        own = {
            "functions": [f.removesuffix(last) for f in functions if f.endswith(last)],
            "repositories": [r.removeprefix(first) for r in repositories if r.startswith(first)],
            "secrets": [s.removeprefix(first) for s in secrets if s.startswith(first)],
        }
        variables = self.redis.hget(keys.VARIABLES, name)
        own["variables"] = list(msgspec.json.decode(cast(bytes, variables))) if variables else []
        return [f"{what} {_listed(found)}" for what, found in own.items() if found]


def _listed(found: list[str]) -> str:
    more = f" and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
    return ", ".join(sorted(found)[:_TOLD]) + more

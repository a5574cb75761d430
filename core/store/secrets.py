"""Secrets: sealed values by name, each in one namespace and out of every other one's reach.

A value leaves the store only through ``secret_values``, and only to who holds the key.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import msgspec
from redis.client import Pipeline

from core import keys, names
from core.errors import ConfigError, Conflict, NotFound
from core.sealing import KEY_BYTES, SealingKey
from core.signing import secret_file
from core.store.base import encode, text
from core.store.namespaces import Namespaces

MAX_SECRETS = 256
"""Of one namespace."""
MAX_VALUE = 2**20
"""Bytes of one value, as Kubernetes bounds it."""


class Sealed(msgspec.Struct, frozen=True):
    """A secret as it is kept."""

    version: str
    """Random, another one at each write."""
    key: str
    """Fingerprint of the key it is sealed with."""
    value: bytes


class Secrets(Namespaces):
    def sealing_key(self, path: Path) -> SealingKey:
        """The key to seal with, made where there is none and nothing is sealed yet.

        Raises:
            ConfigError: it is missing while secrets wait for it, or is no key.
        """
        if not path.exists() and (waiting := int(self.redis.hlen(keys.SECRETS))):
            raise ConfigError(
                f"the key for secrets is missing: {path} is not there, and {waiting} secrets are "
                "sealed with it. Put the file back, as a backup holds it; or delete those secrets, "
                "and a new key is made"
            )
        secret_file(path, length=KEY_BYTES)
        return SealingKey.read(path)

    def secrets(self, namespace: str) -> list[str]:
        """Their names, in order."""
        first = f"{namespace}/"
        found = (text(place) for place in self.redis.hkeys(keys.SECRETS))
        return sorted(place[len(first) :] for place in found if place.startswith(first))

    def create_secret(self, key: SealingKey, namespace: str, name: str, value: bytes) -> None:
        """
        Raises:
            InvalidRequest: there is no such namespace.
            Conflict: it exists, or the namespace has as many as it may.
        """
        place, sealed = _place(namespace, name), _sealed(key, namespace, name, value)

        def change(pipe: Pipeline) -> None:
            self.require_namespace(namespace)
            exists, held = pipe.hexists(keys.SECRETS, place), len(self.secrets(namespace))
            pipe.multi()
            if exists:
                raise Conflict(f"the secret {name} of {namespace} exists already: update it")
            if held >= MAX_SECRETS:
                raise Conflict(
                    f"{namespace} has {held} secrets, which is the most: delete one that no "
                    "function uses"
                )
            pipe.hset(keys.SECRETS, place, sealed)

        self._transaction(change, keys.SECRETS, keys.NAMESPACES)

    def update_secret(self, key: SealingKey, namespace: str, name: str, value: bytes) -> None:
        """Raises NotFound."""
        place, sealed = _place(namespace, name), _sealed(key, namespace, name, value)

        def change(pipe: Pipeline) -> None:
            exists = pipe.hexists(keys.SECRETS, place)
            pipe.multi()
            if not exists:
                raise _missing(namespace, [name])
            pipe.hset(keys.SECRETS, place, sealed)

        self._transaction(change, keys.SECRETS)

    def delete_secret(self, namespace: str, name: str) -> None:
        """Raises NotFound. Needs no key: one that nobody can open can still be deleted."""
        if not self.redis.hdel(keys.SECRETS, _place(namespace, name)):
            raise NotFound(f"{namespace} has not the secret {name}")

    def secret_versions(self, namespace: str, names: Sequence[str]) -> dict[str, str]:
        """Name → version of its value now.

        Raises:
            NotFound: naming those that the namespace does not have.
        """
        return {name: each.version for name, each in self._sealed(namespace, names).items()}

    def secret_values(
        self, key: SealingKey, namespace: str, names: Sequence[str]
    ) -> dict[str, bytes]:
        """Name → value now.

        Raises:
            NotFound: naming those that the namespace does not have.
            ConfigError: one is sealed with another key.
        """
        return {
            name: _opened(key, namespace, name, each)
            for name, each in self._sealed(namespace, names).items()
        }

    def _sealed(self, namespace: str, names: Sequence[str]) -> dict[str, Sealed]:
        wanted = list(dict.fromkeys(names))
        if not wanted:
            return {}
        places = [_place(namespace, name) for name in wanted]
        raws = cast("list[bytes | None]", self.redis.hmget(keys.SECRETS, places))
        found = {
            name: msgspec.json.decode(raw, type=Sealed)
            for name, raw in zip(wanted, raws, strict=True)
            if raw is not None
        }
        if len(found) < len(wanted):
            raise _missing(namespace, [name for name in wanted if name not in found])
        return found


def _place(namespace: str, name: str) -> str:
    """Its field in the store. Raises InvalidRequest for names that are none."""
    return f"{names.namespace(namespace)}/{names.secret_name(name)}"


def _sealed(key: SealingKey, namespace: str, name: str, value: bytes) -> bytes:
    version = secrets.token_hex(8)
    sealed = key.seal(value, _bound(namespace, name, version))
    return encode(Sealed(version=version, key=key.fingerprint, value=sealed))


def _opened(key: SealingKey, namespace: str, name: str, sealed: Sealed) -> bytes:
    value = key.open(sealed.value, _bound(namespace, name, sealed.version))
    if value is not None:
        return value
    if sealed.key != key.fingerprint:
        raise ConfigError(
            f"the secret {name} of {namespace} is sealed with another key than that in {key.path}: "
            "put the right file back, as a backup holds it, or set the secret anew"
        )
    raise ConfigError(
        f"the secret {name} of {namespace} does not open: it was changed in the store, or copied "
        "from another name; set it anew"
    )


def _bound(namespace: str, name: str, version: str) -> str:
    return f"{namespace}/{name} {version}"


def _missing(namespace: str, missing: Sequence[str]) -> NotFound:
    which = "the secret" if len(missing) == 1 else "the secrets"
    return NotFound(
        f"{namespace} has not {which} {', '.join(missing)}: create it with 'slipway secret create "
        f"{missing[0]} --namespace {namespace}'"
    )

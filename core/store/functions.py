"""Functions: what should run, and what the controller last saw."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar, cast

import msgspec
from redis.client import Pipeline

from core import keys
from core.models import FunctionRecord, Observed, Usage
from core.store.base import Base, encode, text

T = TypeVar("T")

USAGE_SECONDS = 10
"""A measurement is told for so long; who asks later gets a new one."""
ASKED_SECONDS = 60
"""An ask that no controller heard is forgotten."""
ASKED_AT_ONCE = 100
_PIECE = 500


def batched(of: Iterable[T]) -> Iterator[list[T]]:
    """Pieces that the store takes without making others wait."""
    left = iter(of)
    while some := list(islice(left, _PIECE)):
        yield some


class Functions(Base):
    def functions(self) -> dict[str, FunctionRecord]:
        rows = cast("dict[bytes, bytes]", self.redis.hgetall(keys.FUNCTIONS))
        return {text(k): msgspec.json.decode(v, type=FunctionRecord) for k, v in rows.items()}

    def function(self, function: str) -> FunctionRecord | None:
        raw = self.redis.hget(keys.FUNCTIONS, function)
        return None if raw is None else msgspec.json.decode(cast(bytes, raw), type=FunctionRecord)

    def of_names(self, functions: Iterable[str]) -> dict[str, FunctionRecord]:
        """Those of these functions (``name.namespace``) that are there."""
        decode = msgspec.json.Decoder(FunctionRecord).decode
        return self._among(keys.FUNCTIONS, list(functions), decode)

    def save_observed(self, observed: Mapping[str, Observed]) -> None:
        """Replaces what is known of every function, and tells those who wait for it."""

        def change(pipe: Pipeline) -> None:
            pipe.multi()
            pipe.delete(keys.OBSERVED)
            if observed:
                pipe.hset(keys.OBSERVED, mapping={k: encode(v) for k, v in observed.items()})
            pipe.publish(keys.SEEN, b"")

        self._transaction(change)

    def note_observed(self, function: str, observed: Observed) -> None:
        """The same of one function."""
        self._pipeline(
            [
                ("HSET", keys.OBSERVED, function, encode(observed)),
                ("PUBLISH", keys.SEEN, function),
            ]
        )

    def observed(self, function: str) -> Observed | None:
        raw = self.redis.hget(keys.OBSERVED, function)
        return None if raw is None else msgspec.json.decode(cast(bytes, raw), type=Observed)

    def all_observed(self) -> dict[str, Observed]:
        rows = cast("dict[bytes, bytes]", self.redis.hgetall(keys.OBSERVED))
        return {text(k): msgspec.json.decode(v, type=Observed) for k, v in rows.items()}

    def observed_of(self, functions: Sequence[str]) -> dict[str, Observed]:
        """Those of these functions of which something is known."""
        decode = msgspec.json.Decoder(Observed).decode
        return self._among(keys.OBSERVED, functions, decode)

    def sightings(self) -> Any:
        """A subscription to changes of what is observed (redis-py PubSub)."""
        subscription = self.redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        subscription.subscribe(keys.SEEN)
        return subscription

    def usage(self, function: str) -> Usage | None:
        """What was measured in the last seconds; None: nothing was."""
        raw = self.redis.get(keys.usage(function))
        return None if raw is None else msgspec.json.decode(cast(bytes, raw), type=Usage)

    def ask_usage(self, function: str) -> None:
        """The controller measures it within a few seconds."""
        self._pipeline(
            [
                ("SADD", keys.USAGE_ASKED, function),
                ("EXPIRE", keys.USAGE_ASKED, ASKED_SECONDS),
            ]
        )

    def usage_asked(self) -> list[str]:
        """Functions that were asked for, some of them; each is told once."""
        taken = cast("list[bytes]", self.redis.spop(keys.USAGE_ASKED, ASKED_AT_ONCE))
        return [text(each) for each in taken]

    def save_usage(self, usage: Mapping[str, Usage]) -> None:
        self._pipeline(
            ("SET", keys.usage(function), encode(each), "EX", USAGE_SECONDS)
            for function, each in usage.items()
        )

    def inputs(self, namespace: str, build_keys: Sequence[str]) -> dict[str, dict[str, str]]:
        """Those of an owner's build keys of which it is known → the named inputs."""
        decode = msgspec.json.Decoder(dict[str, str]).decode
        return self._among(keys.inputs(namespace), build_keys, decode)

    def save_artifact(
        self, namespace: str, key: str, artifact: str, inputs: Mapping[str, str]
    ) -> None:
        """Keeps what a build key gave, and what it was made of."""
        self._pipeline(
            [
                # First: housekeeping that is about to remove the same artifact finds so.
                ("HDEL", keys.UNNEEDED, f"{namespace} {artifact}"),
                ("HSET", keys.artifacts(namespace), key, artifact),
                ("HSET", keys.inputs(namespace), key, encode(inputs)),
            ]
        )

    def known_artifacts(self, namespaces: Collection[str]) -> dict[str, dict[str, list[str]]]:
        """Namespace → artifact → the build keys that gave it."""
        known: dict[str, dict[str, list[str]]] = {}
        for namespace in namespaces:
            of = known.setdefault(namespace, {})
            # In pieces: there may be many, and everybody else would wait.
            for key, artifact in self.redis.hscan_iter(keys.artifacts(namespace), count=_PIECE):
                of.setdefault(text(artifact), []).append(text(key))
        return known

    def unneeded(self) -> dict[str, float]:
        """``<namespace> <artifact>`` → Unix time since which nothing needs it."""
        rows = cast("dict[bytes, bytes]", self.redis.hgetall(keys.UNNEEDED))
        return {text(name): float(since) for name, since in rows.items()}

    def note_unneeded(self, since: Mapping[str, float], again: Collection[str]) -> None:
        """Adds names to ``unneeded``, and takes those out that are needed ``again``."""
        for some in batched(since.items()):
            self.redis.hset(keys.UNNEEDED, mapping={name: repr(at) for name, at in some})
        for names in batched(again):
            self.redis.hdel(keys.UNNEEDED, *names)

    def forget_artifact(self, namespace: str, artifact: str, build_keys: Collection[str]) -> None:
        """What had these keys is built again when it is wanted again."""
        if build_keys:
            self.redis.hdel(keys.artifacts(namespace), *build_keys)
            self.redis.hdel(keys.inputs(namespace), *build_keys)
        self.redis.hdel(keys.UNNEEDED, f"{namespace} {artifact}")

    def _among(self, place: str, names: Sequence[str], read: Callable[[bytes], T]) -> dict[str, T]:
        """Those entries of a hash that are there."""
        if not names:
            return {}
        found = cast("list[bytes | None]", self.redis.hmget(place, list(names)))
        return {name: read(raw) for name, raw in zip(names, found, strict=True) if raw is not None}

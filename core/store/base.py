"""What every part of the store stands on: the connection, transactions, small readers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

import msgspec
import redis
from redis.backoff import ExponentialBackoff
from redis.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from core.models import FunctionRow, Release, State, now

encode = msgspec.json.encode
T = TypeVar("T")


def connect(url: str) -> redis.Redis:
    """A client that rides out a restart of the store (about three seconds of retries)."""
    return redis.Redis.from_url(
        url,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.02), 10),
        retry_on_error=[RedisConnectionError, RedisTimeoutError, redis.exceptions.BusyLoadingError],
        socket_timeout=10,
        health_check_interval=30,
    )


class Base:
    """Holds the connection; ``redis`` is public for rq's use."""

    def __init__(self, connection: redis.Redis) -> None:
        self.redis = connection

    def ping(self) -> None:
        self.redis.ping()

    def _transaction(self, change: Callable[[Pipeline], T], *watched: str) -> T:
        done = self.redis.transaction(
            cast("Callable[[Pipeline], None]", change), *watched, value_from_callable=True
        )
        return cast(T, done)

    def _pipeline(self, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Sends commands in one go; no transaction."""
        with self.redis.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
            return list(pipe.execute())


def release_of(raw: bytes, rows: Mapping[bytes, bytes]) -> Release:
    return with_rows(msgspec.json.decode(raw, type=Release), rows)


def with_rows(release: Release, rows: Mapping[bytes, bytes]) -> Release:
    functions = [msgspec.json.decode(raw, type=FunctionRow) for _, raw in sorted(rows.items())]
    return msgspec.structs.replace(release, functions=functions)


def moved(release: Release, to: State, reason: str) -> Release:
    finished = now() if to.final and not release.finished_at else release.finished_at
    return msgspec.structs.replace(
        release, state=to, reason=reason or release.reason, finished_at=finished
    )


def decided(release: Release) -> str:
    because = f": {release.reason.strip().splitlines()[0]}" if release.reason.strip() else ""
    return f"{release.id} is {release.state} already{because}"


def repository_key(release: Release) -> str:
    return f"{release.namespace}/{release.repository}"


def first(ids: object) -> str:
    found = cast("list[bytes]", ids)
    return text(found[0]) if found else ""


def text(raw: object) -> str:
    return raw.decode() if isinstance(raw, bytes) else str(raw or "")

"""The store where nothing of Slipway runs: started for a moment, to read or to fill it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Mapping

import redis

from core.errors import ConfigError, Unavailable
from core.settings import Settings
from core.store import Store, connect
from supervisor import claims, parts
from supervisor.leftovers import Leftovers

_READY = 60.0
"""Seconds: a large append-only file takes time to load."""


@contextlib.contextmanager
def reached(settings: Settings, env: Mapping[str, str]) -> Iterator[Store]:
    """The store of an installation, whether it runs or not.

    Raises:
        ConfigError: there is no installation.
        Unavailable: a Redis of the admin's own does not answer.
    """
    try:
        with redis.Redis.from_url(settings.store_url, socket_timeout=5) as asked:
            asked.ping()
    except redis.RedisError as error:
        if settings.redis_url:
            raise Unavailable(f"the Redis of SLIPWAY_REDIS_URL does not answer: {error}") from error
    else:
        store = Store(connect(settings.store_url))
        try:
            yield store
        finally:
            store.redis.close()
        return
    if not (settings.state / "store").is_dir():
        raise ConfigError(
            f"there is no installation in {settings.state}: name its folder with --state"
        )
    lock = claims.claim_state(settings)
    try:
        with started(settings, env) as store:
            yield store
    finally:
        os.close(lock)


@contextlib.contextmanager
def started(settings: Settings, env: Mapping[str, str]) -> Iterator[Store]:
    """Starts the embedded store of a state folder that is ours alone, and ends it again; what was
    written is on the disk then.

    Raises:
        ConfigError: it does not start.
    """
    part = parts.store(settings, env)
    (settings.state / "store").mkdir(mode=0o700, exist_ok=True)
    claims.make_run_folder(settings.run, settings.store_socket.parent)
    # If we are killed, the next start finds and ends it.
    mark = Leftovers(settings.state / "parts").mark(part.name)
    try:
        process = subprocess.Popen(
            part.argv,
            env=parts.daemon(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[mark],
            start_new_session=True,
        )
    finally:
        os.close(mark)
    try:
        store = _wait(settings, process)
        yield store
        store.redis.close()
        process.terminate()  # it ends in order: all of it is written
        if process.wait(_READY):
            raise ConfigError(f"the store of {settings.state} ended with an error: see its disk")
    finally:
        process.kill()
        process.wait()


def _wait(settings: Settings, process: subprocess.Popen[bytes]) -> Store:
    deadline = time.monotonic() + _READY
    while True:
        try:
            with redis.Redis.from_url(settings.store_url, socket_timeout=5) as asked:
                asked.ping()
            return Store(connect(settings.store_url))
        except redis.RedisError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise ConfigError(
                    f"the store of {settings.state} does not start: {error}"
                ) from error
            time.sleep(0.05)

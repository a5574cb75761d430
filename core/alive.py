"""Whether a part of the installation lives, for health checks of containers.

``python -m core.alive controller``   0: it gave a sign of life within its time
``python -m core.alive worker``       0: a worker of this container did
``python -m core.alive queue``        0: what makes asynchronous calls did, in this container
``python -m core.alive reporter``     0: what tells forges of releases did, in this container
``python -m core.alive gateway``      0: the gateway answers on its socket, whatever it says

Otherwise 1, and the reason on stderr.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from core.errors import SlipwayError, Unavailable
from core.settings import Settings

_PARTS = ("controller", "worker", "queue", "reporter", "gateway")
SECONDS = 3.0
"""The longest wait for one answer."""


def place() -> str:
    """Tells containers apart, also those that share the host's network and so its name."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux
        namespace = ""
    return f"{socket.gethostname()}/{namespace}"


def owner(pid: int) -> str:
    """Tells a process from every other one, also those of other containers on this host:
    ``place pid start``; '' if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return f"{place()} {pid} {stat.rpartition(')')[2].split()[19]}"


def check(settings: Settings, part: str) -> None:
    """Raises Unavailable where the part does not live."""
    if part == "gateway":
        from core import http  # who only asks for its place need not carry what is needed here

        try:
            http.request(f"unix@{settings.gateway_socket}", "GET", "/", timeout=SECONDS)
        except OSError as error:
            raise Unavailable(f"the gateway does not answer: {error}") from error
        return
    import redis
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError
    from redis.retry import Retry

    from core.store import Store

    connection = redis.Redis.from_url(
        settings.store_url,
        socket_timeout=SECONDS,
        socket_connect_timeout=SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        living = Store(connection).beats(part)
    except RedisError as error:
        raise Unavailable(f"the store does not answer: {error}") from error
    finally:
        connection.close()
    if part in ("worker", "queue", "reporter"):
        living = {name: note for name, note in living.items() if note == place()}
    if not living:
        raise Unavailable(f"no sign of life of the {part}")


def main(arguments: list[str], env: Mapping[str, str]) -> int:
    if len(arguments) != 1 or arguments[0] not in _PARTS:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        check(Settings.from_env(env), arguments[0])
    except SlipwayError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))

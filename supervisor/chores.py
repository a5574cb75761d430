"""Short jobs that need more memory than the supervisor may keep, each in a process of its own.

``python -m supervisor.chores network-up <file>``    makes the functions' network, tells what came
                                                    of it in a file of JSON
``python -m supervisor.chores network-down``         removes it
``python -m supervisor.chores store``                asks the store of SLIPWAY_REDIS_URL
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

from core import cgroup, keys
from core.errors import ConfigError, SlipwayError, Unavailable
from core.sandbox.network import Network
from core.settings import Settings


def network_up(settings: Settings, out: Path) -> None:
    """Writes ``{"address": "10.99.0.1"}``, or ``{"missing": "<why>"}`` where none can be made;
    ``{"unfenced": "<why>"}`` besides the address where containers reach all that this host does."""
    if settings.runtime == "docker":
        out.write_text(json.dumps(_engine_network_up(settings)))
        return
    told = {"address": ""}
    network = Network.from_settings(settings)
    try:
        network.setup()
        told["address"] = str(network.address)
    except Unavailable as error:
        told["missing"] = str(error)
        with contextlib.suppress(Unavailable):  # what an earlier run left must not pass for one
            network.teardown()
    out.write_text(json.dumps(told))


def _engine_network_up(settings: Settings) -> dict[str, str]:
    from engine.client import Engine
    from runtime.providers.docker.network import FunctionsNetwork

    network = FunctionsNetwork(settings, Engine(settings.engine_url))
    try:
        network.ready()
    except Unavailable as error:
        return {"address": "", "missing": str(error)}
    told = {"address": str(network.fence.address)}
    return told | {"unfenced": network.unfenced} if network.unfenced else told


def network_down(settings: Settings) -> None:
    """At the end, when no function runs any more: control groups go as well.

    An engine's network stays, fence and all, while a container is on it.
    """
    if settings.runtime == "docker":
        from engine.client import Engine
        from runtime.providers.docker.network import FunctionsNetwork

        FunctionsNetwork(settings, Engine(settings.engine_url)).remove()
        cgroup.end_containers(settings.mark)
    else:
        Network.from_settings(settings).teardown()
    for groups in (cgroup.of_functions, cgroup.of_builds):
        groups(settings.mark, top=os.geteuid() == 0).clear()


def ask_store(settings: Settings) -> None:
    """Empties it of an earlier run's signs of life; ConfigError where it does not answer."""
    import redis

    try:
        with redis.Redis.from_url(settings.redis_url, socket_timeout=5) as connection:
            connection.delete(keys.BEATS, keys.DEATHS)
    except redis.RedisError as error:
        raise ConfigError(
            f"the Redis of SLIPWAY_REDIS_URL does not answer ({error}): start it or correct the "
            "URL; unset, Slipway starts one of its own"
        ) from error


def main() -> int:
    settings = Settings.from_env(os.environ)
    match sys.argv[1:]:
        case ["network-up", out]:
            network_up(settings, Path(out))
        case ["network-down"]:
            network_down(settings)
        case ["store"]:
            ask_store(settings)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SlipwayError as error:
        print(error, file=sys.stderr)
        sys.exit(1)

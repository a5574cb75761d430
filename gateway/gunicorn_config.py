"""gunicorn's settings: ``python -m gunicorn -c python:gateway.gunicorn_config gateway.wsgi:app``.

The process that reads this only watches over the worker: nothing heavy is imported here.

One worker: the slots of long requests and the tokens of running pushes are counted in it, and its
threads wait for others most of the time; functions' traffic goes through the edge.

It listens on ``Settings.gateway_socket``, by which the edge and git's hook come, and where there is
no edge on the public port. Under the supervisor these sockets are inherited, so that connections
wait in them while it restarts: their numbers are in ``SLIPWAY_LISTEN_FDS``. Elsewhere (compose) it
binds them itself.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from core.parents import end_with
from core.readiness import tell_ready
from gateway.environment import LISTEN_FDS, read_settings
from gateway.pools import THREADS

_settings = read_settings(os.environ)
_shared_memory = Path("/dev/shm")
_M_MMAP_THRESHOLD = -3  # malloc.h

_inherited = [f"fd://{number}" for number in os.environ.get(LISTEN_FDS, "").split(",") if number]
_public = [f"{_settings.bind}:{_settings.port}"] if _settings.edge == "none" else []

bind = _inherited or [f"unix:{_settings.gateway_socket}", *_public]
umask = 0o177  # of the socket that it makes, and of nothing else
backlog = 4096
worker_class = "gateway.worker.Worker"
workers = 1
threads = THREADS
timeout = 60
graceful_timeout = int(_settings.drain_timeout)
keepalive = 30
accesslog = None
loglevel = "warning"
worker_tmp_dir = str(_shared_memory) if os.access(_shared_memory, os.W_OK) else None
control_socket_disable = True
limit_request_line = 8190
limit_request_fields = 100
limit_request_field_size = 16384
permit_unconventional_http_method = True  # functions get every method
# Nobody in front of us speaks through headers: a client's must not change path or scheme.
forwarder_headers = ""
secure_scheme_headers: dict[str, str] = {}
forwarded_allow_ips = ""


def on_starting(server: Any) -> None:
    """Runs before the sockets are taken over."""
    server.systemd = bool(_inherited)  # as with systemd's: their paths are not gunicorn's to remove


def post_fork(server: Any, worker: Any) -> None:  # noqa: ARG001 - gunicorn's signature
    """Runs in the worker first. Without its master it takes no new connection, as the next one will
    have the socket, and finishes what it has accepted."""
    end_with(server.pid, signal.SIGTERM)
    # gunicorn takes a thousand connections, and ends where it cannot accept one.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with suppress(AttributeError):  # glibc keeps a large body's memory for the thread that had it
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**20)


def worker_exit(server: Any, worker: Any) -> None:
    """Runs last, in the worker; sometimes in the master as well. A worker that no master can end
    any more is not kept by threads that hang."""
    if os.getpid() == worker.pid and os.getppid() != server.pid:
        os._exit(0)


def post_worker_init(worker: Any) -> None:
    """Runs in the worker once the application is loaded."""
    app = worker.wsgi
    app.alive = lambda: worker.alive and not worker.parting
    app.hooks_socket = worker.listen_for_hooks(_settings.gateway_socket.parent)
    tell_ready()
    threading.Thread(target=app.begin, name="begin", daemon=True).start()

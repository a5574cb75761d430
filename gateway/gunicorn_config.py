"""gunicorn's settings: ``python -m gunicorn -c python:gateway.gunicorn_config gateway.wsgi:app``.

The process that reads this only watches over the worker: nothing heavy is imported here.

One worker: the slots of long requests and the tokens of running pushes are counted in it, and its
threads wait for others most of the time; functions' traffic goes through the edge.

It listens on ``Settings.gateway_socket``, always: the edge and git's hook come that way. Where
there is no edge the public socket is inherited as well: its number is in ``SLIPWAY_LISTEN_FD``.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from core.parents import end_with
from gateway.environment import LISTEN_FD, read_settings
from gateway.pools import THREADS

_settings = read_settings(os.environ)
_shared_memory = Path("/dev/shm")
_M_MMAP_THRESHOLD = -3  # malloc.h

bind = [f"unix:{_settings.gateway_socket}"]
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
    """Runs before the sockets are made.

    gunicorn makes sockets of its own or takes inherited ones, not both: ours is made here.
    """
    public = os.environ.get(LISTEN_FD, "")
    descriptors = [_listen(_settings.gateway_socket), *([int(public)] if public else [])]
    server.cfg.set("bind", [f"fd://{each}" for each in descriptors])


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
    app.alive = lambda: worker.alive
    threading.Thread(target=app.begin, name="begin", daemon=True).start()


def _listen(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(1024)
    return listener.detach()

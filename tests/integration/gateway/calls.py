"""What tests of asynchronous calls share: a gateway, the worker beside it, callbacks."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec

from core import keys
from core.models import Observed
from core.store import Store, connect
from tests.integration.gateway.harness import (
    ROOT,
    Gateway,
    Upstream,
    deploy,
    running,
)
from tests.integration.gateway.test_gateway_invoke import read_body
from tests.waiting import until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ONCE = {"com.openfaas.retry.attempts": "0"}
CALL_ID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


class Platform:
    """A gateway without an edge, and a worker that can be killed."""

    def __init__(self, gateway: Gateway, store: Store, folder: Path) -> None:
        self.gateway = gateway
        self.store = store
        self.folder = folder
        self.worker: subprocess.Popen[bytes] | None = None
        self._numbers = iter(range(1000))
        self._upstreams: dict[str, str] = {}

    def start(self) -> None:
        with (self.folder / "queue.log").open("ab") as log:
            self.worker = subprocess.Popen(
                [sys.executable, "-P", "-m", "gateway.queue_worker"],
                env={**self.gateway.settings.environment(), "PATH": os.environ["PATH"]},
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )

    def log(self) -> str:
        return (self.folder / "queue.log").read_text()

    def end(self) -> int:
        assert self.worker
        self.worker.terminate()
        return self.worker.wait(30)

    @contextmanager
    def function(
        self,
        name: str,
        handle: Callable[[socket.socket, bytes], None],
        annotations: Mapping[str, str] | None = None,
    ) -> Iterator[Upstream]:
        with Upstream(self.folder / f"f{next(self._numbers)}.sock", handle) as upstream:
            deploy(self.store, name, [upstream.address])
            self._upstreams[name] = upstream.address
            self.observe()
            if annotations:
                record = self.store.function(name)
                assert record
                spec = msgspec.structs.replace(record.spec, annotations=dict(annotations))
                changed = msgspec.json.encode(msgspec.structs.replace(record, spec=spec))
                self.store.redis.hset(keys.FUNCTIONS, name, changed)
            try:
                yield upstream
            finally:
                del self._upstreams[name]

    def observe(self) -> None:
        """As the controller would: all of them."""
        self.store.save_observed(
            {
                name: Observed(available=1, endpoints=[address])
                for name, address in self._upstreams.items()
            }
        )

    def call(self, path: str, **options: object) -> str:
        """Enqueues one; returns the id that we made."""
        answer = self.gateway.anonymous("POST", f"/async-function/{path}", **options)
        assert (answer.status_code, answer.content) == (202, b""), answer.text
        return answer.headers["X-Call-Id"]

    def idle(self) -> None:
        until(lambda: self.store.waiting_calls() == 0, 20, self.log)
        assert int(self.store.redis.get(keys.CALLS_SIZE) or 0) == 0


@contextmanager
def platform(valkey: str, database: int, **overrides: str) -> Iterator[Platform]:
    """``database``: of the store, as other tests empty their own."""
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    url = f"{valkey}?db={database}"
    connection = connect(url)
    connection.flushdb()
    settings = {
        "SLIPWAY_ALLOW_HOSTS": "localhost",
        "SLIPWAY_ASYNC_MAX_BODY": "100000",
        "SLIPWAY_ASYNC_QUEUE": "1000000",
    }
    with running(folder, url, **(settings | overrides)) as gateway:
        made = Platform(gateway, Store(connection), folder)
        made.start()
        yield made
        made.end()
    connection.close()
    shutil.rmtree(folder, ignore_errors=True)


class Callbacks:
    """A server outside, as far as the worker can tell: what it was sent, and how it answers."""

    def __init__(
        self,
        answer: Callable[[BaseHTTPRequestHandler], None] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.requests.append((self.path, headers, body))
                if answer:
                    answer(self)
                else:
                    self.send_response(200)
                    self.end_headers()

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls:
            # By the thread that serves a connection: one that breaks off harms no other.
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = self._server.server_address[1]

    def __enter__(self) -> Callbacks:
        threading.Thread(target=self._server.serve_forever, args=[0.05], daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}/done?x=%2F"


def echo(bodies: list[bytes], answer: bytes = OK) -> Callable[[socket.socket, bytes], None]:
    def handle(connection: socket.socket, head: bytes) -> None:
        bodies.append(read_body(connection, head))
        connection.sendall(answer)

    return handle

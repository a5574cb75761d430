"""Parts that the edge's tests stand up: HAProxy with an inherited listener, and small HTTP servers
on unix sockets as functions and as the gateway."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.sync.server import ServerConnection, unix_serve

from core.settings import ROOT, Settings
from runtime.edge import Route, config
from runtime.edge.driver import HAProxyEdge
from tests.waiting import until


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        if self.headers.get("Upgrade"):
            return self._websocket()
        length = 0
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                length += len(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
        elif wanted := int(self.headers.get("Content-Length", 0)):
            while length < wanted and (piece := self.rfile.read(min(65536, wanted - length))):
                length += len(piece)
        self.server.calls += 1
        if "sleep" in query:
            time.sleep(float(query["sleep"][0]))
        if "stream" in query:
            return self._stream(int(query["stream"][0]))
        if "abort" in query:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return None
        body = json.dumps(
            {
                "server": self.server.name,
                # self.path has leading slashes merged.
                "path": self.requestline.split(" ")[1],
                "method": self.command,
                "length": length,
                "headers": [[name.lower(), value] for name, value in self.headers.items()],
            }
        ).encode()
        self.send_response(int(query.get("status", ["200"])[0]))
        if "untyped" not in query:
            self.send_header("Content-Type", query.get("type", ["application/json"])[0])
        for header in query.get("header", ()):
            self.send_header(*header.split(":", 1))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        return None

    def _stream(self, count: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(count):
            event = f"data: {number} {time.time()}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
            time.sleep(0.3)
        self.wfile.write(b"0\r\n\r\n")

    def _websocket(self) -> None:
        """Shakes hands (RFC 6455 §4.2.2), then echoes bytes: frames do not matter to the edge."""
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.wfile.write(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
        )
        while piece := self.connection.recv(4096):
            self.connection.sendall(piece)
        self.close_connection = True

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Echoes requests as JSON; the query asks for more: sleep, status, type, stream, abort,
    untyped, header (name:value)."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self.calls = 0
        self._open: set[socket.socket] = set()
        path.unlink(missing_ok=True)
        super().__init__(str(path), _Handler)
        self.endpoint = f"unix@{path}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self.server_close()


class Proxy:
    """A real HAProxy, started as the supervisor does, with its driver and everything behind it."""

    def __init__(
        self,
        settings: Settings,
        *,
        pool: int = 64,
        gateway: Path | None = None,
        timeout: str = "",
    ) -> None:
        """``gateway``: the socket of a real one; else there is a server that echoes. ``timeout``:
        of clients, for tests that wait for it."""
        for folder in settings.run_folders:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.settings = settings
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self.listener.getsockname()[1]
        self.inside = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.inside_port: int = self.inside.getsockname()[1]
        self.local = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.local_port: int = self.local.getsockname()[1]
        self.config = config.write(
            settings,
            listener=self.listener.fileno(),
            local=self.local.fileno() if settings.tls_cert else "",
            functions_bind=f"fd@{self.inside.fileno()}",
            pool=pool,
        )
        if timeout:
            text = self.config.read_text()
            assert "timeout client 60s" in text
            self.config.write_text(text.replace("client 60s", f"client {timeout}"))
        self.gateway: Server | None = None
        if gateway:
            settings.gateway_socket.symlink_to(gateway)
        else:
            self.gateway = Server(settings.gateway_socket, "gateway")
        self.servers: dict[str, Server] = {}
        self.lost: list[Mapping[str, int]] = []
        """What the driver told as lost."""
        self.edge = HAProxyEdge(settings, pool=pool, lost=self.lost.append)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.start()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self.processes[-1]

    def start(self, *, replaces: int = 0) -> None:
        if replaces:  # as the supervisor does
            with config.takeover(self.settings, lead=True) as replaced:
                self._start()
                os.kill(replaces, signal.SIGUSR1)
                config.note_replaced(self.settings, [*replaced, replaces])
        else:
            self._start()

    def _start(self) -> None:
        fresh = subprocess.Popen(
            config.command(self.config),
            pass_fds=(self.listener.fileno(), self.local.fileno(), self.inside.fileno()),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin"},
        )
        self.processes.append(fresh)
        until(lambda: self.edge.alive() and self.edge._identify().pid == fresh.pid)

    def function(self, name: str) -> Server:
        """A running function server; ``name`` is what it says it is."""
        path = self.settings.run / f"{name}.sock"
        server = self.servers[name] = Server(path, name)
        return server

    def route(self, table: Mapping[str, Server | list[Server]]) -> None:
        self.edge.apply(routes(table))

    def get(self, path: str, **extra: Any) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Status, headers and echo of one request on a connection of its own."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", extra.pop("port", self.port), timeout=10
        )
        try:
            connection.request(extra.pop("method", "GET"), path, **extra)
            answer = connection.getresponse()
            body = answer.read()
            headers = {name.lower(): value for name, value in answer.getheaders()}
            echo = json.loads(body) if body.startswith(b"{") else {"text": body.decode()}
            return answer.status, headers, echo
        finally:
            connection.close()

    def raw(self, data: bytes, port: int = 0) -> bytes:
        """Everything that comes back for these bytes until the connection ends."""
        with socket.create_connection(("127.0.0.1", port or self.port), timeout=20) as connection:
            connection.sendall(data)
            reply = b""
            while piece := connection.recv(65536):
                reply += piece
        return reply

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        for server in (self.gateway, *self.servers.values()):
            if server:
                server.close()
        for listener in (self.listener, self.local, self.inside):
            listener.close()


@contextmanager
def before(gateway: Settings, domain: str) -> Iterator[Proxy]:
    """An edge in front of a gateway that runs, on a state folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    settings = Settings.from_env({"SLIPWAY_STATE": str(folder), "SLIPWAY_DOMAIN": domain})
    proxy = Proxy(settings, gateway=gateway.gateway_socket)
    try:
        yield proxy
    finally:
        proxy.close()
        shutil.rmtree(folder, ignore_errors=True)


def routes(table: Mapping[str, Server | list[Server]]) -> dict[str, Route]:
    return {
        function: Route(
            revision="", endpoints=[s.endpoint for s in (to if isinstance(to, list) else [to])]
        )
        for function, to in table.items()
    }


@contextmanager
def websocket_function(path: Path) -> Iterator[str]:
    """A function that speaks WebSocket with a library of today, and sends each message back with
    the path that it was asked by; gives its endpoint."""

    def echo(connection: ServerConnection) -> None:
        for message in connection:
            told = f"{connection.request.path}: " if connection.request else ""
            connection.send(told + message if isinstance(message, str) else message)

    with unix_serve(echo, str(path), max_size=2**24) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"unix@{path}"
        server.shutdown()
        thread.join()


def spawn_function(path: Path, name: str) -> subprocess.Popen[bytes]:
    """A function server in a process of its own, which a test can kill."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.edge_harness", str(path), name],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert process.stdout
    with process.stdout:
        assert process.stdout.readline() == b"ready\n"
    return process


if __name__ == "__main__":
    server = Server(Path(sys.argv[1]), sys.argv[2])
    print("ready", flush=True)
    threading.Event().wait()

"""A forge on loopback: real git over HTTP, and paths that misbehave."""

from __future__ import annotations

import http.server
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Forge(http.server.BaseHTTPRequestHandler):
    """git http-backend over HTTP/1.0 below one folder; paths that misbehave are by name."""

    folder: Path
    password = ""
    seen: list[str]

    def do_GET(self) -> None:
        self.serve(b"")

    def do_POST(self) -> None:
        self.serve(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def serve(self, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        self.seen.append(path)
        if path.startswith("/moved/"):
            self.answer(301, Location=self.path.replace("/moved/", "/a/"))
        elif path.startswith("/broken/"):
            self.answer(503)
        elif path.startswith("/slow/"):
            self.server.stopping.wait(20)  # type: ignore[attr-defined]  # made in forge()
        elif path.startswith("/static/"):
            self.static(self.folder / path.removeprefix("/static/"))
        elif self.password and self.headers.get("Authorization") != self.password:
            self.answer(401, **{"WWW-Authenticate": 'Basic realm="forge"'})
        else:
            self.backend(path, query, body)

    def static(self, file: Path) -> None:
        if not file.is_file():
            return self.answer(404)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(file.read_bytes())
        return None

    def backend(self, path: str, query: str, body: bytes) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        run = subprocess.run(
            ["git", "http-backend"], env=environment, input=body, capture_output=True, check=False
        )
        head, _, content = run.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def answer(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *_: object) -> None:
        pass


@contextmanager
def forge(folder: Path, password: str = "") -> Iterator[tuple[str, list[str]]]:
    """Serves the repositories below ``folder``: its URL, and the paths that it was asked for."""
    seen: list[str] = []
    handler = type("Here", (Forge,), {"folder": folder, "password": password, "seen": seen})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.stopping = threading.Event()  # type: ignore[attr-defined]  # ours alone
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.stopping.set()  # type: ignore[attr-defined]  # as above
        server.shutdown()
        server.server_close()
        thread.join()

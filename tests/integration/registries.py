"""A registry that lies, hangs and asks for passwords, as the engine meets it."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections import Counter
from typing import Any

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
LAYER = 10 * 2**30
"""Bytes that the layer of ``huge`` says it has."""

INSIDE = "the keys of the house are under the mat"


class Liar(http.server.ThreadingHTTPServer):
    """What the images' names ask it for: ``hang``, ``broken``, ``wrong``, ``huge``,
    ``lost``, ``slow``, ``inside`` (sends on to a server that refuses, and says why); everything
    else is not there."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.name = f"127.0.0.1:{self.server_address[1]}"
        self.asked: Counter[str] = Counter()
        """Image → requests for its manifest."""
        self.private = False
        """Whether it wants a user, whoever that is."""
        self.logins: list[str] = []
        """Every Authorization header that came."""
        self.cut = threading.Event()
        """The engine gave up while it was being sent a layer."""
        self.over = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()


class _Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Liar

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if login := self.headers.get("Authorization"):
            self.server.logins.append(login)
        _, _, name, *rest = [*self.path.split("/"), "", ""]
        if self.server.private and not login:
            headers = {"WWW-Authenticate": 'Basic realm="r"'}
            self._give(401, _error("UNAUTHORIZED", "authentication required"), headers=headers)
        elif self.path == "/inside":
            self._give(403, INSIDE.encode(), "text/plain")
        elif not name:
            self._give(200, b"{}")
        elif rest[0] == "manifests":
            self.server.asked[name] += 1
            self._manifest(name)
        elif name == "huge" and rest[1] != _digest(_config()):
            self._layer()
        elif rest[0] == "blobs":
            self._give(200, _config(), "application/octet-stream")

    def _manifest(self, name: str) -> None:
        match name:
            case "hang":
                self.server.over.wait(60)
            case "broken":
                self._give(500, b"no")
            case "inside":
                self._give(307, b"", headers={"Location": "/inside"})
            case "slow":
                self.server.over.wait(1)
                self._give(500, b"no")
            case "wrong" | "huge" | "lost":
                self._give(200, _manifest(), _MANIFEST)
            case _:
                self._give(404, _error("MANIFEST_UNKNOWN", "manifest unknown"))

    def _layer(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(LAYER))
        self.end_headers()
        try:
            while not self.server.over.is_set():
                self.wfile.write(b"\0" * 65536)
        except OSError:
            self.server.cut.set()

    def _give(
        self,
        status: int,
        body: bytes,
        kind: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        self.send_header("Content-Length", str(len(body)))
        if kind == _MANIFEST:
            self.send_header("Docker-Content-Digest", _digest(body))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _error(code: str, message: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


def _config() -> bytes:
    layers = {"type": "layers", "diff_ids": ["sha256:" + "1" * 64]}
    return json.dumps({"architecture": "amd64", "os": "linux", "rootfs": layers}).encode()


def _manifest() -> bytes:
    config = {
        "mediaType": "application/vnd.docker.container.image.v1+json",
        "size": len(_config()),
        "digest": _digest(_config()),
    }
    layer = {
        "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "size": LAYER,
        "digest": "sha256:" + "2" * 64,
    }
    return json.dumps(
        {"schemaVersion": 2, "mediaType": _MANIFEST, "config": config, "layers": [layer]}
    ).encode()


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()

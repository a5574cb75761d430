"""A real platform on a state folder and a port of its own, started and stopped as a user would.

The environment is clean: what says where packages come from is passed on, nothing else.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import processes
from core.settings import ROOT, Settings
from supervisor.parts import passed

REPEAT = 10
"""Measured rounds after one that warms up."""
READY = "slipway: ready"
POLL = 0.005
"""Seconds between two looks of a polling client: the resolution of what it sees."""
SUBNET = "10.109.0.0/16"
"""Functions' addresses: not the default, so that a Slipway on the same machine is not disturbed."""


class BenchError(Exception):
    """A figure could not be measured; the message says what was seen."""


class Platform:
    """One installation; ``start`` and ``stop`` may follow one another on the same state."""

    def __init__(
        self,
        folder: Path,
        *,
        command: Sequence[str] = (),
        checkout: Path = ROOT,
        state: Path | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        """``command``: what starts it in ``checkout``; by default this tree's without the demo."""
        self.folder = folder
        self.port = free_port()
        self.state = state or folder / "state"
        self.command = list(command) or [str(_slipway()), "up", "--no-demo"]
        self.checkout = checkout
        self.env = clean_environment(folder / "home") | {
            "SLIPWAY_PORT": str(self.port),
            "SLIPWAY_STATE": str(self.state),
            "SLIPWAY_SUBNET": SUBNET,
            "SLIPWAY_LOG_FORMAT": "json",
            "SLIPWAY_RUNTIME": "process",
            **(env or {}),
        }
        self.settings = Settings.from_env(self.env)
        self.output = folder / "output"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def password(self) -> str:
        return (self.state / "admin-password").read_text().strip()

    def start(self, *, timeout: float = 300) -> None:
        """Runs the command; it is not ready yet when this returns."""
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._process = subprocess.Popen(
            self.command,
            cwd=self.checkout,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._deadline = time.monotonic() + timeout
        self._reader.start()

    def await_ready(self) -> None:
        """Returns when the platform has printed its last line."""
        while not self._ready.wait(0.1):
            self._check("was ready")
        if not self._said_ready:
            raise BenchError(f"{self.command} did not become ready:\n{self._tail()}")

    def await_health(self) -> None:
        """Returns when /healthz has answered 200."""
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                status, _ = get(self.url, "/healthz", timeout=5)
                if status == 200:
                    return
            self._check("was healthy")
            time.sleep(POLL)

    def parts(self) -> dict[str, list[int]]:
        """The platform's own processes by part, the supervisor's among them; no functions."""
        if self._process is None:
            raise BenchError("the platform does not run")
        parts: dict[str, list[int]] = {}
        for pid in processes.tree([self._process.pid], functions=False):
            parts.setdefault(_part(processes.arguments(pid)), []).append(pid)
        return parts

    def api(self, path: str) -> Any:
        """A JSON document of the API, read as the admin."""
        return json.loads(self._get(path))

    def lines(self, path: str) -> list[dict[str, Any]]:
        """The JSON lines of a log that the API serves."""
        return [json.loads(line) for line in self._get(path).splitlines() if line.strip()]

    def post(self, path: str, document: Any) -> bytes:
        """Sends a JSON document to the API as the admin; 202 is what it answers."""
        return self._ask("POST", path, json.dumps(document).encode(), wanted=202)

    def _get(self, path: str) -> bytes:
        return self._ask("GET", path, None, wanted=200)

    def _ask(self, method: str, path: str, body: bytes | None, *, wanted: int) -> bytes:
        token = base64.b64encode(f"admin:{self.password}".encode()).decode()
        headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
        status, answer = ask(self.url, method, path, body=body, headers=headers, timeout=30)
        if status != wanted:
            raise BenchError(f"{method} {path} answered {status}: {answer[:500]!r}")
        return answer

    def log(self, part: str) -> list[dict[str, Any]]:
        """The JSON lines that a part has logged."""
        found = []
        for line in (self.state / "log" / f"{part}.log").read_text().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return [line for line in found if isinstance(line, dict)]

    def stop(self) -> None:
        """Ctrl-C. What does not end in time is killed, which is an error."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            _kill(process)
            raise BenchError(f"the platform did not stop in 60 s:\n{self._tail()}") from None
        finally:
            self._reader.join(5)
            if process.stdout:
                process.stdout.close()

    def _read(self) -> None:
        """Keeps what the platform prints, and notes the line that says that it is ready."""
        self._said_ready = False
        assert self._process is not None
        assert self._process.stdout is not None
        with self.output.open("ab") as out:
            for line in self._process.stdout:
                out.write(line)
                out.flush()
                told = line.decode(errors="replace").strip()
                if told.startswith(READY):  # it may go on: "(the demo failed: …)"
                    self._said_ready = told == READY
                    self._ready.set()
        self._ready.set()

    def _check(self, what: str) -> None:
        assert self._process is not None
        if self._process.poll() is not None:
            raise BenchError(f"{self.command} ended before it {what}:\n{self._tail()}")
        if time.monotonic() > self._deadline:
            raise BenchError(f"{self.command} took too long until it {what}:\n{self._tail()}")

    def _tail(self) -> str:
        return "\n".join(self.output.read_text(errors="replace").splitlines()[-30:])


@contextlib.contextmanager
def running(folder: Path, env: dict[str, str] | None = None) -> Iterator[Platform]:
    """A platform of this tree, without the demo, that answers; stopped at the end."""
    platform = Platform(folder, env=env)
    try:
        platform.start()
        platform.await_ready()
        platform.await_health()
        yield platform
    finally:
        platform.stop()


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder whose path is short enough for sockets, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="slipway-bench-"))
    # Functions run as users of their own and must get through to their files.
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def clean_environment(home: Path) -> dict[str, str]:
    """The environment of a user who has nothing of ours: an empty home, no caches."""
    home.mkdir(parents=True, exist_ok=True)
    told = passed(os.environ)
    inside = os.path.dirname(sys.executable)  # noqa: PTH120 - text, as PATH has it
    path = [each for each in told.get("PATH", "").split(os.pathsep) if each != inside]
    return {**told, "HOME": str(home), "LANG": "C.UTF-8", "PATH": os.pathsep.join(path)}


def get(url: str, path: str, *, timeout: float = 10) -> tuple[int, bytes]:
    """One GET on a connection of its own. Raises as ``ask``."""
    return ask(url, "GET", path, timeout=timeout)


def ask(
    url: str,
    method: str,
    path: str,
    *,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    timeout: float = 10,
) -> tuple[int, bytes]:
    """One request on a connection of its own: (status, body).

    Raises:
        OSError, http.client.HTTPException: nothing answered.
    """
    host, _, port = url.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=timeout)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def await_answer(url: str, path: str, wanted: str, *, timeout: float = 120) -> float:
    """Polls until ``path`` answers 200 with the text ``wanted``; returns the time (monotonic)."""
    deadline = time.monotonic() + timeout
    seen = "nothing"
    while time.monotonic() < deadline:
        try:
            status, body = get(url, path)
        except (OSError, http.client.HTTPException) as error:
            seen = type(error).__name__
        else:
            if status == 200 and body.decode(errors="replace").strip() == wanted:
                return time.monotonic()
            seen = f"{status} {body[:200]!r}"
        time.sleep(POLL)
    raise BenchError(f"{path} did not answer {wanted!r} within {timeout:g} s; last: {seen}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def commit() -> str:
    """The commit that is measured; ``+`` where the working tree differs from it."""
    env = clean_environment(Path(tempfile.gettempdir()))

    def git(*arguments: str) -> str:
        argv = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(argv, env=env, capture_output=True, text=True, check=True).stdout

    paths = [":!bench/results"]
    dirty = git("status", "--porcelain", "--", *paths).strip()
    return git("rev-parse", "--short", "HEAD").strip() + ("+" if dirty else "")


def _slipway() -> Path:
    return Path(sys.executable).with_name("slipway")


def _part(argv: list[str]) -> str:
    """The part that a process is, by what it runs."""
    line = " ".join(argv)
    for mark, part in (
        ("gunicorn", "gateway"),
        ("builder.worker", "workers"),
        ("gateway.queue_worker", "queue"),
        ("gateway.reporter", "reporter"),
        ("runtime.controller", "controller"),
        ("haproxy", "edge"),
        ("valkey-server", "store"),
        ("redis-server", "store"),
        ("up", "supervisor"),
    ):
        if mark in line:
            return part
    return "other"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends a platform that does not stop, functions and all."""
    for pid in reversed(processes.tree([process.pid])):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()

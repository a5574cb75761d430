"""Webhooks while 200 clients follow a function's log, against the same webhooks while nobody does.

One function writes lines at a steady rate all the time. Signed push events come at a steady rate
through the edge, each on a connection of its own; an answer's time counts from the moment at which
the event was due, so that a slow answer does not hide that later ones had to wait.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import multiprocessing
import secrets
import selectors
import socket
import statistics
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from bench import harness, processes
from bench.figures import Figure, Result, most
from bench.harness import BenchError, Platform
from bench.repository import OWNER, Repository

FOLLOWERS = 200
LINES = 20
WEBHOOKS = 50
"""A second."""
SECONDS = 10
"""Length of one round."""
FUNCTION = "writer"
_HANDLER = f"""\
import itertools
import threading
import time


def write():
    for number in itertools.count():
        print(number, flush=True)
        time.sleep({1 / LINES})


threading.Thread(target=write, daemon=True).start()


def handle(event, context):
    return "version 0"
"""


@dataclass
class Side:
    """What was seen with followers, or without."""

    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)

    def measure(self, platform: Platform, secret: str) -> None:
        times = sorted(_webhooks(platform, secret))
        self.p50.append(statistics.median(times) * 1000)
        self.p99.append(times[int(len(times) * 0.99)] * 1000)
        self.memory.append(sum(map(processes.pss, platform.parts()["gateway"])) / 2**20)

    def forget(self) -> None:
        """Drops the round that warmed up."""
        self.p50.clear()
        self.p99.clear()
        self.memory.clear()


def run(repeat: int) -> Result:
    """Measures both, ``repeat`` rounds each after one that warms up."""
    secret = secrets.token_hex(16)
    followed, alone = Side(), Side()
    lines = 0
    with (
        harness.scratch() as folder,
        # Nothing listens there: the one release that the events make fails at once.
        harness.running(
            folder,
            {"SLIPWAY_GITHUB_WEBHOOK_SECRET": secret, "SLIPWAY_GITHUB_URL": "http://127.0.0.1:9"},
        ) as platform,
    ):
        _deploy(folder, platform)
        for number in range(repeat + 1):
            for side in (followed, alone) if number % 2 else (alone, followed):
                if side is followed:
                    with _Followers(platform) as followers:
                        side.measure(platform, secret)
                    lines += followers.lines
                else:
                    side.measure(platform, secret)
            if not number:
                followed.forget()
                alone.forget()
    return Result(
        figures=[
            Figure(
                name=f"webhook, {name}, while {FOLLOWERS} follow",
                unit=unit,
                samples=samples,
                reference="nobody follows",
                reference_samples=reference,
                aim=aim,
            )
            for name, unit, samples, reference, aim in (
                ("p50", "ms", followed.p50, alone.p50, None),
                ("p99", "ms", followed.p99, alone.p99, most(1000)),
                ("gateway's memory", "MB", followed.memory, alone.memory, None),
            )
        ],
        notes=[
            f"{WEBHOOKS} signed push events and {LINES} lines a second, {SECONDS} s a round. "
            f"Every follower got every line once: {lines:,} lines in all."
        ],
    )


def _deploy(folder: Path, platform: Platform) -> None:
    repository = Repository(folder, platform, "follow")
    repository.write_stack([FUNCTION])
    repository.write_function(FUNCTION, "version 0")
    (repository.folder / FUNCTION / "handler.py").write_text(_HANDLER)
    repository.commit()
    repository.finish(repository.push())
    harness.await_answer(platform.url, repository.path(FUNCTION), "version 0")


def _webhooks(platform: Platform, secret: str) -> list[float]:
    """Sends a round's events; returns how long each took, in seconds.

    They are one delivery that comes again and again: each is verified, parsed and looked up in the
    store as any other, but no builds disturb the measurement.
    """
    body = json.dumps(
        {
            "ref": "refs/heads/main",
            "after": "a" * 40,
            "deleted": False,
            "repository": {
                "id": 1,
                "name": "events",
                "full_name": "hooks/events",
                "default_branch": "main",
                "owner": {"id": 1, "login": "hooks", "name": "hooks"},
            },
        }
    ).encode()
    headers = {
        "Content-Type": "application/json",
        "X-GitHub-Event": "push",
        "X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
        "X-Hub-Signature-256": "sha256="
        + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest(),
    }
    times = []
    begun = time.monotonic()
    for number in range(SECONDS * WEBHOOKS):
        due = begun + number / WEBHOOKS
        time.sleep(max(due - time.monotonic(), 0))
        connection = http.client.HTTPConnection("127.0.0.1", platform.port, timeout=30)
        try:
            connection.request("POST", "/webhooks/github", body, headers)
            answer = connection.getresponse()
            told = answer.read()
        finally:
            connection.close()
        times.append(time.monotonic() - due)
        if answer.status != 202:
            raise BenchError(f"a webhook was answered {answer.status}: {told[:200]!r}")
    return times


class _Followers:
    """All followers, in a process of their own; ``lines``: what they got together."""

    def __init__(self, platform: Platform) -> None:
        self.lines = 0
        token = base64.b64encode(f"admin:{platform.password}".encode()).decode()
        query = f"name={FUNCTION}&namespace={OWNER}&follow=true&tail=1"
        request = (
            f"GET /system/logs?{query} HTTP/1.1\r\nHost: 127.0.0.1:{platform.port}\r\n"
            f"Authorization: Basic {token}\r\n\r\n"
        ).encode()
        spawn = multiprocessing.get_context("spawn")  # the request goes by a pipe, not by arguments
        self._ours, theirs = spawn.Pipe()
        self._process = spawn.Process(
            target=_follow, args=(platform.port, request, theirs), daemon=True
        )

    def __enter__(self) -> _Followers:
        self._process.start()
        self._told("began")
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if error[0] is None:
                self._ours.send("stop")
                self._told("got their lines")
        finally:
            self._process.kill()
            self._process.join()

    def _told(self, what: str) -> None:
        if not self._ours.poll(120):
            raise BenchError(f"the followers took too long until they {what}")
        told = self._ours.recv()
        if isinstance(told, str):
            raise BenchError(told)
        self.lines = told


def _follow(port: int, request: bytes, pipe: Connection) -> None:
    """Begins to follow, says so, reads until it is told to stop, and tells how many lines came."""
    got: dict[socket.socket, bytearray] = {}
    selector = selectors.DefaultSelector()
    try:
        for _ in range(FOLLOWERS):
            connection = socket.create_connection(("127.0.0.1", port), 30)
            connection.sendall(request)
            got[connection] = bytearray()
            selector.register(connection, selectors.EVENT_READ)
        selector.register(pipe, selectors.EVENT_READ)
        waiting = set(got)
        while True:
            for key, _ in selector.select():
                if key.fileobj is pipe:
                    pipe.send(sum(map(_count, got.values())))
                    return
                connection = key.fileobj  # type: ignore[assignment]  # all others are sockets
                data = connection.recv(2**16)
                if not data:
                    raise BenchError(f"a follower was cut off: {bytes(got[connection][:300])!r}")
                got[connection] += data
                if connection in waiting and b'"text"' in got[connection]:
                    waiting.remove(connection)
                    if not waiting:
                        pipe.send(0)
    except (BenchError, OSError) as error:
        pipe.send(f"the followers failed: {error}")


def _count(data: bytearray) -> int:
    """Lines of one follower, which must be numbered without a gap."""
    whole = _body(bytes(data)).rpartition(b"\n")[0]
    numbers = [int(json.loads(line)["text"]) for line in whole.splitlines() if line]
    if not numbers or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise BenchError(f"a follower got the lines {numbers[:5]} … {numbers[-5:]}")
    return len(numbers)


def _body(data: bytes) -> bytes:
    """What a chunked answer carried so far."""
    _, _, rest = data.partition(b"\r\n\r\n")
    parts = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        parts.append(rest[: int(size or b"0", 16)])
        rest = rest[int(size or b"0", 16) + 2 :]
    return b"".join(parts)

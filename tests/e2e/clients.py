"""Clients of six kinds that never pause and check every byte of their answers, and two functions
that can answer them.

    keep-alive   one request after the other on one connection
    fresh        a connection for each
    slow         sends a body, and reads a long answer, in small pieces with pauses
    stream       follows events for a second and more
    upload       some MB, with a length and chunked in turns
    websocket    says a word, wants it back

What does not come back as it should is a failure. A WebSocket to a revision that has been replaced
may be closed once its time to drain is over, and not before.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import count

import websockets.sync.client as websockets
from websockets.exceptions import ConnectionClosed, WebSocketException

from tests.e2e.platform import Platform, Repository, handler, stack
from tests.e2e.test_streams import RAW
from tests.waiting import until

PATIENCE = 60.0
"""Seconds that an answer may take on a busy machine."""
EVENTS = 12
LONG = 2**21
"""Bytes of the long answer."""

FLOW = f"""
import hashlib
import json
import os
import threading
import time

VERSION = int(os.environ["VERSION"])
RELEASED = threading.Event()


def count():
    for number in range({EVENTS}):
        yield f"data: {{VERSION}} {{number}}\\n\\n"
        time.sleep(0.1)


def handle(event, context):
    if event.path == "/events":
        return count(), 200, {{"Content-Type": "text/event-stream"}}
    if event.path == "/wait":
        RELEASED.wait(float(event.query["seconds"]))
    if event.path == "/release":
        RELEASED.set()
    if event.path == "/long":
        return bytes([VERSION % 256]) * {LONG}, 200, {{"X-Version": str(VERSION)}}
    told = {{"version": VERSION, "size": len(event.body),
            "digest": hashlib.sha256(event.body).hexdigest()}}
    return json.dumps(told)
"""

BROKEN = "def handle(event, context):\n    return {'statusCode': 500, 'body': 'broken'}\n"


def files(version: int) -> dict[str, str]:
    """A repository with ``flow`` and ``talk``, whose answers tell their version. Another version is
    another revision, and nothing to build."""
    told = f"{{VERSION: '{version}'}}"
    talk = stack("talk", fprocess="python3 function/raw.py", environment=told)
    return {
        "stack.yml": stack("flow", environment=told) + talk.partition("functions:\n")[2],
        "flow/handler.py": FLOW,
        "talk/handler.py": "def handle(event, context):\n    return ''\n",
        "talk/raw.py": RAW.replace("data.upper()", "data + VERSION").replace(
            "import socket\n",
            "import os\nimport socket\n\nVERSION = b' %s' % os.environb[b'VERSION']\n",
        ),
    }


class Mismatch(Exception):
    """An answer is not what it must be."""


class Crowd:
    """All clients of one owner's two functions, each in a thread of its own."""

    def __init__(self, port: int, owner: str, drain: float) -> None:
        """``drain``: seconds that a leaving replica has for its requests."""
        self.port = port
        self.owner = owner
        self.drain = drain
        self.failures: list[str] = []
        self.done: Counter[str] = Counter()
        """Kind → what was answered in full."""
        self.closings = 0
        """WebSockets that were closed in their time."""
        self.version = 0
        """What answers on fresh connections."""
        self.left: list[float] = []
        """When replicas left, because they were replaced or too many."""
        self._stop = threading.Event()
        kinds: Mapping[str, Callable[[], Iterator[None]]] = {
            "keep-alive": self._keep_alive,
            "fresh": self._fresh,
            "slow": self._slow,
            "stream": self._stream,
            "upload": self._upload,
            "websocket": self._websocket,
        }
        self.kinds = list(kinds)
        self._threads = [
            threading.Thread(target=self._run, args=[kind, do], name=kind, daemon=True)
            for kind, do in kinds.items()
        ]

    def __enter__(self) -> Crowd:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Everybody goes home."""
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    @contextmanager
    def unharmed(self) -> Iterator[None]:
        """Whatever is done within harms nobody, and everybody is answered twice after it: by what
        was begun meanwhile, and by what is begun then."""
        failed = len(self.failures)
        yield
        before = Counter(self.done)
        until(
            lambda: (
                self.failures[failed:]
                or all(self.done[kind] >= before[kind] + 2 for kind in self.kinds)
            ),
            30,
            lambda: f"{dict(before)} → {dict(self.done)}",
        )
        assert self.failures[failed:] == []

    def sees(self, version: int) -> None:
        """Waits until somebody is answered by this version."""
        until(lambda: version == self.version or self.failures, 30)
        assert self.failures == []

    # Inside.

    def _run(self, kind: str, do: Callable[[], Iterator[None]]) -> None:
        while not self._stop.is_set():
            try:
                for _ in do():
                    self.done[kind] += 1
                    if self._stop.is_set():
                        return
            except (OSError, http.client.HTTPException, WebSocketException, Mismatch) as error:
                if not self._stop.is_set():
                    self.failures.append(f"{kind}: {type(error).__name__}: {error}")
                time.sleep(0.1)

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def _path(self, rest: str = "") -> str:
        return f"/function/flow.{self.owner}{rest}"

    def _check(self, answer: http.client.HTTPResponse, sent: bytes = b"") -> int:
        """Returns the version that answered."""
        body = answer.read()
        if answer.status != 200:
            raise Mismatch(f"{answer.status} {body[:300]!r}")
        told = json.loads(body)
        if (told["size"], told["digest"]) != (len(sent), hashlib.sha256(sent).hexdigest()):
            raise Mismatch(f"{len(sent)} bytes arrived as {told}")
        return int(told["version"])

    def _keep_alive(self) -> Iterator[None]:
        with closing(self._connect()) as connection:  # opens another one where it was told to
            while True:
                connection.request("GET", self._path())
                self._check(connection.getresponse())
                yield

    def _fresh(self) -> Iterator[None]:
        with closing(self._connect()) as connection:
            connection.request("GET", self._path(), headers={"Connection": "close"})
            version = self._check(connection.getresponse())
            if version != self.version:  # this thread alone: one request after the other
                self.version = version
                self.left.append(time.monotonic())
            yield

    def _slow(self) -> Iterator[None]:
        body = random.randbytes(4000)

        def pieces() -> Iterator[bytes]:
            for start in range(0, len(body), 500):
                yield body[start : start + 500]
                time.sleep(0.1)

        with closing(self._connect()) as connection:
            length = {"Content-Length": str(len(body))}
            connection.request("POST", self._path(), pieces(), length)
            self._check(connection.getresponse(), body)
            yield
        with closing(self._connect()) as connection:
            connection.connect()
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
            connection.request("GET", self._path("/long"))
            answer = connection.getresponse()
            version = int(answer.getheader("X-Version") or 0)
            got = 0
            while piece := answer.read(LONG // 10):
                if piece.strip(bytes([version % 256])):
                    raise Mismatch("the long answer has other bytes")
                got += len(piece)
                time.sleep(0.1)
            if got != LONG:
                raise Mismatch(f"{got} of {LONG} bytes of the long answer came")
            yield

    def _stream(self) -> Iterator[None]:
        with closing(self._connect()) as connection:
            connection.request("GET", self._path("/events"))
            answer = connection.getresponse()
            events = answer.read().decode().split("\n\n")  # IncompleteRead where it is cut off
            version = events[0].split(" ")[1] if answer.status == 200 else ""
            if events != [*(f"data: {version} {number}" for number in range(EVENTS)), ""]:
                raise Mismatch(f"{answer.status} {events}")
            yield

    def _upload(self) -> Iterator[None]:
        body = random.randbytes(3 * 2**20)
        pieces = [body[start : start + 100_000] for start in range(0, len(body), 100_000)]
        for chunked in (False, True):
            with closing(self._connect()) as connection:
                connection.request(
                    "POST",
                    self._path(),
                    iter(pieces) if chunked else body,
                    {"Content-Type": "application/octet-stream"},
                    encode_chunked=chunked,
                )
                self._check(connection.getresponse(), body)
                yield

    def _websocket(self) -> Iterator[None]:
        version, connected = 0, time.monotonic()
        url = f"ws://127.0.0.1:{self.port}/function/talk.{self.owner}"
        try:
            with websockets.connect(
                url, open_timeout=PATIENCE, close_timeout=1, ping_interval=None
            ) as client:
                for number in range(10**6):
                    client.send(f"word {number}")
                    word, _, told = str(client.recv(PATIENCE)).rpartition(" ")
                    version = int(told)
                    if word != f"word {number}":
                        raise Mismatch(f"'word {number}' came back as {word!r}")
                    yield
                    time.sleep(0.05)
        except ConnectionClosed as error:
            # Noted a little after it left, which makes the time that it had look shorter.
            left = next((when for when in self.left if when > connected), time.monotonic())
            since = time.monotonic() - left
            if since < self.drain / 2:
                raise Mismatch(
                    f"closed {since:.1f} s after replicas left, of version {version} while "
                    f"{self.version} is live: {error}"
                ) from error
            self.closings += 1


@dataclass
class Scene:
    """A platform with two functions, and the crowd that calls them."""

    platform: Platform
    repository: Repository
    crowd: Crowd
    first: str
    """The first release."""
    versions: Iterator[int] = field(default_factory=lambda: count(2))

    def push(self) -> int:
        """Releases another version of both functions."""
        version = next(self.versions)
        pushed = self.repository.push(files(version))
        assert pushed.last.startswith("slipway: live"), pushed.text + self.platform.logs()
        return version

    def scale(self, replicas: int) -> None:
        for name in ("flow", "talk"):
            answer = self.platform.request(
                f"/system/scale-function/{name}.ann",
                method="POST",
                data=b'{"replicas": %d}' % replicas,
                admin=True,
            )
            assert answer.status == 202, answer.text
        self.crowd.left.append(time.monotonic())
        until(lambda: all(self.available(each) == replicas for each in ("flow", "talk")), 20)

    def available(self, name: str) -> int:
        told = self.platform.request(f"/system/function/{name}.ann", admin=True).json()
        return int(told["availableReplicas"])


@contextmanager
def acting(platform: Platform, drain: float) -> Iterator[Scene]:
    """The first version is live, and everybody calls; at the end nobody may have been harmed."""
    repository = platform.repository("ann", "both")
    pushed = repository.push(files(1))
    assert pushed.last.startswith("slipway: live"), pushed.text + platform.logs()
    with Crowd(platform.port, "ann", drain) as crowd:
        crowd.sees(1)
        yield Scene(platform, repository, crowd, first=pushed.last.split()[-1])
    assert crowd.failures == []


@contextmanager
def called(platform: Platform, *functions: str) -> Iterator[Counter[tuple[str, int, str]]]:
    """Calls functions all the time meanwhile: (function, status, text) → how often it was told."""
    seen: Counter[tuple[str, int, str]] = Counter()
    done = threading.Event()

    def call(function: str) -> None:
        while not done.wait(0.02):
            answer = platform.call(function)
            seen[function, answer.status, answer.text] += 1

    clients = [threading.Thread(target=call, args=[each]) for each in functions]
    for client in clients:
        client.start()
    try:
        yield seen
    finally:
        done.set()
        for client in clients:
            client.join()


def taken_back(repository: Repository) -> tuple[str, Counter[tuple[str, int, str]]]:
    """Releases ``f`` and ``g``, then an ``f`` that fails, while both are called: all of it has to
    come back. Returns the first release, and what the callers were told."""
    platform, owner = repository.platform, repository.owner
    first = repository.push(
        {
            "stack.yml": stack("f", "g"),
            "f/handler.py": handler("f v1"),
            "g/handler.py": handler("g v1"),
        }
    )
    assert first.last.startswith("slipway: live r"), first.text + platform.logs()
    with called(platform, f"f.{owner}", f"g.{owner}") as seen:
        told = repository.push({"f/handler.py": BROKEN, "g/handler.py": handler("g v2")})
        assert told.last.startswith("slipway: rolled-back r"), told.text + platform.logs()
        assert "requests failed" in told.last
        assert [platform.call(f"{each}.{owner}").text for each in "fg"] == ["f v1", "g v1"]
    release = platform.release(owner, repository.name)
    assert (release["state"], release["watch"]["verdict"]) == ("rolled-back", "returned")
    return first.last.split()[-1], seen

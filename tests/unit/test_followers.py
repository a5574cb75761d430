"""The followers' thread with plain sockets: heartbeats, stalled clients, errors, places."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from core.errors import Unavailable
from core.logfiles import LogWriter
from core.models import FunctionLogLine, now
from gateway import followers as module
from gateway.detach import Detached
from gateway.followers import Followers
from gateway.logchain import Chain
from gateway.logreading import Reading, Wanted
from tests.waiting import until

WANTED = Wanted(name="f", namespace="n", follow=True)


def line(text: str) -> bytes:
    return msgspec.json.encode(FunctionLogLine(time=now(), instance="i", text=text)) + b"\n"


def exactly(client: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        data = client.recv(count - len(got))
        assert data, got
        got += data
    return got


class Server:
    """Plays the worker: hands connections over and notes those that come back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.alive = True
        self.functions = {"f.n"}
        self.followers = Followers(folder, lambda: self.alive, self._exists)
        self.back: list[socket.socket] = []
        self._held: list[socket.socket] = []

    def connect(self, wanted: Wanted = WANTED, *, chunked: bool = True) -> socket.socket:
        """The client's end."""
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        answer = self.followers.answer(wanted, chunked=chunked)
        with pytest.raises(Detached) as left:
            list(answer)
        answer.close()  # as the server does: the place stays taken
        left.value.take(ours, lambda: self.back.append(ours))
        theirs.settimeout(20)
        self._held += [ours, theirs]
        return theirs

    def close(self) -> None:
        for each in self._held:
            each.close()

    def _exists(self, function: str) -> bool:
        return function in self.functions


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.alive = False
    made.close()


def test_a_quiet_log_has_a_heartbeat(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT", 0.1)
    client, plain = server.connect(), server.connect(chunked=False)
    assert exactly(client, 6) == b"1\r\n\n\r\n"
    assert exactly(plain, 2) == b"\n\n"


def test_a_stop_ends_the_answer(server: Server) -> None:
    """Also of a client that takes nothing."""
    log = LogWriter(server.folder / "f.n", 2**20)
    log.append(line("one"))
    client = server.connect()
    got = client.recv(4096)
    assert json.loads(got.split(b"\r\n")[1])["text"] == "one"
    stalled = server.connect()
    for _ in range(100):
        log.append(line("x" * 1000))
    until(lambda: b"xxx" in client.recv(2**16))
    server.alive = False
    got = b""
    while not got.endswith(b"\r\n0\r\n\r\n"):
        got += client.recv(2**16)
    until(lambda: len(server.back) == 2)
    assert stalled.recv(4)


def test_a_client_that_takes_nothing_is_dropped(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those who read go on meanwhile."""
    monkeypatch.setattr(module, "STALL", 0.5)
    log = LogWriter(server.folder / "f.n", 2**20)
    stalled = server.connect()
    reader = server.connect()
    got = bytearray()

    def read() -> None:
        while b"last" not in got:
            got.extend(reader.recv(2**16))

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(100):
        log.append(line(f"{number} {'x' * 5000}"))
    until(lambda: len(server.back) == 1)
    log.append(line("last"))
    thread.join(20)
    assert not thread.is_alive()
    assert len(server.back) == 1
    assert stalled.recv(1)


def test_an_error_costs_one_follower_alone(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LogWriter(server.folder / "f.n", 10_000)
    log.append(line("one"))
    first, second = server.connect(), server.connect()
    for client in (first, second):
        assert b"one" in client.recv(4096)
    real = Reading.next
    failed: list[Reading] = []

    def broken(self: Reading) -> bytes:
        failed.append(self)
        if self is failed[0]:
            raise RuntimeError("a mistake")
        return real(self)

    monkeypatch.setattr(Reading, "next", broken)
    until(lambda: len(server.back) == 1)
    log.append(line("two"))
    assert b"two" in second.recv(4096)


def test_a_log_that_cannot_be_looked_at_costs_its_followers_alone(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("f.n", "g.n"):
        LogWriter(server.folder / name, 10_000).append(line("one"))
    broken, well = server.connect(), server.connect(Wanted(name="g", namespace="n", follow=True))
    for client in (broken, well):
        assert b"one" in client.recv(4096)
    real = Chain.look

    def look(self: Chain) -> None:
        if self is server.followers._chains.get("f.n"):
            raise RuntimeError("a mistake")
        real(self)

    monkeypatch.setattr(Chain, "look", look)
    until(lambda: len(server.back) == 1)
    LogWriter(server.folder / "g.n", 10_000).append(line("two"))
    assert b"two" in well.recv(4096)


def test_one_that_cannot_be_admitted_gives_its_place_back(server: Server) -> None:
    server.followers.places.slots = 1
    closed = socket.socket()
    closed.close()
    with pytest.raises(Detached) as left:
        list(server.followers.answer(WANTED, chunked=True))
    left.value.take(closed, lambda: server.back.append(closed))
    until(lambda: len(server.back) == 1)
    LogWriter(server.folder / "f.n", 10_000).append(line("one"))
    assert b"one" in server.connect().recv(4096)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_died_is_begun_anew(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(server.followers, "_round", lambda _: 1 / 0)
        patched.setattr(module.log, "exception", lambda _: sys.exit())
        server.connect()
        until(lambda: not (server.followers._thread and server.followers._thread.is_alive()))
    LogWriter(server.folder / "f.n", 10_000).append(line("one"))
    assert b"one" in server.connect().recv(4096)


def test_what_is_gone_ends_and_what_is_not_stays(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ASK_EVERY", 0.1)
    client, gone = server.connect(), server.connect(Wanted(name="g", namespace="n", follow=True))
    assert exactly(gone, 5) == b"0\r\n\r\n"
    LogWriter(server.folder / "f.n", 10_000).append(line("first"))
    assert b"first" in client.recv(4096)


def test_a_store_that_fails_ends_nobody(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASK_EVERY", 0.1)
    asked = threading.Semaphore(0)

    def exists(function: str) -> bool:
        asked.release()
        raise ConnectionError(function)

    monkeypatch.setattr(server.followers, "_exists", exists)
    client = server.connect()
    for _ in range(3):
        assert asked.acquire(timeout=20)
    LogWriter(server.folder / "f.n", 10_000).append(line("first"))
    assert b"first" in client.recv(4096)


def test_places_are_given_back_whatever_happens(server: Server) -> None:
    pool = server.followers.places
    pool.slots = 1
    server.followers.answer(WANTED, chunked=True).close()  # its head could not be sent
    client = server.connect()
    with pytest.raises(Unavailable, match="readers of functions' logs"):
        server.followers.answer(WANTED, chunked=True)
    client.close()
    until(lambda: len(server.back) == 1)
    server.followers.answer(WANTED, chunked=True).close()

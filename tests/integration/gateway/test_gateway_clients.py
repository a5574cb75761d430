"""Clients that send little, read nothing or stay for ever: the others are answered all the same.

By both ways in: the public socket, as without an edge, and the unix socket that the edge uses.
"""

from __future__ import annotations

import errno
import http.client
import os
import resource
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from core.store import Store
from gateway.pools import THREADS
from gateway.worker import HEAD_LIMIT
from tests.integration.gateway.harness import (
    Gateway,
    Upstream,
    answering,
    children,
    deploy,
    running,
)
from tests.waiting import until

CROWD = THREADS + 15
"""More clients than there are threads."""
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
Connect = Callable[[Gateway], socket.socket]


def tcp(gateway: Gateway) -> socket.socket:
    return socket.create_connection(("127.0.0.1", gateway.settings.port), 10)


def unix(gateway: Gateway) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(10)
    client.connect(str(gateway.settings.gateway_socket))
    return client


each_way = pytest.mark.parametrize("connect", [tcp, unix])


@contextmanager
def crowd(gateway: Gateway, connect: Connect, size: int = CROWD) -> Iterator[list[socket.socket]]:
    with ExitStack() as clients:
        yield [clients.enter_context(connect(gateway)) for _ in range(size)]


def ask(client: socket.socket, request: bytes = GET) -> int:
    """The status of the answer, which is read to its end."""
    client.sendall(request)
    with http.client.HTTPResponse(client) as answer:
        answer.begin()
        answer.read()
        return answer.status


def rest(client: socket.socket) -> bytes:
    """What still comes; a client that was cut off sees an end, or a reset."""
    got = b""
    try:
        while data := client.recv(65536):
            got += data
    except ConnectionResetError:
        pass
    return got


def takes(client: socket.socket, data: bytes) -> bool:
    """Whether the other side was still there when this was sent."""
    try:
        client.sendall(data)
    except OSError:
        return False
    return True


def stays_quick(gateway: Gateway, connect: Connect) -> None:
    for _ in range(3):
        begun = time.monotonic()
        with connect(gateway) as client:
            assert ask(client) == 200
        assert time.monotonic() - begun < 4


@each_way
@pytest.mark.usefixtures("store")
def test_bodies_that_nobody_reads_hold_nothing(gateway: Gateway, connect: Connect) -> None:
    """A byte now and then of what was announced, long after the answer."""
    routes = {
        "POST /": 405,
        "POST /nothing": 404,
        "POST /system/functions": 401,
        "POST /webhooks/github": 401,
        "PUT /function/nobody.here": 404,
        "BREW /healthz": 405,
    }
    framings = [("Content-Length: 100000", b"x"), ("Transfer-Encoding: chunked", b"1\r\nx\r\n")]
    asked = [(route, framing) for route in routes for framing in framings]
    with crowd(gateway, connect) as clients:
        for number, client in enumerate(clients):
            route, (header, piece) = asked[number % len(asked)]
            head = f"{route} HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\n".encode()
            assert ask(client, head + piece) == routes[route]
        for _ in range(3):
            for number, client in enumerate(clients):
                client.sendall(framings[number % 2][1])
            stays_quick(gateway, connect)


@each_way
def test_who_sends_all_of_an_unwanted_body_sees_the_answer(
    gateway: Gateway, connect: Connect
) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20000000\r\n\r\n"
    with connect(gateway) as client:
        client.sendall(head)
        client.sendall(bytes(20_000_000))
        answer = rest(client)
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nConnection: close\r\n" in answer, "or the next request would be lost"
    assert answer.endswith(b"/ takes GET, HEAD, OPTIONS, not POST")


@each_way
@pytest.mark.usefixtures("store")
def test_nothing_follows_a_body_that_made_no_sense(gateway: Gateway, connect: Connect) -> None:
    head = (
        b"POST /webhooks/github HTTP/1.1\r\nHost: a\r\nX-Hub-Signature-256: sha256=x\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nno chunk\r\n"
    )
    with connect(gateway) as client:
        client.sendall(head)
        got = client.recv(65536)
        client.sendall(GET)
        got += rest(client)
    assert got.startswith(b"HTTP/1.1 400 ")
    assert got.count(b"HTTP/1.1 ") == 1


@each_way
def test_clients_that_stay_after_their_answer_hold_nothing(
    gateway: Gateway, connect: Connect
) -> None:
    with crowd(gateway, connect, 30) as clients:
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        stays_quick(gateway, connect)
        for client in clients:
            assert rest(client).startswith(b"HTTP/1.1 200 ")


@each_way
@pytest.mark.parametrize("begun", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\nX: "])
def test_heads_that_do_not_end_hold_nothing(
    gateway: Gateway, connect: Connect, begun: bytes
) -> None:
    with crowd(gateway, connect) as clients:
        for client in clients:
            client.sendall(begun)
        stays_quick(gateway, connect)
        for client in clients[:3]:
            for byte in (GET + GET)[len(begun) :] if GET.startswith(begun) else b"y\r\n\r\n" + GET:
                client.sendall(bytes([byte]))
            got = b""
            while got.count(b"/healthz\n") < 2:
                got += client.recv(65536)
            assert got.count(b"HTTP/1.1 200 ") == 2


def test_a_head_over_its_bound_is_given_up(gateway: Gateway) -> None:
    with tcp(gateway) as client:
        assert ask(client, GET[:-2] + b"X: " + b"y" * 16_000 + b"\r\n\r\n") == 200
        client.sendall(GET[:-2] + b"".join(b"X: %b\r\n" % (b"y" * 9000) for _ in range(7)))
        assert ask(client, b"\r\n") == 200
    with tcp(gateway) as client:
        client.sendall(GET[:-2])
        for _ in range(HEAD_LIMIT // 1000 + 1):
            client.sendall(b"X: " + b"y" * 995 + b"\r\n")
        until(lambda: not takes(client, b"X: y\r\n"), 8)


def test_a_line_that_ends_in_lf_alone_is_refused_at_once(gateway: Gateway) -> None:
    with tcp(gateway) as client:
        assert ask(client, b"GET / HTTP/1.0\n\n") == 400


def test_answers_that_nobody_reads_hold_nothing(gateway: Gateway) -> None:
    request = b"GET /" + b"x" * 8000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    with ExitStack() as clients:
        for _ in range(CROWD):
            client = clients.enter_context(socket.socket())
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)  # small buffers there
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # and here
            client.connect(("127.0.0.1", gateway.settings.port))
            client.setblocking(False)
            try:
                while True:
                    client.send(request)
            except BlockingIOError:
                pass
        time.sleep(1)
        stays_quick(gateway, tcp)


# With a worker whose patience ends soon


@pytest.fixture(scope="module")
def impatient(valkey: str) -> Iterator[Gateway]:
    worker = "tests.integration.gateway.impatient.Worker"
    with (
        tempfile.TemporaryDirectory(prefix="sw-", dir="/tmp") as folder,
        running(Path(folder), valkey, arguments=["--worker-class", worker]) as found,
    ):
        yield found


@each_way
def test_a_client_that_stops_reading_gives_its_place_back(
    impatient: Gateway, store: Store, short_tmp: Path, connect: Connect
) -> None:
    ended = threading.Event()

    def endless(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                connection.sendall(bytes(2**16))
        except OSError as error:
            if error.errno in (errno.EPIPE, errno.ECONNRESET):
                ended.set()
            raise

    with Upstream(short_tmp / "f.sock", endless) as upstream:
        deploy(store, "endless.stall", [upstream.address])
        with connect(impatient) as client:
            client.sendall(b"GET /function/endless.stall HTTP/1.1\r\nHost: a\r\n\r\n")
            assert ended.wait(8), "the function still writes to nobody"


@each_way
def test_a_client_that_stops_sending_is_given_up(
    impatient: Gateway, store: Store, short_tmp: Path, connect: Connect
) -> None:
    ends: list[bytes] = []

    def read(connection: socket.socket, _: bytes) -> None:
        while data := connection.recv(65536):
            ends.append(data)
        ends.append(b"")

    head = b"POST /function/cut.stall HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhello"
    with Upstream(short_tmp / "f.sock", read) as upstream:
        deploy(store, "cut.stall", [upstream.address])
        with connect(impatient) as client:
            assert ask(client, head) == 400
        until(lambda: ends[-1:] == [b""])


@each_way
def test_a_head_has_its_time(impatient: Gateway, connect: Connect) -> None:
    begun = time.monotonic()
    with connect(impatient) as client:
        assert ask(client) == 200
        until(lambda: not takes(client, b"X"), 4)
        assert rest(client) == b""
    assert time.monotonic() - begun > 0.9


# Of the process


@pytest.mark.usefixtures("store")
def test_a_stop_waits_for_who_has_begun_to_ask_and_for_nobody_else(
    valkey: str, short_tmp: Path
) -> None:
    with (
        running(short_tmp, valkey, SLIPWAY_DRAIN_TIMEOUT="60") as gateway,
        crowd(gateway, tcp, 3) as (silent, begun, idle),
    ):
        begun.sendall(GET[:8])
        assert ask(idle) == 200
        gateway.process.send_signal(signal.SIGTERM)
        assert [rest(client) for client in (silent, idle)] == [b"", b""]
        assert ask(begun, GET[8:]) == 200
        assert rest(begun) == b""
        begun.close()
        assert gateway.process.wait(10) == 0


@pytest.mark.usefixtures("store")
def test_more_connections_than_descriptors_end_no_worker(valkey: str, short_tmp: Path) -> None:
    with running(short_tmp, valkey) as gateway:
        _, most = resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE, (100, most))
        first = gateway.worker()
        os.kill(first, signal.SIGKILL)
        until(lambda: children(gateway.process.pid) not in ([], [first]))
        worker = gateway.worker()
        with crowd(gateway, tcp, 200):
            stays_quick(gateway, tcp)
        assert gateway.worker() == worker


def test_a_kept_connection_is_used_again_after_every_kind_of_body(
    gateway: Gateway, store: Store, short_tmp: Path
) -> None:
    hello = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"

    def read(connection: socket.socket, head: bytes) -> None:
        if b"chunked" in head:
            got = b""
            while not got.endswith(b"0\r\n\r\n"):
                got += connection.recv(100)
        elif b"Content-Length: 4" in head:
            connection.recv(4)
        answering(hello)(connection, head)

    with Upstream(short_tmp / "f.sock", read) as upstream, tcp(gateway) as client:
        deploy(store, "kept.inv", [upstream.address])
        path = b"/function/kept.inv HTTP/1.1\r\nHost: a\r\n"
        for request in (
            b"GET " + path + b"\r\n",
            b"POST " + path + b"Content-Length: 4\r\n\r\nbody",
            b"POST " + path + b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
            b"POST " + path + b"Content-Length: 0\r\n\r\n",
        ):
            client.sendall(request)
            got = b""
            while not got.endswith(b"hello"):
                data = client.recv(65536)
                assert data, request
                got += data
            if b"chunked" not in request:
                assert b"\r\nConnection: keep-alive\r\n" in got

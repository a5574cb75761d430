"""Bodies and answers by each way to a function: the edge, the edge and the gateway, the gateway."""

from __future__ import annotations

import http.client
import itertools
import os
import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec.structs import replace
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from core import keys
from core.models import Observed
from core.patience import patience_of
from core.settings import Settings
from core.store import Store
from core.store import connect as connect_store
from core.store.base import encode
from runtime.edge import Route
from tests.integration.abuse import Recorder, status, told_by
from tests.integration.edge_harness import Proxy, websocket_function
from tests.integration.gateway.harness import Gateway, Upstream, deploy, memory_mb, running
from tests.waiting import until

SERVED = 1 << 30
WAYS = ("edge", "edge and gateway", "gateway")
WORDS = (b"one", b"two", b"three")
NUMBERS = itertools.count()


@dataclass
class Way:
    """One way to a function: where, and what serves it just now."""

    name: str
    edge: Proxy
    gateway: Gateway
    store: Store
    stack: ExitStack

    @property
    def port(self) -> int:
        return self.gateway.settings.port if self.name == "gateway" else self.edge.port

    @property
    def target(self) -> str:
        return "/function/f.ways"

    def leads_to(self, endpoint: str, patience: float = 0) -> None:
        awake = {"f.ways": Route("r", [endpoint], patience)} if self.name == "edge" else {}
        self.edge.edge.apply(awake)
        self.store.save_observed({"f.ways": Observed(available=1, endpoints=[endpoint])})

    def upstream(self, handle: Callable[[socket.socket, bytes], None]) -> Upstream:
        path = self.edge.settings.run / f"{next(NUMBERS)}.sock"
        upstream = self.stack.enter_context(Upstream(path, handle))
        self.leads_to(upstream.address)
        return upstream

    def recorder(self) -> Recorder:
        path = self.edge.settings.run / f"{next(NUMBERS)}.sock"
        recorder = self.stack.enter_context(Recorder(path))
        self.leads_to(recorder.endpoint)
        return recorder

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def dial(self, head: str) -> socket.socket:
        """A connection on which this head was sent, its lines ended by LF for the eye."""
        client = self.stack.enter_context(socket.create_connection(("127.0.0.1", self.port), 30))
        client.sendall((head.strip() + "\n\n").replace("\n", "\r\n").encode())
        return client


@pytest.fixture(scope="module")
def served(valkey: str) -> Iterator[tuple[Proxy, Gateway, Store]]:
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    with ExitStack() as held:
        held.callback(shutil.rmtree, folder, ignore_errors=True)
        gateway = held.enter_context(running(folder / "g", valkey))
        settings = Settings.from_env({"SLIPWAY_STATE": str(folder / "e")})
        edge = Proxy(settings, gateway=gateway.settings.gateway_socket)
        held.callback(edge.close)
        store = Store(connect_store(valkey))
        held.callback(store.redis.close)
        deploy(store, "f.ways", [])
        yield edge, gateway, store


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, served: tuple[Proxy, Gateway, Store]) -> Iterator[Way]:
    with ExitStack() as stack:
        yield Way(request.param, *served, stack)


def until_has(client: socket.socket, wanted: bytes) -> bytes:
    """Everything up to these bytes, which must come."""
    got = b""
    while wanted not in got:
        data = client.recv(65536)
        assert data, got
        got += data
    return got


def rest(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(65536), b""))


# ------------------------------------------------------------------------------ nothing is held


@pytest.mark.parametrize(
    ("head", "first", "last"),
    [
        (
            "Content-Type: text/event-stream\nTransfer-Encoding: chunked",
            b"9\r\ndata: 1\n\n\r\n",
            b"0\r\n\r\n",
        ),
        (
            "Content-Type: application/x-ndjson\nTransfer-Encoding: chunked",
            b'8\r\n{"a":1}\n\r\n',
            b"0\r\n\r\n",
        ),
        ("Content-Type: text/plain\nTransfer-Encoding: chunked", b"1\r\nx\r\n", b"0\r\n\r\n"),
        ("Content-Type: text/plain\nContent-Length: 10", b"a", b"bcdefghij"),
        ("Content-Type: text/plain\nConnection: close", b"a", b"b"),
        ("Content-Type: text/event-stream\nTransfer-Encoding: chunked", b"", b"0\r\n\r\n"),
    ],
    ids=["events", "ndjson", "chunks", "length", "until the end", "head alone"],
)
def test_the_first_byte_comes_while_the_rest_is_not_made(
    way: Way, head: str, first: bytes, last: bytes
) -> None:
    seen = threading.Event()

    def serve(connection: socket.socket, _: bytes) -> None:
        lines = f"HTTP/1.1 200 OK\n{head}\n\n".replace("\n", "\r\n").encode()
        connection.sendall(lines + first)
        if seen.wait(30):
            connection.sendall(last)

    way.upstream(serve)
    client = way.dial(f"GET {way.target} HTTP/1.1\nHost: a\nConnection: close")
    shown = first.partition(b"\r\n")[2][:-2] if "chunked" in head else first
    got = until_has(client, b"\r\n\r\n")
    while shown not in got.partition(b"\r\n\r\n")[2]:
        got += client.recv(65536)
    seen.set()
    got += rest(client)
    assert status(got) == 200
    if "Length" in head:
        assert b"content-length: 10" in got.lower()
        assert got.endswith(b"abcdefghij")


@pytest.mark.parametrize("framing", ["Content-Length: 11", "Transfer-Encoding: chunked"])
def test_each_piece_is_answered_before_the_next_is_sent(way: Way, framing: str) -> None:
    chunked = "chunked" in framing

    def converse(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        with connection.makefile("rb") as file:
            for word in WORDS:
                if chunked:
                    file.readline()
                piece = file.read(len(word))
                if chunked:
                    file.readline()
                connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece.upper()))
            connection.sendall(b"0\r\n\r\n")
            if chunked:
                file.readline()
                file.readline()

    way.upstream(converse)
    client = way.dial(f"POST {way.target} HTTP/1.1\nHost: a\n{framing}")
    for word in WORDS:
        client.sendall(b"%x\r\n%b\r\n" % (len(word), word) if chunked else word)
        got = until_has(client, word.upper())
    if chunked:
        client.sendall(b"0\r\n\r\n")
    if not got.endswith(b"0\r\n\r\n"):
        until_has(client, b"0\r\n\r\n")


# -------------------------------------------------------------------------------------- framing


@pytest.mark.parametrize(
    ("method", "body", "framing"),
    [
        ("POST", b"hello", {"content-length": "5"}),
        ("POST", b"", {"content-length": "0"}),
        ("GET", b"hello", {"content-length": "5"}),
        ("DELETE", b"x" * 70_000, {"content-length": "70000"}),
        ("GET", None, {}),
        ("PUT", "chunked", {"transfer-encoding": "chunked"}),
    ],
)
def test_a_body_is_framed_as_it_came(
    way: Way, method: str, body: bytes | str | None, framing: dict[str, str]
) -> None:
    recorder = way.recorder()
    connection = way.connect()
    if body == "chunked":
        connection.request(
            method,
            way.target,
            iter([b"a", b"b" * 70_000]),
            encode_chunked=True,
            headers={"Transfer-Encoding": "chunked"},
        )
        wanted = b"a" + b"b" * 70_000
    else:
        sent = {} if body is None else {"Content-Length": str(len(body))}
        connection.putrequest(method, way.target)
        for name, value in sent.items():
            connection.putheader(name, value)
        connection.endheaders(body.encode() if isinstance(body, str) else body)
        wanted = body or b""  # type: ignore[assignment]
    assert connection.getresponse().status == 200
    connection.close()
    (seen,) = recorder.seen
    assert not recorder.faults
    assert seen.body == wanted
    names = ("content-length", "transfer-encoding")
    assert {name: value for name, value in seen.headers if name in names} == framing


def test_head_has_the_length_and_no_body(way: Way) -> None:
    way.upstream(
        lambda connection, _: connection.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Length: 1234567\r\nContent-Type: a/b\r\n"
            b"Connection: close\r\n\r\n"  # it serves one request, and no edge shall try another
        )
    )
    connection = way.connect()
    for _ in range(2):  # and the connection is fit for the next
        connection.request("HEAD", way.target)
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"")
        assert answer.getheader("Content-Length") == "1234567"
        assert answer.getheader("Content-Type") == "a/b"
    connection.close()


@pytest.mark.parametrize("code", [204, 304])
def test_an_answer_that_has_no_body_has_none(way: Way, code: int) -> None:
    way.upstream(
        lambda connection, _: connection.sendall(
            b"HTTP/1.1 %d X\r\nEtag: 1\r\nConnection: close\r\n\r\n" % code
        )
    )
    connection = way.connect()
    for _ in range(2):
        connection.request("GET", way.target)
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (code, b"")
        assert answer.getheader("Transfer-Encoding") is None
    connection.close()


# ------------------------------------------------------------------------------------ 100 continue


EXPECTS = "Host: a\nConnection: close\nContent-Length: 5\nExpect: 100-continue"


def test_who_expects_100_gets_it_and_the_function_the_body(way: Way) -> None:
    bodies = []

    def serve(connection: socket.socket, head: bytes) -> None:
        if b"100-continue" in head.lower():
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        bodies.append(connection.recv(5))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    way.upstream(serve)
    client = way.dial(f"POST {way.target} HTTP/1.1\n{EXPECTS}")
    assert until_has(client, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sendall(b"hello")
    got = rest(client)
    assert status(got) == 200
    assert got.endswith(b"ok")
    assert bodies == [b"hello"]


@pytest.mark.parametrize(
    ("target", "wanted"), [("/function/nobody.ways", 404), ("/system/functions", 401)]
)
def test_a_refusal_comes_before_the_body(way: Way, target: str, wanted: int) -> None:
    """Without a 100, so that nobody sends what nobody reads."""
    client = way.dial(f"POST {target} HTTP/1.1\n{EXPECTS}")
    assert status(until_has(client, b"\r\n\r\n")) == wanted


def test_a_function_refuses_before_the_body(way: Way) -> None:
    way.upstream(
        lambda connection, _: connection.sendall(
            b"HTTP/1.1 413 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
        )
    )
    client = way.dial(f"POST {way.target} HTTP/1.1\n{EXPECTS}")
    got = until_has(client, b"no")
    if way.name == "edge":
        assert status(got) == 413, "the edge leaves it to the function"
    else:
        assert status(got.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")) == 413


# --------------------------------------------------------------------------------------- upgrades


def test_a_websocket_passes_frames_of_any_size(way: Way) -> None:
    path = way.edge.settings.run / f"{next(NUMBERS)}.sock"
    way.leads_to(way.stack.enter_context(websocket_function(path)))
    url = f"ws://127.0.0.1:{way.port}{way.target}/chat?room=1"
    if way.name != "edge":
        with pytest.raises(InvalidStatus) as refused, connect(url):
            pass
        assert refused.value.response.status_code in (501, 503)
        return
    large = os.urandom(2**20)
    with connect(url, max_size=2**24) as client:
        client.send("hello")
        assert client.recv(20) == "/chat?room=1: hello"
        for data in (b"", large, b"x" * 70_000):
            client.send(data)
            assert client.recv(20) == data
        assert client.ping().wait(20)
        client.close(4001, "enough")
    assert client.close_code == 4001


def test_what_an_upgrade_asks_for_beside_websocket_goes_no_further(way: Way) -> None:
    recorder = way.recorder()
    got = told_by(
        way.port,
        f"GET {way.target} HTTP/1.1\r\nHost: a\r\nUpgrade: h2c, websocket\r\n"
        "Connection: Upgrade, X-Own\r\nX-Own: 1\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode(),
    )
    assert not any("h2c" in value for seen in recorder.seen for _, value in seen.headers)
    assert status(got) in (200, 501)


# ----------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize(
    "rest_",
    [
        "",
        "/",
        "/%2F",
        "/a%2fb%2F..%2f..%2fsystem",
        "/%2e%2e/%2E%2E/system/functions",
        "/../../system/functions",
        "/./././x",
        "//",
        "///a//b",
        "//evil.test/x",
        "/;x=1;y/;",
        "/a;/../b",
        "/%00%0d%0a%20",
        "/%zz%",
        "/?a?b??",
        "??",
        "?a=/function/other.ways/../x",
        "/@:!$&'()*+,=~",
        '/a"b<c>[d]{e}|f\\g^h`i',
        "/" + "x" * 8000,
        "/?" + "y" * 8000,
    ],
    ids=lambda rest_: rest_[:20],
)
def test_a_path_arrives_as_it_was_given(way: Way, rest_: str) -> None:
    recorder = way.recorder()
    head = f"GET {way.target}{rest_} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    got = told_by(way.port, head.encode())
    assert status(got) == 200, got
    (seen,) = recorder.seen
    wanted = rest_ if rest_.startswith("/") else "/" + rest_
    assert seen.line == f"GET {wanted} HTTP/1.1"


@pytest.mark.parametrize(
    "target",
    [
        "/function/f.ways%2F..%2F..%2Fsystem/functions",
        "/function/..%2f..%2fsystem/functions",
        "/function/../system/functions",
        "/function/%2e%2e/system/functions",
        "/function//../../system/functions",
        "/%66unction/f.ways",
        "/FUNCTION/f.ways",
        "//function/f.ways",
        "/x/../function/f.ways",
        "/function/f%2eways",
        "/function/F.ways",
        "/function/f.ways.",
        "/function/f..ways",
        "/function/.ways",
        "/function/f.ways;x",
        "/function;x/f.ways",
        "/function/f.ways\\..\\g",
    ],
)
def test_a_path_beside_the_functions_leads_nowhere(way: Way, target: str) -> None:
    recorder = way.recorder()
    got = told_by(way.port, f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert status(got) in (400, 404), got
    assert recorder.seen == []


# ----------------------------------------------------------------------------------------- times


def test_a_function_that_is_silent_beyond_its_time_is_504(way: Way) -> None:
    """By its own word; and the client is told so, while the function still says nothing."""
    over = threading.Event()
    upstream = way.upstream(lambda _connection, _head: bool(over.wait(60)))
    record = way.store.function("f.ways")
    assert record
    spec = replace(record.spec, env_vars={"exec_timeout": "100ms"})
    way.store.redis.hset(keys.FUNCTIONS, "f.ways", encode(replace(record, spec=spec)))
    way.leads_to(upstream.address, patience_of(spec))
    answer = told_by(way.port, f"GET {way.target} HTTP/1.1\r\nHost: a\r\n\r\n".encode(), 60)
    assert status(answer) == 504
    assert b"did not answer" in answer
    over.set()
    way.store.redis.hset(keys.FUNCTIONS, "f.ways", encode(record))


def test_bodies_that_break_off_hold_nothing_and_are_no_requests(way: Way) -> None:
    """While they are awaited others are served; the function's own server gives them up."""
    recorder = way.recorder()
    held = [way.dial(f"POST {way.target} HTTP/1.1\nHost: a\nContent-Length: 9") for _ in range(5)]
    for client in held:
        client.sendall(b"x")
    got = told_by(way.port, f"GET {way.target}/ok HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert status(got) == 200
    for client in held:
        client.close()
    until(lambda: len(recorder.seen) == 1 and recorder.seen[0].line == "GET /ok HTTP/1.1")


# ------------------------------------------------------------------------------------------- size


def test_a_gigabyte_up_and_down_in_flat_memory(way: Way) -> None:
    """Nothing but zeros, which nobody compresses: what is looked at is who keeps them."""
    block = bytes(1 << 20)

    def serve(connection: socket.socket, _: bytes) -> None:
        left, buffer = SERVED, memoryview(bytearray(1 << 20))
        while left:
            got = connection.recv_into(buffer[: min(left, len(buffer))])
            if not got:
                return
            left -= got
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SERVED)
        for _ in range(SERVED // len(block)):
            connection.sendall(block)

    upstream = way.upstream(serve)
    pids = [way.edge.process.pid, way.gateway.worker()]
    before = [memory_mb(pid) for pid in pids]
    client = way.dial(
        f"POST {way.target} HTTP/1.1\nHost: a\nConnection: close\nContent-Length: {SERVED}"
    )
    for _ in range(SERVED // len(block)):
        client.sendall(block)
    got = until_has(client, b"\r\n\r\n")
    head, _, body = got.partition(b"\r\n\r\n")
    assert int(re.findall(rb"(?i)content-length: (\d+)", head)[0]) == SERVED
    size, buffer = len(body), bytearray(1 << 20)
    while count := client.recv_into(buffer):
        size += count
    assert size == SERVED
    assert upstream.headers()["content-length"] == str(SERVED)
    grown = [memory_mb(pid) - each for pid, each in zip(pids, before, strict=True)]
    assert max(grown) < 24, grown

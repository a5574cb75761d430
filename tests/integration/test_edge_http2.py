"""HTTP/2 at the edge: what is translated for a function, and what is not."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import trustme
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.settings import SettingCodes
from websockets.frames import Frame, Opcode

from core.settings import Settings
from runtime.edge import Route
from tests.integration.abuse import Recorder
from tests.integration.certificates import HOST, context, issue
from tests.integration.edge_harness import Proxy, websocket_function
from tests.integration.gateway.harness import Upstream

NUMBERS = itertools.count()
Headers = list[tuple[str, str]]


@dataclass
class Reply:
    status: int = 0
    """0: the stream or the connection was reset instead."""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False


class Client:
    """One HTTP/2 connection that sends what it is told to, also what no client may send."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self.sock = sock
        self.h2 = H2Connection(
            H2Configuration(
                header_encoding="utf-8",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.h2.initiate_connection()
        self.replies: dict[int, Reply] = {}
        self.flush()

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.sendall(self.h2.data_to_send())

    def begin(self, headers: Headers, *, end: bool = True) -> int:
        stream = self.h2.get_next_available_stream_id()
        self.replies[stream] = Reply()
        self.h2.send_headers(stream, headers, end_stream=end)
        self.flush()
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        self.h2.send_data(stream, data, end_stream=end)
        self.flush()

    def receive(self) -> bool:
        """Takes in what is there; False once the connection has ended."""
        try:
            data = self.sock.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            for reply in self.replies.values():
                reply.ended = True
            return False
        for event in self.h2.receive_data(data):
            if isinstance(event, ConnectionTerminated):
                for reply in self.replies.values():
                    reply.ended = True
                return False
            reply = self.replies.get(getattr(event, "stream_id", 0) or 0, Reply())
            if isinstance(event, ResponseReceived):
                reply.headers = dict(event.headers)
                reply.status = int(reply.headers[":status"])
            elif isinstance(event, DataReceived):
                reply.body += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, StreamEnded | StreamReset):
                reply.ended = True
        self.flush()
        return True

    def wait(self, stream: int) -> Reply:
        while not self.replies[stream].ended and self.receive():
            pass
        return self.replies[stream]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("tls")
    issue(authority, folder / "cert.pem")
    with contextlib.ExitStack() as held:
        state = held.enter_context(tempfile.TemporaryDirectory(prefix="sw-", dir="/tmp"))
        proxy = Proxy(
            Settings.from_env(
                {
                    "SLIPWAY_STATE": state,
                    "SLIPWAY_TLS_CERT": str(folder / "cert.pem"),
                    "SLIPWAY_DOMAIN": HOST,
                }
            )
        )
        held.callback(proxy.close)
        yield proxy


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def client(proxy: Proxy, authority: trustme.CA) -> Iterator[Client]:
    plain = socket.create_connection(("127.0.0.1", proxy.port), 10)
    trust = context(authority, "h2", "http/1.1")
    with trust.wrap_socket(plain, server_hostname=HOST) as sock:
        assert sock.selected_alpn_protocol() == "h2"
        yield Client(sock)


@pytest.fixture
def recorder(proxy: Proxy) -> Iterator[Recorder]:
    # A path of its own: the edge tells replicas apart by that.
    with Recorder(proxy.settings.run / f"{next(NUMBERS)}.sock") as recorder:
        proxy.edge.apply({"f.ann": Route("r", [recorder.endpoint])})
        yield recorder


def head(
    *more: tuple[str, str],
    method: str = "GET",
    path: str = "/function/f.ann/x",
    authority: str = HOST,
) -> Headers:
    return [
        (":method", method),
        (":scheme", "https"),
        (":authority", authority),
        (":path", path),
        *more,
    ]


def test_a_request_becomes_one_of_http_1(client: Client, recorder: Recorder) -> None:
    body = b"x" * 40_000
    stream = client.begin(head(("content-length", str(len(body))), method="POST"), end=False)
    client.send(stream, body[:16_000])
    client.send(stream, body[16_000:32_000])
    client.send(stream, body[32_000:], end=True)
    reply = client.wait(stream)
    assert (reply.status, reply.body) == (200, b"POST /x HTTP/1.1")
    assert reply.headers["x-call-id"]
    (seen,) = recorder.seen
    assert not recorder.faults
    assert seen.body == body
    assert seen.all("content-length") == [str(len(body))]
    assert seen.all("host") == [HOST]
    assert seen.all("x-forwarded-proto") == ["https"]
    # What has not told its length comes in chunks.
    stream = client.begin(head(method="POST"), end=False)
    client.send(stream, b"abc", end=True)
    assert client.wait(stream).status == 200
    assert recorder.seen[-1].body == b"abc"
    assert recorder.seen[-1].all("transfer-encoding") == ["chunked"]


ABUSE: dict[str, Headers] = {
    "transfer-encoding": head(("transfer-encoding", "chunked"), method="POST"),
    "connection": head(("connection", "close")),
    "upgrade": head(("upgrade", "h2c")),
    "crlf in a value": head(("x", "a\r\ntransfer-encoding: chunked")),
    "lf in a value": head(("x", "a\nx-forwarded-proto: b")),
    "nul in a value": head(("x", "a\0b")),
    "crlf in a name": head(("x: y\r\nz", "a")),
    "colon in a name": head(("x:y", "a")),
    "space in a name": head(("x y", "a")),
    "capitals in a name": head(("Transfer-Encoding", "chunked")),
    "crlf in the path": head(path="/function/f.ann/x HTTP/1.1\r\nHost: b\r\n\r\nGET /smuggled"),
    "space in the path": head(path="/function/f.ann/x /smuggled"),
    "path without a slash": head(path="function/f.ann/x"),
    "no path": [each for each in head() if each[0] != ":path"],
    "two paths": head((":path", "/function/f.ann/y")),
    "crlf in the method": head(method="GET /smuggled HTTP/1.1\r\nX:"),
    "space in the method": head(method="GET /smuggled HTTP/1.1"),
    "crlf in the authority": [
        (name, value if name != ":authority" else "a\r\nx: y") for name, value in head()
    ],
    "length that is not true": head(("content-length", "5")),
    "two lengths": head(("content-length", "0"), ("content-length", "5")),
    "another host": head(("host", "other.test")),
    "pseudo header after others": [("x", "y"), *head()],
    "unknown pseudo header": head((":evil", "x")),
    "connect": [(":method", "CONNECT"), (":authority", "a:80")],
}


@pytest.mark.parametrize("name", ABUSE)
def test_what_http_1_would_read_differently_is_refused(
    client: Client, recorder: Recorder, name: str
) -> None:
    reply = client.wait(client.begin(ABUSE[name]))
    assert reply.status == 0 or 400 <= reply.status < 500 or _harmless(recorder), reply
    assert not recorder.faults
    assert all("smuggled" not in each.line for each in recorder.seen)


def _harmless(recorder: Recorder) -> bool:
    """Seen once, with nothing of what should not be there."""
    (seen,) = recorder.seen
    gone = {"transfer-encoding", "connection", "upgrade"} & {name for name, _ in seen.headers}
    return not gone and seen.all("host") == [HOST] and seen.line == "GET /x HTTP/1.1"


def test_an_answer_passes_while_it_is_made(client: Client, proxy: Proxy) -> None:
    """The function goes on only when the client has what came before."""
    seen = threading.Event()

    def serve(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        assert seen.wait(20)
        connection.sendall(b"4\r\nlast\r\n0\r\n\r\n")

    with Upstream(proxy.settings.run / "u.sock", serve) as upstream:
        proxy.edge.apply({"f.ann": Route("r", [upstream.address])})
        stream = client.begin(head())
        while not client.replies[stream].body:
            assert client.receive()
        assert client.replies[stream].body == b"first"
        seen.set()
        assert client.wait(stream).body == b"firstlast"
    (proxy.settings.run / "u.sock").unlink()


def test_an_owner_without_a_host_has_none_in_a_stream(client: Client, proxy: Proxy) -> None:
    """The gateway is asked, and says so: test_edge_hostless.py."""
    own = f"ann.{HOST}"
    with websocket_function(proxy.settings.run / "h.sock") as endpoint:
        proxy.edge.apply({"f.ann": Route("r", [endpoint], hostless=True)})
        plain = client.begin(head(authority=own, path="/f/x"))
        assert json.loads(client.wait(plain).body)["server"] == "gateway"
        while SettingCodes.ENABLE_CONNECT_PROTOCOL not in client.h2.remote_settings:
            assert client.receive()
        upgrade = client.begin(
            [
                *head((":protocol", "websocket"), method="CONNECT", authority=own, path="/f/chat"),
                ("sec-websocket-version", "13"),
            ],
            end=False,
        )
        while not client.replies[upgrade].status:
            assert client.receive()
        client.send(upgrade, b"hello")
        while b"hello" not in client.replies[upgrade].body:
            assert client.receive()
        assert client.replies[upgrade].body == b"hello", "echoed by the gateway's stand-in"
        client.h2.reset_stream(upgrade)
        client.flush()


def test_a_websocket_in_a_stream(client: Client, proxy: Proxy) -> None:
    """RFC 8441, as browsers do over HTTP/2."""
    with websocket_function(proxy.settings.run / "w.sock") as endpoint:
        proxy.edge.apply({"f.ann": Route("r", [endpoint])})
        while SettingCodes.ENABLE_CONNECT_PROTOCOL not in client.h2.remote_settings:
            assert client.receive()
        stream = client.begin(
            [
                *head((":protocol", "websocket"), method="CONNECT", path="/function/f.ann/chat"),
                ("sec-websocket-version", "13"),
            ],
            end=False,
        )
        while not client.replies[stream].status:
            assert client.receive()
        assert client.replies[stream].status == 200
        client.send(stream, Frame(Opcode.TEXT, b"hello").serialize(mask=True))
        wanted = Frame(Opcode.TEXT, b"/chat: hello").serialize(mask=False)
        while len(client.replies[stream].body) < len(wanted):
            assert client.receive()
        assert client.replies[stream].body == wanted
        client.h2.reset_stream(stream)
        client.flush()

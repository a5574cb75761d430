"""The edge with a real HAProxy: routing, headers, switches, drains, deaths, limits."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from core.errors import InvalidRequest, Unavailable
from core.origin import OF_THE_WHOLE, SANDBOX
from core.settings import Settings
from core.signing import secret_file
from runtime.edge import NoEdge, Route, config, make_edge
from runtime.edge.admin import AdminSocket
from runtime.edge.driver import HAProxyEdge
from tests.integration.edge_harness import Proxy, Server, routes, spawn_function
from tests.waiting import until


@pytest.fixture
def edge_settings(short_tmp: Path) -> Settings:
    return Settings.from_env({"SLIPWAY_STATE": str(short_tmp), "SLIPWAY_DRAIN_TIMEOUT": "2s"})


@pytest.fixture
def proxy(edge_settings: Settings) -> Iterator[Proxy]:
    proxy = Proxy(edge_settings)
    yield proxy
    proxy.close()


# The configuration.


def test_configuration_is_valid_without_a_warning(edge_settings: Settings) -> None:
    edge_settings.run.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        path = config.write(
            edge_settings, listener=listener.fileno(), functions_bind="127.0.0.1:18099"
        )
        checked = subprocess.run(
            [*config.command(path), "-c", "-dW"],
            pass_fds=(listener.fileno(),),
            capture_output=True,
            text=True,
            env={"PATH": "/usr/bin:/bin"},
            check=False,
        )
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr
    backends = config.backends_file(edge_settings).read_text()
    assert f"\n{backends}".count("\nbackend b") == config.POOL


def test_functions_listener_is_there_only_if_asked_for(edge_settings: Settings) -> None:
    assert "frontend functions" not in config.render(edge_settings, listener=3)


def test_idle_memory(edge_settings: Settings) -> None:
    proxy = Proxy(edge_settings, pool=config.POOL)
    try:
        status = Path(f"/proc/{proxy.process.pid}/status").read_text()
    finally:
        proxy.close()
    resident = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert resident
    assert int(resident[1]) < 45_000


# Routing and paths.


def test_everything_else_goes_to_the_gateway_as_it_is(proxy: Proxy) -> None:
    proxy.route({"f.ann": proxy.function("f")})
    for path in (
        "/",
        "/healthz",
        "/system/functions?namespace=x",
        "/git/ann/r.git/info/refs?service=git-upload-pack",
        "/webhooks/github",
        "/async-function/f.ann",
        "/function",
        "/function/",
        "/functionf.ann",
        "//function/f.ann",
        "/%66unction/f.ann",
        "/function/F.ann",
        "/function/other.ann/a//b%2Fc?d=%2F",
        "/function/" + "x" * 500 + "/y",
    ):
        status, _, echo = proxy.get(path)
        assert (status, echo["server"], echo["path"]) == (200, "gateway", path)


@pytest.mark.parametrize(
    ("asked", "seen"),
    [
        ("/function/f.ann", "/"),
        ("/function/f.ann/", "/"),
        ("/function/f.ann?a=1&b=/x", "/?a=1&b=/x"),
        ("/function/f.ann/x/y?q", "/x/y?q"),
        ("/function/f.ann//x", "//x"),
        ("/function/f.ann/a%2Fb/../c%20d%00", "/a%2Fb/../c%20d%00"),
        ("/function/f.ann/%s%d%%", "/%s%d%%"),
        ('/function/f.ann/a"b;c,d', '/a"b;c,d'),
        ("/function/f.ann/function/f.ann", "/function/f.ann"),
        ("/function/bare/x", "/x"),
        ("/function/bare.openfaas-fn/x", "/x"),
    ],
)
def test_path_reaches_the_function_as_given(proxy: Proxy, asked: str, seen: str) -> None:
    function = proxy.function("f")
    proxy.route({"f.ann": function, "bare.openfaas-fn": function})
    status, _, echo = proxy.get(asked)
    assert (status, echo["server"], echo["path"]) == (200, "f", seen)


def test_absolute_form_is_turned_into_origin_form(proxy: Proxy) -> None:
    proxy.route({"f.ann": proxy.function("f")})
    for url, server, seen in (
        ("http://h/function/f.ann/x?y", "f", "/x?y"),
        ("http://h/system/info", "gateway", "/system/info"),
        ("http://h", "gateway", "/"),
    ):
        reply = proxy.raw(f"GET {url} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
        echo = json.loads(reply.partition(b"\r\n\r\n")[2])
        assert (echo["server"], echo["path"]) == (server, seen)


def test_every_method_reaches_the_function(proxy: Proxy) -> None:
    proxy.route({"f.ann": proxy.function("f")})
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"):
        assert proxy.get("/function/f.ann", method=method)[2]["method"] == method
    status, headers, _ = proxy.get("/function/f.ann", method="HEAD")
    assert status == 200
    assert int(headers["content-length"]) > 0


def test_function_without_a_live_replica_falls_to_the_gateway(proxy: Proxy) -> None:
    function = proxy.function("f")
    proxy.route({"f.ann": function, "g.ann": []})
    assert proxy.get("/function/g.ann/x?y")[2]["path"] == "/function/g.ann/x?y"
    proxy.edge.mark_down(function.endpoint)
    echo = proxy.get("/function/f.ann/x?y")[2]
    assert (echo["server"], echo["path"]) == ("gateway", "/function/f.ann/x?y")


def test_replicas_share_the_requests(proxy: Proxy) -> None:
    replicas = [proxy.function(f"r{number}") for number in range(3)]
    proxy.route({"f.ann": replicas})
    for _ in range(30):
        proxy.get("/function/f.ann")
    assert all(replica.calls >= 5 for replica in replicas)


def test_requests_of_a_replica_that_vanished_are_cut_off(proxy: Proxy) -> None:
    """A container that is removed resets nothing: nobody shall wait for the drain's whole time."""
    proxy.edge._drain_timeout = 60.0  # these tests' own is shorter than what is looked at here
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        proxy.edge.apply({"f.ann": Route("r", [address])})
        answers: list[int] = []
        client = threading.Thread(target=lambda: answers.append(proxy.get("/function/f.ann")[0]))
        client.start()
        connection, _ = silent.accept()
        with connection:
            assert connection.recv(1000).startswith(b"GET / ")
            proxy.edge.mark_down(address)
            proxy.edge.apply({})
            deadline = time.monotonic() + 8
            while client.is_alive() and time.monotonic() < deadline:
                proxy.edge.tick()
                time.sleep(0.1)
            cut_off = not client.is_alive()
        client.join()  # our end of the connection is closed now
    assert cut_off
    assert answers in ([502], [503])


def test_tcp_endpoint(proxy: Proxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        proxy.edge.apply({"f.ann": Route(revision="1", endpoints=[f"127.0.0.1:{port}"])})

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntcp")

        thread = threading.Thread(target=serve)
        thread.start()
        assert proxy.get("/function/f.ann")[2]["text"] == "tcp"
        thread.join()


def test_functions_listener_refuses_all_but_functions(proxy: Proxy) -> None:
    proxy.route({"f.ann": proxy.function("f")})
    inside = proxy.inside_port
    assert proxy.get("/function/f.ann/x", port=inside)[2]["path"] == "/x"
    assert proxy.get("/function/f.ann/a/../b", port=inside)[2]["path"] == "/a/../b"
    assert proxy.get("/async-function/f.ann", port=inside)[2]["server"] == "gateway"
    assert proxy.get("/function/asleep.ann", port=inside)[2]["server"] == "gateway"
    calls = proxy.gateway.calls
    for path in (
        "/",
        "/system/functions",
        "/git/ann/r.git/info/refs",
        "/webhooks/github",
        "/healthz",
        "/metrics",
        "//system/functions",
        "/function/../system/functions",
        "/function/%2e%2e/system/functions",
        "/function/..%2fsystem/functions",
        "/async-function/../system/functions",
    ):
        status, _, echo = proxy.get(path, port=inside)
        assert status == 403, path
        assert "only /function/ and /async-function/" in echo["text"]
    refused = proxy.raw(
        b"GET http://h/system/info HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", inside
    )
    assert refused.startswith(b"HTTP/1.1 403")
    options = proxy.raw(b"OPTIONS * HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", inside)
    assert options.startswith(b"HTTP/1.1 403")
    assert proxy.gateway.calls == calls


# Headers.


def _headers(echo: dict[str, list[list[str]]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in echo["headers"]:
        found.setdefault(name, []).append(value)
    return found


def test_headers_of_openfaas(proxy: Proxy) -> None:
    proxy.route({"f.ann": proxy.function("f")})
    before = time.time_ns()
    _, answer, echo = proxy.get(
        "/function/f.ann", headers={"Host": "shop.example:80", "X-Forwarded-For": "6.6.6.6"}
    )
    seen = _headers(echo)
    assert re.fullmatch(r"[0-9a-f-]{36}", seen["x-call-id"][0])
    assert answer["x-call-id"] == seen["x-call-id"][0]
    assert answer["x-start-time"] == seen["x-start-time"][0]
    assert before - 10**9 < int(answer["x-start-time"]) < time.time_ns() + 10**9
    assert seen["x-forwarded-for"] == ["127.0.0.1"]
    assert seen["x-forwarded-host"] == ["shop.example:80"]
    assert answer["server"].startswith("BaseHTTP"), "the function's own word"
    assert "server" not in proxy.get("/function/other.ann")[1], "the gateway's software"
    _, answer, echo = proxy.get("/function/asleep.ann")
    assert answer["x-call-id"] == _headers(echo)["x-call-id"][0]


def test_call_id_of_the_client_is_kept_if_it_is_one(proxy: Proxy) -> None:
    proxy.route({"f.ann": proxy.function("f")})
    given = {"X-Call-Id": "order-4711:b"}
    _, answer, echo = proxy.get("/function/f.ann", headers=given)
    assert answer["x-call-id"] == "order-4711:b"
    assert _headers(echo)["x-call-id"] == ["order-4711:b"]
    for bad in ("x" * 129, "a b", 'a"b', "<script>"):
        _, answer, echo = proxy.get("/function/f.ann", headers={"X-Call-Id": bad})
        assert re.fullmatch(r"[0-9a-f-]{36}", answer["x-call-id"])
        assert _headers(echo)["x-call-id"] == [answer["x-call-id"]]


def test_hop_by_hop_headers_stop_here(proxy: Proxy) -> None:
    proxy.route({"f.ann": proxy.function("f")})
    _, _, echo = proxy.get(
        "/function/f.ann",
        headers={
            "Connection": "X-Secret",
            "Keep-Alive": "timeout=5",
            "TE": "trailers",
            "Proxy-Connection": "keep-alive",
            "Proxy-Authorization": "Basic x",
            "Upgrade": "h2c",
            "HTTP2-Settings": "AAMAAABkAAQAAP__",
        },
    )
    gone = {"connection", "keep-alive", "te", "proxy-connection", "proxy-authorization", "upgrade"}
    assert not gone & set(_headers(echo))


def test_pages_of_functions_are_sandboxed(proxy: Proxy) -> None:
    proxy.route({"f.ann": proxy.function("f")})
    for path in (
        "/function/f.ann?type=text/html",
        "/function/f.ann?type=image/svg%2Bxml",
        "/function/f.ann?status=500",
        "/function/asleep.ann?type=text/html",
        "/function/" + "x" * 500,
    ):
        assert proxy.get(path)[1]["content-security-policy"] == SANDBOX
    both = proxy.raw(
        b"GET /function/f.ann?header=Content-Security-Policy:default-src HTTP/1.1\r\n"
        b"Host: h\r\nConnection: close\r\n\r\n"
    ).lower()
    assert both.count(b"content-security-policy: ") == 2
    assert SANDBOX.encode() in both
    assert "content-security-policy" not in proxy.get("/system/ui")[1]


def test_no_function_speaks_for_the_whole_origin(proxy: Proxy) -> None:
    proxy.route({"f.ann": proxy.function("f")})
    given = "&".join(f"header={name.title()}:x" for name in (*OF_THE_WHOLE, "x-nel"))
    headers = proxy.get(f"/function/f.ann?{given}&header=Set-Cookie:a%3Db")[1]
    assert not set(OF_THE_WHOLE) & set(headers)
    assert (headers["x-nel"], headers["set-cookie"]) == ("x", "a=b")


SLIPWAYS = ("slipway-session=x; Path=/system", "=slipway-login=x", "= slipway-session=", "slipway-")
"""Cookies that no function may set."""
THEIRS = ("a=slipway-session", "my-slipway-session=x; Path=/", "slipway=1", "session=slipway-x,y")


def test_no_function_signs_anybody_in(short_tmp: Path) -> None:
    domain = {"SLIPWAY_STATE": str(short_tmp), "SLIPWAY_DOMAIN": "example.com"}
    proxy = Proxy(Settings.from_env(domain))
    asked = "&".join(f"header=Set-Cookie:{quote(each)}" for each in (*SLIPWAYS, *THEIRS))
    try:
        proxy.route({"f.ann": proxy.function("f")})
        for path, host in (("/f", "ann.example.com"), ("/function/f.ann", "example.com")):
            head = f"GET {path}?{asked} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            lines = proxy.raw(head.encode()).decode().split("\r\n")
            assert lines[0] == "HTTP/1.1 200 OK"
            cookies = [each.partition(":") for each in lines if each.lower().startswith("set-cook")]
            told = [value.strip() for _, _, value in cookies]
            assert [each for each in told if each] == list(THEIRS), host
    finally:
        proxy.close()


def test_a_host_of_functions_is_theirs(short_tmp: Path) -> None:
    domain = {"SLIPWAY_STATE": str(short_tmp), "SLIPWAY_DOMAIN": "example.com"}
    proxy = Proxy(Settings.from_env(domain))
    try:
        proxy.route({"f.ann": proxy.function("f")})
        for path, host, wanted in (
            ("/f", "ann.example.com", "x"),
            ("/function/f.ann", "example.com", None),
        ):
            answer = proxy.get(f"{path}?header=Clear-Site-Data:x", headers={"Host": host})
            assert answer[0] == 200
            assert answer[1].get("clear-site-data") == wanted
    finally:
        proxy.close()


def test_what_has_no_type_gets_the_requests(proxy: Proxy) -> None:
    proxy.route({"f.ann": proxy.function("f")})
    given = {"Content-Type": 'multipart/x; boundary="a,b"'}
    for query, sent, wanted in (
        ("untyped=1", {}, "text/plain"),
        ("untyped=1", given, given["Content-Type"]),
        ("type=image/png", given, "image/png"),
        ("untyped=1&status=304", given, None),
    ):
        headers = proxy.get(f"/function/f.ann?{query}", method="HEAD", headers=sent)[1]
        assert headers.get("content-type") == wanted, query


def test_errors_of_the_edge_say_whose_they_are(proxy: Proxy) -> None:
    proxy.route({"f.ann": proxy.function("f")})
    status, headers, _ = proxy.get("/function/f.ann?abort=1", method="POST")
    assert (status, headers["x-openfaas-internal"]) == (502, "proxy")
    assert "retry-after" not in headers
    proxy.gateway.close()
    status, headers, _ = proxy.get("/function/none.ann")
    assert (status, headers["x-openfaas-internal"]) == (503, "proxy")
    assert headers["retry-after"] == "1"
    assert "x-openfaas-internal" not in proxy.get("/function/f.ann?status=500")[1]


def test_malformed_requests_are_refused(proxy: Proxy) -> None:
    calls = proxy.gateway.calls
    for request in (
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 20000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\nConnection: close\r\n\r\n",
    ):
        reply = proxy.raw(request)
        assert reply.startswith((b"HTTP/1.1 400", b"HTTP/1.1 405")), reply
        assert b"aproxy" not in reply.lower()
    assert proxy.gateway.calls == calls


def test_unfinished_headers_time_out(proxy: Proxy) -> None:
    begun = time.monotonic()
    assert proxy.raw(b"GET / HTTP/1.1\r\nHost: a\r\n").startswith(b"HTTP/1.1 408")
    assert 8 < time.monotonic() - begun < 15


@pytest.mark.parametrize("stalls", ["sending", "reading"])
def test_a_client_that_stalls_is_cut_off_and_the_function_told(
    edge_settings: Settings, stalls: str
) -> None:
    """After a minute, which is a second here."""
    proxy = Proxy(edge_settings, timeout="1s")
    path = edge_settings.run / "f.sock"
    released = threading.Event()
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            proxy.edge.apply({"f.ann": Route("r", [f"unix@{path}"])})

            def serve() -> None:
                while not released.is_set():
                    connection, _ = listener.accept()
                    with connection:
                        if not connection.recv(65536).startswith(b"POST"):
                            continue  # a check of the edge's
                        with contextlib.suppress(OSError):
                            if stalls == "reading":
                                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                                while True:
                                    connection.sendall(bytes(2**20))
                            while connection.recv(65536):
                                pass
                        released.set()

            threading.Thread(target=serve, daemon=True).start()
            length = 9 if stalls == "sending" else 1
            with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as client:
                head = f"POST /function/f.ann HTTP/1.1\r\nHost: a\r\nContent-Length: {length}"
                client.sendall(head.encode() + b"\r\n\r\nx")
                until(released.is_set)
                if stalls == "sending":
                    assert client.recv(100).startswith(b"HTTP/1.1 40")
    finally:
        proxy.close()


def test_gateway_gone_is_told(proxy: Proxy) -> None:
    proxy.gateway.close()
    status, headers, echo = proxy.get("/healthz", method="POST")
    assert status == 503
    assert headers["retry-after"] == "1"
    assert "Try again" in echo["text"]
    proxy.gateway = Server(proxy.settings.gateway_socket, "gateway")


# Streams.


def test_a_call_that_is_not_whole_takes_no_place_of_the_gateway(proxy: Proxy) -> None:
    head = b"POST /async-function/f HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\nhalf"
    with socket.create_connection(("127.0.0.1", proxy.port), 20) as client:
        client.sendall(head)
        time.sleep(0.5)
        assert not proxy.gateway._open
        client.sendall(b"half")
        assert client.recv(2**16).startswith(b"HTTP/1.1 200")
    assert proxy.gateway.calls == 1


def test_events_are_not_held_back(proxy: Proxy) -> None:
    proxy.route({"f.ann": proxy.function("f")})
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
    connection.request("GET", "/function/f.ann?stream=5")
    answer = connection.getresponse()
    delays = []
    for _ in range(5):
        sent = float(answer.readline().split()[2])
        delays.append(time.time() - sent)
        answer.readline()
    connection.close()
    assert max(delays) < 0.25, "the pieces are made at intervals of 0.3"


def test_continue_is_the_functions_word(proxy: Proxy) -> None:
    proxy.route({"f.ann": proxy.function("f")})
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as connection:
        connection.sendall(
            b"POST /function/f.ann HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n"
            b"Connection: close\r\nExpect: 100-continue\r\n\r\n"
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 100")
        connection.sendall(b"ok")
        reply = b""
        while piece := connection.recv(4096):
            reply += piece
    assert b'"length": 2' in reply


@pytest.mark.parametrize("path", ["/function/f.ann", "/git/ann/r.git/git-receive-pack"])
def test_large_chunked_upload_passes_in_flat_memory(proxy: Proxy, path: str) -> None:
    proxy.route({"f.ann": proxy.function("f")})
    piece = os.urandom(1 << 20)
    status, _, echo = proxy.get(
        path,
        method="POST",
        body=(piece for _ in range(100)),
        encode_chunked=True,
        headers={"Transfer-Encoding": "chunked"},
    )
    assert (status, echo["length"]) == (200, 100 << 20)
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{proxy.process.pid}/status").read_text())
    assert peak
    assert int(peak[1]) < 45_000


def _websocket(proxy: Proxy) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", proxy.port), timeout=10)
    connection.sendall(
        b"GET /function/f.ann/chat HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    reply = connection.recv(4096)
    assert reply.startswith(b"HTTP/1.1 101"), reply
    connection.sendall(b"ping")
    assert connection.recv(4096) == b"ping"
    return connection


def test_websocket_ends_at_the_drain_deadline(proxy: Proxy) -> None:
    old, new = proxy.function("old"), proxy.function("new")
    proxy.route({"f.ann": old})
    with _websocket(proxy) as connection:
        switched = time.monotonic()
        proxy.route({"f.ann": new})
        time.sleep(0.5)
        proxy.edge.tick()
        connection.sendall(b"still")
        assert connection.recv(4096) == b"still"
        assert not proxy.edge.released(old.endpoint)
        until(lambda: _released(proxy, old.endpoint))
        assert time.monotonic() - switched > 1.9
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(4096) == b""


def _released(proxy: Proxy, endpoint: str) -> bool:
    proxy.edge.tick()
    return proxy.edge.released(endpoint)


# Switches and drains.


class _Clients:
    """A few keep-alive clients; each asks pairs of functions in order and compares revisions."""

    def __init__(self, proxy: Proxy, functions: list[str], count: int, method: str = "GET") -> None:
        self.proxy = proxy
        self.functions = functions
        self.method = method
        self.problems: list[str] = []
        self.answers = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def _ask(self, offset: int) -> None:
        newest = 0
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy.port, timeout=10)
        turn = offset
        try:
            while not self._stop.is_set():
                turn += 7
                function = self.functions[turn % len(self.functions)]
                connection.request(self.method, f"/function/{function}")
                answer = connection.getresponse()
                body = answer.read()
                if answer.status != 200:
                    self.problems.append(f"{function}: {answer.status} {body[:80]!r}")
                    continue
                revision = int(json.loads(body)["server"].rpartition("-")[2])
                if revision < newest:
                    self.problems.append(f"{function}: {revision} after {newest}")
                newest = max(newest, revision)
                self.answers += 1
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.problems.append(f"broke: {error!r}")
        finally:
            connection.close()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_fifty_routes_switch_in_one_step(edge_settings: Settings) -> None:
    proxy = Proxy(edge_settings, pool=300)
    names = [f"f{number}.ann" for number in range(50)]
    try:
        revisions = [
            {name: proxy.function(f"{name}-{revision}") for name in names} for revision in range(4)
        ]
        proxy.route(revisions[0])
        clients = _Clients(proxy, names, 4, method="POST")
        for revision in revisions[1:]:
            time.sleep(0.4)
            proxy.route(revision)
        time.sleep(0.4)
        clients.stop()
        assert clients.problems == []
        assert clients.answers > 100
        for old in revisions[0].values():
            until(lambda old=old: _released(proxy, old.endpoint))
        until(lambda: all(_released(proxy, old.endpoint) for old in revisions[2].values()))
        state = AdminSocket(config.admin_socket(edge_settings)).send("show servers state")
        assert len(re.findall(r"^\d+ b\d+ ", state, re.MULTILINE)) == 50
    finally:
        proxy.close()


def test_slow_request_is_finished_before_its_replica_is_released(proxy: Proxy) -> None:
    old, new = proxy.function("old"), proxy.function("new")
    proxy.route({"f.ann": old})
    answers: list[str] = []
    thread = threading.Thread(
        target=lambda: answers.append(proxy.get("/function/f.ann?sleep=2")[2]["server"])
    )
    thread.start()
    time.sleep(0.3)
    proxy.route({"f.ann": new})
    assert answers == [], "apply waits for no drain"
    assert proxy.get("/function/f.ann")[2]["server"] == "new"
    time.sleep(0.3)
    proxy.route({"f.ann": new})
    assert not proxy.edge.released(old.endpoint)
    assert answers == []
    thread.join()
    assert answers == ["old"]
    until(lambda: _released(proxy, old.endpoint))
    assert not proxy.edge.released(new.endpoint)


def test_scaling_keeps_the_backend_and_drains_the_leaving_replica(proxy: Proxy) -> None:
    one, two, three = (proxy.function(name) for name in ("one", "two", "three"))
    proxy.route({"f.ann": [one, two]})
    before = AdminSocket(config.admin_socket(proxy.settings)).send(
        f"show map {config.map_file(proxy.settings)}"
    )
    thread = threading.Thread(
        target=lambda: [proxy.get("/function/f.ann?sleep=0.4") for _ in range(2)]
    )
    thread.start()
    time.sleep(0.1)
    proxy.route({"f.ann": [two, three]})
    for _ in range(10):
        assert proxy.get("/function/f.ann")[2]["server"] in ("two", "three")
    until(lambda: _released(proxy, one.endpoint))
    thread.join()
    after = AdminSocket(config.admin_socket(proxy.settings)).send(
        f"show map {config.map_file(proxy.settings)}"
    )
    assert before.split()[1:] == after.split()[1:]
    proxy.route({"f.ann": [one, two, three]})
    until(lambda: bool([proxy.get("/function/f.ann") for _ in range(6)]) and one.calls > 0)


def test_endpoint_that_is_wanted_again_while_it_drains(proxy: Proxy) -> None:
    old, new = proxy.function("old"), proxy.function("new")
    proxy.route({"f.ann": [old, new]})
    thread = threading.Thread(target=lambda: proxy.get("/function/f.ann?sleep=1"))
    thread.start()
    time.sleep(0.2)
    proxy.route({"f.ann": new})
    proxy.route({"f.ann": old})  # another revision, and back, while requests are in flight
    assert not proxy.edge.released(old.endpoint)
    assert {proxy.get("/function/f.ann")[2]["server"] for _ in range(5)} == {"old"}
    thread.join()
    until(lambda: _released(proxy, new.endpoint))
    assert not proxy.edge.released(old.endpoint)
    assert proxy.get("/function/f.ann")[2]["server"] == "old"


def test_removed_function_goes_to_the_gateway_and_its_backend_is_used_again(
    edge_settings: Settings,
) -> None:
    proxy = Proxy(edge_settings, pool=2)
    try:
        for turn in range(5):
            function = proxy.function(f"f{turn}")
            proxy.route({f"f{turn}.ann": function})
            assert proxy.get(f"/function/f{turn}.ann")[2]["server"] == f"f{turn}"
            proxy.route({})
            assert proxy.get(f"/function/f{turn}.ann")[2]["server"] == "gateway"
            until(lambda function=function: _released(proxy, function.endpoint))
    finally:
        proxy.close()


def test_functions_beyond_the_pool_are_served_by_the_gateway(edge_settings: Settings) -> None:
    proxy = Proxy(edge_settings, pool=2)
    try:
        function = proxy.function("f")
        proxy.route({f"f{number}.ann": function for number in range(3)})
        servers = [proxy.get(f"/function/f{number}.ann")[2]["server"] for number in range(3)]
        assert sorted(servers) == ["f", "f", "gateway"]
    finally:
        proxy.close()


def test_a_function_has_its_own_time_and_keeps_its_backend(edge_settings: Settings) -> None:
    """Another time is another row of the map, at the same servers."""
    proxy = Proxy(edge_settings)
    try:
        function = proxy.function("f")
        ends = [function.endpoint]
        for patience, wanted in ((0.4, 504), (0, 200), (30, 200), (0.4, 504)):
            proxy.edge.apply(
                {"f.ann": Route("r", ends, patience), "f.openfaas-fn": Route("r", ends)}
            )
            assert proxy.get("/function/f.ann?sleep=0.8")[0] == wanted
        rows = AdminSocket(config.admin_socket(edge_settings)).send(
            f"show map {config.map_file(edge_settings)}"
        )
        assert [row.split()[1:] for row in rows.splitlines() if row] == [
            ["f.ann", "b0:400"],
            ["f.openfaas-fn", "b1"],
            ["f", "b1"],
        ]
    finally:
        proxy.close()


def test_five_thousand_routes(edge_settings: Settings) -> None:
    """HAProxy dies of a payload over its buffer: rows and commands go in chunks."""
    proxy = Proxy(edge_settings, pool=5100)
    try:
        function = proxy.function("f")
        table = {f"{'f' * 58}{number:05}.{'n' * 63}": function for number in range(5000)}
        proxy.route(table)
        time.sleep(0.1)
        proxy.route({**table, "one.more": function})
        assert proxy.process.poll() is None
        for name in ("one.more", next(iter(table)), list(table)[-1]):
            # 5,000 servers check this one function at once: one that was refused comes back.
            until(lambda name=name: proxy.get(f"/function/{name}")[2].get("server") == "f")
    finally:
        proxy.close()


def test_too_long_a_command_is_never_sent(proxy: Proxy) -> None:
    with pytest.raises(ValueError, match="chunks"):
        AdminSocket(config.admin_socket(proxy.settings)).send("add map x", "y" * 16384)
    assert proxy.edge.alive()


# Deaths and restarts.


def test_killed_proxy_is_rebuilt(proxy: Proxy) -> None:
    table = {f"f{number}.ann": proxy.function(f"f{number}") for number in range(20)}
    proxy.route(table)
    proxy.process.kill()
    proxy.process.wait()
    assert not proxy.edge.alive()
    with pytest.raises(Unavailable, match="admin socket"):
        proxy.route(table)
    assert not proxy.edge.released(table["f0.ann"].endpoint)
    waiting: list[str] = []
    thread = threading.Thread(
        target=lambda: waiting.append(proxy.get("/function/f0.ann")[2]["server"])
    )
    thread.start()  # waits in the backlog of the socket that we hold
    time.sleep(0.1)
    proxy.start()
    thread.join()
    assert waiting == ["f0"], "it starts with the routes that there were"
    for name in table:
        assert proxy.get(f"/function/{name}")[2]["server"] == name.partition(".")[0]
    moved = proxy.function("moved")
    proxy.route({"f0.ann": moved})  # and they can be changed as ever
    assert proxy.get("/function/f0.ann")[2]["server"] == "moved"
    assert proxy.get("/function/f1.ann")[2]["server"] == "gateway"
    until(lambda: _released(proxy, table["f0.ann"].endpoint))
    until(lambda: _released(proxy, table["f1.ann"].endpoint))


def test_requests_of_a_killed_proxy_are_told(proxy: Proxy) -> None:
    """HAProxy logs a request at its end: nobody else knows of these."""
    proxy.route({"f.ann": proxy.function("f"), "g.ann": proxy.function("g")})

    def ask(path: str) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            proxy.get(path)

    threads = [
        threading.Thread(target=ask, args=[f"/function/{name}.ann?sleep=3"])
        for name in ("f", "f", "f", "g")
    ]
    for thread in threads:
        thread.start()

    def seen() -> bool:
        proxy.edge.tick()
        return dict(proxy.edge._under_way) == {"f.ann": 3, "g.ann": 1}

    until(seen)
    proxy.process.kill()
    proxy.process.wait()
    for thread in threads:
        thread.join()
    assert proxy.lost == [], "not before there is another"
    proxy.start()
    proxy.edge.tick()
    assert proxy.lost == [{"f.ann": 3, "g.ann": 1}]
    assert proxy.get("/function/f.ann")[0] == 200
    proxy.start(replaces=proxy.process.pid)
    proxy.edge.tick()
    assert len(proxy.lost) == 1, "one that was replaced finishes what it has"


def test_requests_are_told_where_no_answer_has_begun(proxy: Proxy) -> None:
    """Not those with what was routed to before, and none once a single answer has begun."""
    proxy.route({"f.ann": proxy.function("old")})
    assert proxy.get("/function/f.ann")[0] == 200
    threads = [
        threading.Thread(target=proxy.get, args=[f"/function/f.ann?{query}"])
        for query in ("sleep=3", "sleep=3", "sleep=2&stream=5")
    ]
    threads[0].start()
    until(lambda: proxy.edge._sessions({"b0"}).get(("b0", "BACKEND")) == 1)
    proxy.route({"f.ann": proxy.function("new")})
    assert proxy.edge.unanswered("f.ann") == 0
    threads[1].start()
    until(lambda: proxy.edge.unanswered("f.ann") == 1)
    threads[2].start()
    until(lambda: proxy.edge.unanswered("f.ann") == 2)
    until(lambda: proxy.edge.unanswered("f.ann") == 0)
    assert threads[2].is_alive(), "it goes on"
    for thread in threads:
        thread.join()
    assert proxy.edge.unanswered("g.ann") == 0


def test_planned_restart_loses_nothing(proxy: Proxy) -> None:
    function = proxy.function("f-1")
    proxy.route({"f.ann": function})
    slow: list[int] = []
    thread = threading.Thread(
        target=lambda: slow.append(proxy.get("/function/f.ann?sleep=2", method="POST")[0])
    )
    thread.start()
    clients = _Clients(proxy, ["f.ann"], 3)
    time.sleep(0.2)
    before = proxy.process
    proxy.start(replaces=before.pid)
    time.sleep(0.3)
    proxy.edge.tick()
    clients.stop()
    proxy.route({})
    until(lambda: not proxy.edge._servers or proxy.edge.tick())
    assert not proxy.edge.released(function.endpoint), "the old process still serves it"
    thread.join()
    before.wait(5)
    assert slow == [200]
    # Idle keep-alive connections of the old process end with it; a request never does. The new one
    # has the routes from its first request on: the gateway, which counts otherwise, got none.
    assert clients.problems == []
    until(lambda: _released(proxy, function.endpoint))
    proxy.route({"f.ann": function})
    assert proxy.get("/function/f.ann")[2]["server"] == "f-1"


def test_new_driver_takes_over_without_a_break(proxy: Proxy) -> None:
    table = {f"f{number}.ann": proxy.function(f"f{number}-0") for number in range(5)}
    extra = proxy.function("extra")
    proxy.route({**table, "extra.ann": extra})
    clients = _Clients(proxy, list(table), 3, method="POST")
    admin = AdminSocket(config.admin_socket(proxy.settings))
    rows = admin.send(f"show map {config.map_file(proxy.settings)}")
    proxy.edge = HAProxyEdge(proxy.settings, pool=64)
    assert not proxy.edge.released(extra.endpoint), "nothing is known yet"
    proxy.route(table)
    until(lambda: _released(proxy, extra.endpoint))
    clients.stop()
    assert clients.problems == []
    kept = admin.send(f"show map {config.map_file(proxy.settings)}")
    assert {line.split()[2] for line in kept.split("\n") if line} < {
        line.split()[2] for line in rows.split("\n") if line
    }


def test_half_finished_switch_of_a_killed_driver_is_repaired(proxy: Proxy) -> None:
    function = proxy.function("f")
    admin = AdminSocket(config.admin_socket(proxy.settings))
    rows = config.map_file(proxy.settings)
    admin.send(f"add server b3/left {function.endpoint} maxconn 5")
    admin.send(f"prepare map {rows}")
    admin.send(f"add map @1 {rows}", "other.ann b9")
    proxy.route({"f.ann": function})
    assert proxy.get("/function/f.ann")[2]["server"] == "f"
    assert proxy.get("/function/other.ann")[2]["server"] == "gateway"
    until(lambda: _without(proxy, "left"))


def _without(proxy: Proxy, server: str) -> bool:
    proxy.edge.tick()
    return server not in AdminSocket(config.admin_socket(proxy.settings)).send("show servers state")


@pytest.mark.parametrize("told", [True, False], ids=["controller-tells", "nobody-tells"])
def test_death_of_a_replica(proxy: Proxy, told: bool) -> None:
    """Of three replicas one is killed: what was not in flight there goes to the others."""
    replicas = {
        f"unix@{proxy.settings.run}/p{number}.sock": spawn_function(
            proxy.settings.run / f"p{number}.sock", f"p-{number}"
        )
        for number in range(3)
    }
    try:
        proxy.edge.apply({"f.ann": Route(revision="1", endpoints=list(replicas))})
        statuses: list[int] = []
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                statuses.append(proxy.get("/function/f.ann?sleep=0.02")[0])

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        endpoint, victim = next(iter(replicas.items()))
        victim.kill()
        victim.wait()
        if told:
            proxy.edge.mark_down(endpoint)
        time.sleep(0.7)
        stop.set()
        for thread in threads:
            thread.join()
        assert len(statuses) > 30
        assert [status for status in statuses if status != 200] == []
        proxy.edge.apply({"f.ann": Route(revision="1", endpoints=list(replicas)[1:])})
        until(lambda: _released(proxy, endpoint))
    finally:
        for process in replicas.values():
            process.kill()
            process.wait()


def test_death_of_the_only_replica_ends_at_the_gateway(proxy: Proxy) -> None:
    path = proxy.settings.run / "p.sock"
    process = spawn_function(path, "p-1")
    proxy.edge.apply({"f.ann": Route(revision="1", endpoints=[f"unix@{path}"])})
    assert proxy.get("/function/f.ann")[2]["server"] == "p-1"
    process.kill()
    process.wait()
    answers = [proxy.get("/function/f.ann", method="POST") for _ in range(10)]
    assert sum(status == 503 for status, _, _ in answers) <= 1
    assert {echo["server"] for _, _, echo in answers[1:]} == {"gateway"}


def test_post_is_not_run_twice(proxy: Proxy) -> None:
    function = proxy.function("f")
    proxy.route({"f.ann": function})
    reply = proxy.raw(
        b"POST /function/f.ann?abort=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n"
        b"Connection: close\r\n\r\n"
    )
    assert not reply.startswith(b"HTTP/1.1 200")
    assert function.calls == 1


# What cannot be.


def test_hostile_table_entries_are_refused(proxy: Proxy) -> None:
    for function, endpoint in (
        ("f.ann b1\nx.y b2", "unix@/tmp/x"),
        ("f", "unix@/tmp/x"),
        ("f.ann", "unix@/tmp/x;shutdown"),
        ("f.ann", "unix@/" + "x" * 97),
        ("f.ann", "fd@3"),
    ):
        with pytest.raises(InvalidRequest):
            proxy.edge.apply({function: Route(revision="1", endpoints=[endpoint])})
    proxy.route({})
    proxy.edge.mark_down("")
    assert proxy.edge.released("")


@pytest.mark.root
def test_runs_without_privileges(edge_settings: Settings) -> None:
    nobody = 65534
    run = edge_settings.run
    run.mkdir()
    function = Server(run / "f.sock", "f")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        path = config.write(edge_settings, listener=listener.fileno(), pool=4)
        for each in (edge_settings.state, run, *run.rglob("*")):
            os.chown(each, nobody, nobody)
        process = subprocess.Popen(
            config.command(path),
            pass_fds=(listener.fileno(),),
            stderr=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin"},
            user=nobody,
            group=nobody,
            extra_groups=(),
        )
        try:
            edge = HAProxyEdge(edge_settings, pool=4)
            until(edge.alive)
            edge.apply(routes({"f.ann": function}))
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/function/f.ann"
            with urllib.request.urlopen(url, timeout=5) as answer:
                assert json.load(answer)["server"] == "f"
        finally:
            process.kill()
            process.wait()
            function.close()


def test_no_edge_lets_go_at_once() -> None:
    edge = make_edge(Settings.from_env({"SLIPWAY_EDGE": "none"}))
    assert isinstance(edge, NoEdge)
    edge.apply(routes({}))
    assert edge.released("unix@/x")
    assert edge.alive()


def test_our_own_credentials_never_reach_a_function(proxy: Proxy) -> None:
    proxy.route({"f.ann": proxy.function("f")})
    password = secret_file(proxy.settings.password_file)
    token = secret_file(proxy.settings.token_file)
    admin = base64.b64encode(f"admin:{password}".encode()).decode()
    owners = f"slipway_{'0' * 12}_{'0' * 64}"
    ann = base64.b64encode(f"ann:{owners}".encode()).decode()
    theirs_too = (f"Basic {ann}", f"basic {ann}", f"Bearer {owners}", f"bearer {owners}")
    for ours in (f"Basic {admin}", f"basic {admin}", f"Bearer {token}", *theirs_too):
        _, _, echo = proxy.get("/function/f.ann", headers={"Authorization": ours})
        assert "authorization" not in _headers(echo), ours
    theirs = "Basic " + base64.b64encode(b"ann:secret").decode()
    _, _, echo = proxy.get("/function/f.ann", headers={"Authorization": theirs})
    assert _headers(echo)["authorization"] == [theirs]
    text = proxy.config.read_text()
    assert password not in text
    assert admin not in text
    assert token not in text


def test_it_binds_by_itself_where_nobody_holds_its_sockets(edge_settings: Settings) -> None:
    """As in compose; on all addresses, and yet functions do not reach the public listener."""
    for folder in edge_settings.run_folders:
        folder.mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    path = config.write(
        edge_settings, listener=f"0.0.0.0:{port}", functions_bind=f"127.0.0.2:{port}", pool=4
    )
    gateway = Server(edge_settings.gateway_socket, "gateway")
    process = subprocess.Popen(
        config.command(path), stderr=subprocess.DEVNULL, env={"PATH": "/usr/bin:/bin"}
    )
    try:
        until(HAProxyEdge(edge_settings, pool=4).alive)
        statuses = {}
        for address in ("127.0.0.1", "127.0.0.2"):
            connection = http.client.HTTPConnection(address, port, timeout=5)
            connection.request("GET", "/system/info")
            statuses[address] = connection.getresponse().status
            connection.close()
        assert statuses == {"127.0.0.1": 200, "127.0.0.2": 403}
    finally:
        process.kill()
        process.wait()
        gateway.close()

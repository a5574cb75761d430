"""Invocations by way of the gateway: every byte that a function gets and a client sees."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.models import FunctionSpec, Observed
from core.origin import OF_THE_WHOLE
from core.patience import LONGEST, patience_of
from core.store import Store
from gateway.pools import Pools
from tests.integration.gateway.harness import (
    Gateway,
    Upstream,
    answering,
    deploy,
    exchange,
    memory_mb,
    raw,
)
from tests.waiting import until

HELLO = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nhello"


def read_body(connection: socket.socket, head: bytes) -> bytes:
    """A request's body, chunked or of known length."""
    text = head.lower()
    if b"transfer-encoding: chunked" in text:
        body = b""
        while chunk := read_chunk(connection):
            body += chunk
        return body
    length = int(text.partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
    body = b""
    while len(body) < length:
        data = connection.recv(length - len(body))
        if not data:
            break
        body += data
    return body


def read_chunk(connection: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\r\n"):
        byte = connection.recv(1)
        if not byte:
            raise ConnectionResetError
        line += byte
    size = int(line, 16)
    data = b""
    while len(data) < size + 2:
        data += connection.recv(size + 2 - len(data))
    return data[:-2]


def echo(connection: socket.socket, head: bytes) -> None:
    body = read_body(connection, head)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


@pytest.fixture
def hello(store: Store, short_tmp: Path) -> Iterator[Upstream]:
    with Upstream(short_tmp / "f.sock", answering(HELLO)) as upstream:
        deploy(store, "hello.inv", [upstream.address])
        yield upstream


def test_it_answers_with_openfaas_headers(gateway: Gateway, hello: Upstream) -> None:
    answer = gateway.anonymous("GET", "/function/hello.inv")
    assert (answer.status_code, answer.text) == (200, "hello")
    assert hello.request_line() == "GET / HTTP/1.1"
    got = hello.headers()
    assert got["x-call-id"] == answer.headers["X-Call-Id"]
    assert got["x-start-time"] == answer.headers["X-Start-Time"]
    assert abs(int(got["x-start-time"]) / 1e9 - time.time()) < 10
    assert got["x-forwarded-for"] == "127.0.0.1"
    assert got["host"] == got["x-forwarded-host"] == gateway.url.removeprefix("http://")
    assert answer.headers["Content-Security-Policy"].startswith("sandbox ")
    assert "allow-same-origin" not in answer.headers["Content-Security-Policy"]


def test_a_clients_headers_arrive_but_for_those_of_one_hop(
    gateway: Gateway, hello: Upstream
) -> None:
    exchange(
        gateway,
        b"GET /function/hello.inv HTTP/1.1\r\nHost: a.test\r\nX-Call-Id: mine\r\nX-Own: 1\r\n"
        b"Connection: close\r\nConnection: X-Hop\r\nX-Hop: 1\r\n"
        b"TE: trailers\r\nProxy-Authorization: x\r\n"
        b"Keep-Alive: 5\r\nX-Forwarded-For: 6.6.6.6\r\nAuthorization: Bearer theirs\r\n\r\n",
    )
    got = hello.headers()
    assert (got["x-call-id"], got["x-own"], got["host"]) == ("mine", "1", "a.test")
    assert got["authorization"] == "Bearer theirs"
    assert got["x-forwarded-for"] == "127.0.0.1"
    gone = {"connection", "x-hop", "te", "proxy-authorization", "keep-alive", "accept-encoding"}
    assert not gone & set(got)


def test_our_own_credentials_stay_here(gateway: Gateway, hello: Upstream) -> None:
    assert gateway.call("GET", "/function/hello.inv").ok
    assert "authorization" not in hello.headers()
    token = {"Authorization": f"Bearer {gateway.token}"}
    assert gateway.anonymous("GET", "/function/hello.inv", headers=token).ok
    assert "authorization" not in hello.headers()
    own = ("admin", "another password")
    assert gateway.anonymous("GET", "/function/hello.inv", auth=own).ok
    assert "authorization" in hello.headers()


@pytest.mark.parametrize(
    ("sent", "arrives"),
    [
        ("/function/hello.inv", "/"),
        ("/function/hello.inv?a=1&b=%20", "/?a=1&b=%20"),
        ("/function/hello.inv/", "/"),
        ("/function/hello.inv/a%2Fb/%C3%A9%0A?x=%2F?y", "/a%2Fb/%C3%A9%0A?x=%2F?y"),
        ("/function/hello.inv//a//../b/./c", "//a//../b/./c"),
        ("/function/hello.inv/../../system/functions", "/../../system/functions"),
        ("http://a.test/function/hello.inv/x?q", "/x?q"),
    ],
)
def test_the_path_arrives_byte_by_byte(
    gateway: Gateway, hello: Upstream, sent: str, arrives: str
) -> None:
    got = exchange(
        gateway, f"GET {sent} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n".encode()
    )
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert hello.request_line() == f"GET {arrives} HTTP/1.1"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE", "x-own"])
def test_any_method(gateway: Gateway, hello: Upstream, method: str) -> None:
    answer = exchange(
        gateway,
        f"{method} /function/hello.inv HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode(),
    )
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nhello")
    assert hello.request_line() == f"{method} / HTTP/1.1"


def test_head_has_a_length_and_no_body(gateway: Gateway, store: Store, short_tmp: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    with Upstream(short_tmp / "f.sock", answering(head)) as upstream:
        deploy(store, "hello.inv", [upstream.address])
        answer = gateway.anonymous("HEAD", "/function/hello.inv")
    assert (answer.headers["Content-Length"], answer.content) == ("5", b"")
    assert answer.headers["Content-Type"].startswith("text/plain")


def test_status_headers_and_redirects_pass_untouched(
    gateway: Gateway, store: Store, short_tmp: Path
) -> None:
    response = (
        b"HTTP/1.1 302 Look There\r\nLocation: /elsewhere\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
        b"Connection: close, X-Hop\r\nX-Hop: 1\r\nBad Name: 1\r\nContent-Length: 0\r\n\r\n"
    )
    with Upstream(short_tmp / "f.sock", answering(response)) as upstream:
        deploy(store, "hello.inv", [upstream.address])
        got = exchange(
            gateway,
            b"GET /function/hello.inv HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        )
    assert got.startswith(b"HTTP/1.1 302 Look There\r\n")
    assert b"\r\nLocation: /elsewhere\r\n" in got
    assert b"Set-Cookie: a=1\r\n" in got
    assert b"Set-Cookie: b=2\r\n" in got
    assert b"X-Hop" not in got


@pytest.mark.parametrize("chunked", [True, False])
def test_bodies_arrive_whole(
    gateway: Gateway, store: Store, short_tmp: Path, chunked: bool
) -> None:
    body = bytes(range(256)) * 2000
    with Upstream(short_tmp / "f.sock", echo) as upstream:
        deploy(store, "echo.inv", [upstream.address])
        data = (body[n : n + 7000] for n in range(0, len(body), 7000)) if chunked else body
        answer = gateway.anonymous("POST", "/function/echo.inv", data=data)
    assert answer.content == body
    framing = upstream.headers().get("transfer-encoding", "") == "chunked"
    assert framing is chunked


def test_bodies_flow_both_ways_at_once(gateway: Gateway, store: Store, short_tmp: Path) -> None:
    """Each chunk is answered before the next is sent: nothing on the way waits for more."""

    def conversation(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while chunk := read_chunk(connection):
            connection.sendall(b"%x\r\n%b\r\n" % (len(chunk), chunk.upper()))
        connection.sendall(b"0\r\n\r\n")

    with Upstream(short_tmp / "f.sock", conversation) as upstream:
        deploy(store, "talk.inv", [upstream.address])
        head = (
            b"POST /function/talk.inv HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
            b"Connection: close\r\n\r\n"
        )
        with raw(gateway, head) as client:
            got = b""
            for word in (b"one", b"two", b"three"):
                client.sendall(b"%x\r\n%b\r\n" % (len(word), word))
                while word.upper() not in got:
                    got += client.recv(4096)
            client.sendall(b"0\r\n\r\n")
            while data := client.recv(4096):
                got += data
    assert got.endswith(b"0\r\n\r\n")


def test_a_large_body_takes_no_memory(gateway: Gateway, store: Store, short_tmp: Path) -> None:
    size = 60 * 2**20

    def swallow(connection: socket.socket, _: bytes) -> None:
        left = size
        while left:
            left -= len(connection.recv(min(left, 2**18)))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // 2**20):
            connection.sendall(bytes(2**20))

    with Upstream(short_tmp / "f.sock", swallow) as upstream:
        deploy(store, "big.inv", [upstream.address])
        before = memory_mb(gateway.worker())
        answer = gateway.anonymous("POST", "/function/big.inv", data=bytes(size), stream=True)
        got = sum(len(piece) for piece in answer.iter_content(2**18))
    assert got == size
    assert memory_mb(gateway.worker()) - before < 20


def test_a_function_may_answer_before_it_has_read(
    gateway: Gateway, store: Store, short_tmp: Path
) -> None:
    refusal = b"HTTP/1.1 413 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
    with Upstream(short_tmp / "f.sock", answering(refusal)) as upstream:
        deploy(store, "no.inv", [upstream.address])
        answer = gateway.anonymous("POST", "/function/no.inv", data=bytes(3 * 2**20))
    assert (answer.status_code, answer.text) == (413, "no")


def test_unknown_and_unhealthy_functions_say_which(gateway: Gateway, store: Store) -> None:
    for path in ("/function/nobody.inv", "/function/", "/function/UPPER", "/function/a..b"):
        answer = gateway.anonymous("GET", path)
        assert (answer.status_code, "no" in answer.text) == (404, True), path
    deploy(store, "ill.inv", [], "exited with status 3")
    answer = gateway.anonymous("GET", "/function/ill.inv")
    assert answer.status_code == 503
    assert answer.text == "no endpoints available for ill.inv: exited with status 3"
    assert (answer.headers["Retry-After"], answer.headers["X-OpenFaaS-Internal"]) == ("1", "proxy")
    assert answer.headers["X-Call-Id"]


def test_a_function_without_a_namespace(gateway: Gateway, store: Store, short_tmp: Path) -> None:
    with Upstream(short_tmp / "f.sock", answering(HELLO)) as upstream:
        deploy(store, "plain.openfaas-fn", [upstream.address])
        assert gateway.anonymous("GET", "/function/plain").text == "hello"


def test_an_endpoint_that_refuses_is_passed_over(
    gateway: Gateway, store: Store, short_tmp: Path
) -> None:
    with Upstream(short_tmp / "f.sock", answering(HELLO)) as upstream:
        gone = f"unix@{short_tmp / 'gone.sock'}"
        deploy(store, "two.inv", [gone, upstream.address, "127.0.0.1:1"])
        answers = [gateway.anonymous("GET", "/function/two.inv").status_code for _ in range(10)]
        assert answers == [200] * 10
        # All refuse, as they ended with the machine: who calls waits for those that are started.
        with ThreadPoolExecutor() as pool:
            deploy(store, "two.inv", [gone])
            waits = pool.submit(gateway.anonymous, "GET", "/function/two.inv")
            time.sleep(0.5)
            assert not waits.done()
            deploy(store, "two.inv", [gone, upstream.address])
            assert waits.result(10).status_code == 200
            deploy(store, "two.inv", [gone])
            waits = pool.submit(gateway.anonymous, "GET", "/function/two.inv")
            time.sleep(0.5)
            assert not waits.done()
            deploy(store, "two.inv", [], "exited with status 3")
            told = waits.result(10)
            assert (told.status_code, "exited with status 3" in told.text) == (503, True)


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"not HTTP\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\nhellohello",
    ],
)
def test_what_is_no_answer_is_502(
    gateway: Gateway, store: Store, short_tmp: Path, response: bytes
) -> None:
    with Upstream(short_tmp / "f.sock", answering(response)) as upstream:
        deploy(store, "bad.inv", [upstream.address])
        answer = gateway.anonymous("GET", "/function/bad.inv")
    assert answer.status_code == 502
    assert "bad.inv" in answer.text


def test_what_is_meant_for_the_meantime_is_passed_over(
    gateway: Gateway, store: Store, short_tmp: Path
) -> None:
    hints = b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    twice = HELLO.replace(b"Content-Length", b"Content-Length: 5 \r\nContent-Length")
    with Upstream(short_tmp / "f.sock", answering(hints + twice)) as upstream:
        deploy(store, "hint.inv", [upstream.address])
        answer = gateway.anonymous("GET", "/function/hint.inv")
    assert (answer.status_code, answer.text) == (200, "hello")
    assert "Link" not in answer.headers


def test_no_function_speaks_for_the_whole_origin(
    gateway: Gateway, store: Store, short_tmp: Path
) -> None:
    lines = "".join(f"{name.title()}: x\r\n" for name in (*OF_THE_WHOLE, "set-cookie"))
    answer = HELLO.replace(b"Content-Length", lines.encode() + b"Content-Length")
    with Upstream(short_tmp / "f.sock", answering(answer)) as upstream:
        deploy(store, "loud.inv", [upstream.address])
        headers = gateway.anonymous("GET", "/function/loud.inv").headers
    assert not set(OF_THE_WHOLE) & {name.lower() for name in headers}
    assert headers["Set-Cookie"] == "x"


def test_no_function_signs_anybody_in(gateway: Gateway, store: Store, short_tmp: Path) -> None:
    lines = "".join(
        f"Set-Cookie: {each}\r\n"
        for each in ("slipway-session=x; Path=/system", "a=1", "=slipway-login=x", "slipway=2")
    )
    answer = HELLO.replace(b"Content-Length", lines.encode() + b"Content-Length")
    with Upstream(short_tmp / "f.sock", answering(answer)) as upstream:
        deploy(store, "cookie.inv", [upstream.address])
        told = gateway.anonymous("GET", "/function/cookie.inv").raw.headers.getlist("Set-Cookie")
    assert told == ["a=1", "slipway=2"]


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ],
)
def test_an_answer_that_breaks_off_breaks_off_for_the_client(
    gateway: Gateway, store: Store, short_tmp: Path, response: bytes
) -> None:
    with Upstream(short_tmp / "f.sock", answering(response)) as upstream:
        deploy(store, "half.inv", [upstream.address])
        got = exchange(gateway, b"GET /function/half.inv HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"half" in got
    assert not got.endswith(b"0\r\n\r\n"), "it looks complete"


def test_a_body_that_breaks_off_breaks_off_for_the_function(
    gateway: Gateway, store: Store, short_tmp: Path
) -> None:
    ends: list[bytes] = []

    def read(connection: socket.socket, _: bytes) -> None:
        while data := connection.recv(65536):
            ends.append(data)
        ends.append(b"")

    with Upstream(short_tmp / "f.sock", read) as upstream:
        deploy(store, "cut.inv", [upstream.address])
        head = b"POST /function/cut.inv HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        with raw(gateway, head + b"5\r\nhello\r\n"):
            until(lambda: ends)
        until(lambda: ends[-1:] == [b""])
    assert b"0\r\n\r\n" not in b"".join(ends)


def test_a_websocket_is_told_to_use_the_edge(gateway: Gateway, hello: Upstream) -> None:
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade"}
    answer = gateway.anonymous("GET", "/function/hello.inv", headers=upgrade)
    assert answer.status_code == 501
    assert "SLIPWAY_EDGE" in answer.text
    assert hello.heads == []


def test_places_are_bounded_and_others_still_answered(
    gateway: Gateway, store: Store, short_tmp: Path
) -> None:
    go = threading.Event()

    def slow(connection: socket.socket, _: bytes) -> None:
        go.wait(20)
        connection.sendall(HELLO)

    statuses: list[int] = []

    def ask() -> None:
        request = b"GET /function/slow.inv HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        statuses.append(int(exchange(gateway, request).split()[1]))

    with Upstream(short_tmp / "f.sock", slow) as upstream:
        deploy(store, "slow.inv", [upstream.address])
        deploy(store, "other.inv2", [])
        seen = Observed(available=1, endpoints=[upstream.address])
        store.save_observed({"slow.inv": seen, "other.inv2": seen})
        share = Pools().invocations.share
        clients = [threading.Thread(target=ask) for _ in range(share + 4)]
        for client in clients:
            client.start()
        until(lambda: len(statuses) == 4 and len(upstream.heads) == share, 10)
        begun = time.monotonic()
        full = gateway.anonymous("GET", "/function/slow.inv")
        assert (full.status_code, full.headers["Retry-After"]) == (503, "1")
        assert full.text.startswith(f"slow.inv has {share} of the 336 places for invocations")
        other = threading.Thread(target=gateway.anonymous, args=["GET", "/function/other.inv2"])
        other.start()
        until(lambda: len(upstream.heads) == share + 1)
        assert gateway.anonymous("GET", "/healthz").status_code == 503, "nobody beats here"
        assert gateway.call("GET", "/system/functions").ok
        assert time.monotonic() - begun < 5
        go.set()
        for client in [*clients, other]:
            client.join()
    assert Counter(statuses) == {200: share, 503: 4}
    with Upstream(short_tmp / "g.sock", answering(HELLO)) as upstream:
        deploy(store, "slow.inv", [upstream.address])
        assert gateway.anonymous("GET", "/function/slow.inv").ok, "the places came back"


def test_a_client_that_goes_away_gives_its_place_back(
    gateway: Gateway, store: Store, short_tmp: Path
) -> None:
    ended = threading.Event()

    def endless(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                connection.sendall(b"data\n" * 1000)
                time.sleep(0.01)
        except OSError:
            ended.set()
            raise

    with Upstream(short_tmp / "f.sock", endless) as upstream:
        deploy(store, "endless.inv", [upstream.address])
        with raw(gateway, b"GET /function/endless.inv HTTP/1.1\r\nHost: a\r\n\r\n") as client:
            assert client.recv(100)
        assert ended.wait(10), "the function still writes to nobody"


def test_a_silent_function_has_its_own_time() -> None:
    def patience(**variables: str) -> float:
        return patience_of(FunctionSpec(name="f", namespace="n", artifact="a", env_vars=variables))

    assert patience() == patience(exec_timeout="nonsense") == patience(write_timeout="9s") == 0
    assert patience(exec_timeout="5m") == 305
    assert patience(exec_timeout="2s", write_timeout="1m") == 65
    assert patience(exec_timeout="99h") == patience(exec_timeout="0") == LONGEST

"""Requests and answers: what every template does the same."""

from __future__ import annotations

import json
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.contracts.templates.server import (
    Server,
    Start,
    each_template,
    read_all,
    read_head,
)


def test_what_was_asked_reaches_the_handler(kit: Server) -> None:
    answer = kit.request(
        "PUT", "/echo?a=1&b=two%20words", "grüße".encode(), X_Test="yes", Content_Type="text/plain"
    )

    assert answer.status == 200
    assert answer.json == {
        "method": "PUT",
        "path": "/echo",
        "query": {"a": "1", "b": "two words"},
        "body": "grüße",
        "test": "yes",
    }
    assert answer.headers["Content-Type"].startswith("application/json")


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE", "OPTIONS", "REPORT"])
def test_every_method_reaches_the_handler(kit: Server, method: str) -> None:
    assert kit.request(method, "/echo").json["method"] == method


def test_status_headers_and_body_are_the_handlers(kit: Server) -> None:
    answer = kit.get("/teapot")

    assert (answer.status, answer.body, answer.headers["X-A"]) == (418, b"short", "b")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["X-OpenFaaS-Internal"] is None
    assert answer.headers["Date"]
    assert 0 <= float(answer.headers["X-Duration-Seconds"]) < 5


def test_the_duration_is_the_handlers(kit: Server) -> None:
    assert 0.19 < float(kit.get("/sleep?s=0.2").headers["X-Duration-Seconds"]) < 2


def test_a_header_may_come_twice(kit: Server) -> None:
    assert kit.get("/two").headers.get_all("Set-Cookie") == ["a=1", "b=2"]


def test_nothing_is_an_empty_200(kit: Server) -> None:
    answer = kit.get("/none")

    assert (answer.status, answer.body) == (200, b"")


def test_204_has_neither_body_nor_length(kit: Server) -> None:
    answer = kit.get("/empty")

    assert (answer.status, answer.body, answer.headers["Content-Length"]) == (204, b"", None)


def test_bytes_arrive_as_they_are(kit: Server) -> None:
    assert kit.get("/bytes").body == bytes(range(256))


def test_head_has_the_length_and_no_body(kit: Server) -> None:
    with kit.client() as client:
        first = kit.ask(client, "HEAD", "/bytes")
        second = kit.ask(client, "GET", "/teapot")  # on the same connection: no byte too many

    assert (first.status, first.body, first.headers["Content-Length"]) == (200, b"", "256")
    assert second.status == 418


@each_template
def test_a_large_body_arrives_whole(start: Start, template: str) -> None:
    server = start(template, RAW_BODY="true", MAX_RAW_SIZE="40mb")
    body = b"y" * 20_000_000

    assert server.request("POST", "/size", body).text == str(len(body))
    assert server.request("POST", "/size", iter([body[:7], body[7:]])).text == str(len(body))  # type: ignore[arg-type]


def test_a_large_answer_arrives_whole(kit: Server) -> None:
    assert kit.get("/big?n=20000000").body == b"x" * 20_000_000


def test_a_chunked_request_is_put_together(kit: Server) -> None:
    answer = kit.raw(
        b"POST /echo HTTP/1.1\r\nHost: f\r\nContent-Type: text/plain\r\nConnection: close\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;ext=1\r\ndefg\r\n0\r\nX-Test: no\r\n\r\n"
    )

    found = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert found["body"] == "abcdefg"
    assert found.get("test") is None  # a trailer is not a header


def test_the_connection_stays(kit: Server) -> None:
    with kit.client() as client:
        for _ in range(3):
            assert kit.ask(client, "POST", "/size", b"", Content_Type="text/plain").status == 200
            assert client.sock is not None  # http.client drops it on Connection: close


def test_connection_close_is_kept(kit: Server) -> None:
    answer = kit.raw(b"GET /teapot HTTP/1.1\r\nHost: f\r\nConnection: close\r\n\r\n")

    assert b"\r\nconnection: close\r\n" in answer.lower()
    assert answer.endswith(b"short")


def test_http_1_0_gets_no_chunks(kit: Server) -> None:
    answer = kit.raw(b"GET /stream?n=3 HTTP/1.0\r\n\r\n")

    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert body == b"piece 0;piece 1;piece 2;"


def test_pipelined_requests_are_answered_in_order(kit: Server) -> None:
    paths = ["/sleep?s=0.2", "/a", "/_/health", "/stream?n=2", "/b"]
    sent = b"".join(b"GET %b HTTP/1.1\r\nHost: f\r\n\r\n" % path.encode() for path in paths)
    answer = kit.raw(sent + b"GET /last HTTP/1.1\r\nHost: f\r\nConnection: close\r\n\r\n")

    places = [answer.index(text) for text in (b"slept", b"at /a", b"piece 1;", b"at /b")]
    assert places == sorted(places)
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 6
    assert answer.endswith(b"at /last")


def test_a_body_is_sent_only_once_it_is_wanted(kit: Server) -> None:
    with kit.connect() as client:
        client.sendall(
            b"POST /echo HTTP/1.1\r\nHost: f\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n"
            b"Connection: close\r\nExpect: 100-continue\r\n\r\n"
        )
        assert read_head(client) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"ahoy")
        answer = read_all(client)

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b'"ahoy"' in answer


def test_a_client_may_stop_sending_and_still_read(kit: Server) -> None:
    with kit.connect() as client:
        client.sendall(b"GET /sleep?s=0.2 HTTP/1.1\r\nHost: f\r\nConnection: close\r\n\r\n")
        client.shutdown(socket.SHUT_WR)

        assert read_all(client).endswith(b"slept")


def test_many_are_served_at_once(kit: Server) -> None:
    begun = time.monotonic()
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: kit.get("/sleep?s=0.4").text, range(10)))

    assert answers == ["slept"] * 10
    assert time.monotonic() - begun < 3.5


# Streams


def test_a_stream_arrives_as_it_is_made(kit: Server) -> None:
    with kit.connect() as client:
        client.sendall(b"GET /stream?n=3&s=0.2 HTTP/1.1\r\nHost: f\r\nConnection: close\r\n\r\n")
        begun = time.monotonic()
        head = read_head(client)
        read_head_at = time.monotonic()
        body = read_all(client)

    assert b"transfer-encoding: chunked" in head.lower()
    assert read_head_at - begun < 0.5 < time.monotonic() - begun
    assert body == b"8\r\npiece 0;\r\n8\r\npiece 1;\r\n8\r\npiece 2;\r\n0\r\n\r\n"


def test_a_stream_that_fails_is_seen_to_be_cut_off(kit: Server) -> None:
    answer = kit.raw(b"GET /stream?n=2&fail=1 HTTP/1.1\r\nHost: f\r\n\r\n")

    assert b"piece 1;" in answer
    assert not answer.endswith(b"0\r\n\r\n")
    kit.wait_for_log("in the middle")


def test_a_client_that_leaves_does_no_harm(kit: Server) -> None:
    for path in ("/stream?n=50&s=0.02", "/sleep?s=0.2"):
        with kit.connect() as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: f\r\n\r\n".encode())
            time.sleep(0.05)
    with kit.connect() as client:
        client.sendall(b"POST /size HTTP/1.1\r\nHost: f\r\nContent-Length: 100\r\n\r\nhalf")

    assert kit.get("/teapot").status == 418


@each_template
def test_a_client_that_does_not_read_is_cut_off_with_little_in_memory(
    start: Start, template: str
) -> None:
    server = start(template, write_timeout="1s", max_inflight="1")
    with server.connect() as client:
        client.sendall(b"GET /stream?n=100000000 HTTP/1.1\r\nHost: f\r\n\r\n")
        read_head(client)
        before = rss(server)
        deadline = time.monotonic() + 10
        while server.get("/_/ready").status != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert rss(server) - before < 64 * 2**20


def rss(server: Server) -> int:
    pages = Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


# Mistakes of the handler and of the client


def test_an_exception_is_a_short_500(kit: Server) -> None:
    answer = kit.get("/raise")

    assert answer.status == 500
    assert answer.text == "The function failed; its log says why.\n"
    kit.wait_for_log("a secret detail")
    assert kit.get("/teapot").status == 418


@pytest.mark.parametrize("path", ["/smuggle", "/odd"])
def test_an_answer_that_cannot_be_sent_is_a_500(kit: Server, path: str) -> None:
    answer = kit.get(path)

    assert answer.status == 500
    assert answer.headers["X-Evil"] is None


def test_nonsense_is_a_400(kit: Server) -> None:
    assert kit.raw(b"\x16\x03\x01\x02\r\n\r\n").startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 3\r\nContent-Length: 4\r\n",
        b"Content-Length: +3\r\n",
        b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding : chunked\r\n",
    ],
)
def test_a_body_of_unclear_length_is_refused(kit: Server, framing: bytes) -> None:
    answer = kit.raw(b"POST /echo HTTP/1.1\r\nHost: f\r\n" + framing + b"\r\nabc\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_a_head_over_its_bound_is_refused(kit: Server) -> None:
    with kit.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: f\r\n")
        line = b"X-Long: " + b"x" * 60_000 + b"\r\n"
        try:
            for _ in range(40):
                client.sendall(line)
        except OSError:
            pass  # it stopped reading: as good
        answer = client.recv(100)

    assert answer.startswith(b"HTTP/1.1 431 ")


def test_a_head_of_half_a_megabyte_passes(kit: Server) -> None:
    lines = b"".join(b"X-%d: %b\r\n" % (i, b"x" * 10_000) for i in range(50))
    answer = kit.raw(b"GET /a HTTP/1.1\r\nHost: f\r\nConnection: close\r\n" + lines + b"\r\n")

    assert answer.endswith(b"at /a")


@each_template
def test_a_body_over_its_bound_is_refused(start: Start, template: str) -> None:
    server = start(template, RAW_BODY="true", MAX_RAW_SIZE="1kb")

    assert server.request("POST", "/size", b"x" * 1024).text == "1024"
    for body in (b"x" * 1025, iter([b"x" * 2000])):
        answer = server.request("POST", "/size", body)  # type: ignore[arg-type]
        assert answer.status == 413
        assert answer.headers["X-OpenFaaS-Internal"] == "of-watchdog"
    head = server.raw(
        b"POST /size HTTP/1.1\r\nHost: f\r\nContent-Length: 9999\r\nExpect: 100-continue\r\n\r\n"
    )
    assert head.startswith(b"HTTP/1.1 413 ")  # and no 100 before it


@each_template
def test_a_request_that_does_not_end_is_given_up(start: Start, template: str) -> None:
    server = start(template, read_timeout="1s")
    begun = time.monotonic()
    for sent in (
        b"GET / HTTP/1.1\r\nX-Slow: ",
        b"POST /size HTTP/1.1\r\nHost: f\r\nContent-Length: 100\r\n\r\nhalf",
    ):
        assert server.raw(sent).startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - begun > 1.9

"""The contract of the language templates, one suite for all of them; then what is each one's own.

Real servers in real processes, each on a unix socket that it is handed as descriptor 3.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from builder import templates
from tests.contracts.template_server import (
    KITS,
    NODE,
    Server,
    handler_file,
    read_all,
    read_head,
)

PYTHON_TEMPLATES = [
    pytest.param(name, marks=pytest.mark.network) for name in ("python3-http", "python3-flask")
]
ALL = [*PYTHON_TEMPLATES, "node"]

Start = Callable[..., Server]


@pytest.fixture
def start(request: pytest.FixtureRequest, short_tmp: Path) -> Iterator[Start]:
    """Starts servers that end with the test; each in a folder of its own."""
    started: list[Server] = []

    def begin(template: str, files: dict[str, str] | None = None, **options: object) -> Server:
        folder = short_tmp / str(len(started))
        folder.mkdir()
        server = Server(folder, template, files, **options)  # type: ignore[arg-type]
        started.append(server)
        return server

    yield begin
    for server in started:
        server.close()


@pytest.fixture(scope="module", params=ALL)
def kit(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server that the tests which do not end or bound it share."""
    folder = Path("/tmp", f"slipway-kit-{os.getpid()}-{request.param}")
    folder.mkdir()
    server = Server(folder, request.param)
    yield server
    server.close()
    shutil.rmtree(folder)


each_template = pytest.mark.parametrize("template", ALL)


# Requests and answers


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
    assert 0.2 <= float(kit.get("/sleep?s=0.2").headers["X-Duration-Seconds"]) < 2


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
    assert found["test"] is None or "test" not in found  # a trailer is not a header


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

    places = [
        answer.index(b)
        for b in (b"slept", b"at /a", b"OK\r\n", b"piece 1;", b"at /b")
        if b != b"OK\r\n"
    ]
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
    assert time.monotonic() - begun < 2


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


# Health, readiness, bounds


def test_health_and_readiness(kit: Server) -> None:
    for path in ("/_/health", "/_/ready"):
        answer = kit.get(path)
        assert (answer.status, answer.body) == (200, b"OK")
        assert kit.request("POST", path).status == 405
    assert kit.lock.exists()


@each_template
def test_without_its_lock_file_it_is_unhealthy(start: Start, template: str) -> None:
    server = start(template)
    server.lock.unlink()

    assert server.get("/_/health").status == 503
    assert server.get("/teapot").status == 418


@each_template
def test_the_lock_file_can_be_suppressed(start: Start, template: str) -> None:
    server = start(template, suppress_lock="true")

    assert server.get("/_/health").status == 200
    assert not server.lock.exists()


@each_template
def test_the_handler_may_answer_for_its_readiness(start: Start, template: str) -> None:
    server = start(template, ready_path="/teapot")

    assert server.get("/_/ready").status == 418
    assert server.get("/_/health").status == 200


@each_template
def test_a_slow_handler_is_a_504_while_others_are_served(start: Start, template: str) -> None:
    server = start(template, exec_timeout="500ms")
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(server.get, "/sleep?s=3")
        time.sleep(0.1)
        assert server.get("/sleep?s=0.1").text == "slept"
        assert not slow.done()
        answer = slow.result()

    assert answer.status == 504
    assert answer.headers["X-OpenFaaS-Internal"] == "of-watchdog"
    assert 0.4 < float(answer.headers["X-Duration-Seconds"]) < 2
    assert server.get("/teapot").status == 418


@each_template
def test_a_stream_over_its_time_is_cut_off(start: Start, template: str) -> None:
    server = start(template, exec_timeout="500ms")
    begun = time.monotonic()
    answer = server.raw(b"GET /stream?n=100&s=0.1 HTTP/1.1\r\nHost: f\r\n\r\n")

    assert time.monotonic() - begun < 3
    assert b"piece 1;" in answer
    assert not answer.endswith(b"0\r\n\r\n")


def test_a_request_may_shorten_its_time(kit: Server) -> None:
    begun = time.monotonic()

    assert kit.get("/sleep?s=3", X_Timeout="200ms").status == 504
    assert time.monotonic() - begun < 2


@each_template
def test_a_request_cannot_lengthen_its_time(start: Start, template: str) -> None:
    assert start(template, exec_timeout="300ms").get("/sleep?s=1", X_Timeout="5s").status == 504


@each_template
def test_too_many_at_once_get_429(start: Start, template: str) -> None:
    server = start(template, max_inflight="2")
    with ThreadPoolExecutor(2) as pool:
        slow = [pool.submit(server.get, "/sleep?s=0.6") for _ in range(2)]
        time.sleep(0.3)
        refused = server.get("/teapot")
        ready = server.get("/_/ready").status
        health = server.get("/_/health").status
        assert [each.result().text for each in slow] == ["slept", "slept"]

    assert (refused.status, ready, health) == (429, 429, 200)
    assert refused.headers["X-OpenFaaS-Internal"] == "of-watchdog"
    assert refused.headers["Retry-After"] == "1"
    assert server.get("/teapot").status == 418
    assert server.get("/_/ready").status == 200


# The end


@each_template
def test_sigterm_ends_at_once_when_nothing_is_in_flight(start: Start, template: str) -> None:
    server = start(template)
    with server.client() as idle:
        server.ask(idle, "GET", "/teapot")
        begun = time.monotonic()
        server.terminate()

        assert server.ended() == 0
        assert time.monotonic() - begun < 1
    assert not server.lock.exists()


@each_template
def test_sigterm_lets_requests_in_flight_finish(start: Start, template: str) -> None:
    server = start(template)
    with ThreadPoolExecutor(1) as pool, server.client() as kept:
        server.ask(kept, "GET", "/teapot")
        slow = pool.submit(server.get, "/sleep?s=1")
        time.sleep(0.3)
        server.terminate()
        time.sleep(0.1)

        # New connections are still served, and told the truth; kept ones end with their answer.
        for path in ("/_/ready", "/_/health"):
            answer = server.get(path)
            assert (answer.status, answer.headers["X-OpenFaaS-Internal"]) == (503, "of-watchdog")
        assert server.get("/teapot").status == 418
        assert server.ask(kept, "GET", "/teapot").headers["Connection"].lower() == "close"
        assert not server.lock.exists()
        assert not slow.done()
        assert slow.result().text == "slept"
    assert server.ended() == 0


@each_template
def test_sigterm_loses_nothing_that_waits_in_the_backlog(start: Start, template: str) -> None:
    server = start(template)
    os.kill(server.process.pid, 19)  # SIGSTOP: what comes now stays in the backlog
    clients = [server.connect() for _ in range(20)]
    for client in clients:
        client.sendall(b"GET /sleep?s=0.1 HTTP/1.1\r\nHost: f\r\n\r\n")
    server.terminate()
    os.kill(server.process.pid, 18)  # SIGCONT
    answers = []
    for client in clients:
        with client:
            answers.append(read_all(client))

    assert all(answer.endswith(b"slept") for answer in answers)
    assert all(b"connection: close" in answer.lower() for answer in answers)
    assert server.ended() == 0


@each_template
def test_under_load_every_answer_is_whole_or_the_connection_refused(
    start: Start, template: str
) -> None:
    server = start(template)
    lost: list[str] = []
    served = [0]
    stop = threading.Event()

    def ask_and_ask() -> None:
        while not stop.is_set():
            try:
                client = server.connect()
            except OSError:
                return  # refused: the edge asks another replica
            with client:
                try:
                    client.sendall(b"GET /a HTTP/1.1\r\nHost: f\r\nConnection: close\r\n\r\n")
                    answer = read_all(client)
                except OSError as error:
                    lost.append(repr(error))
                    continue
            if not answer.endswith(b"at /a"):
                lost.append(repr(answer[:100]))
            served[0] += 1

    threads = [threading.Thread(target=ask_and_ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    server.terminate()
    status = server.ended()
    stop.set()
    for thread in threads:
        thread.join()

    assert (status, lost) == (0, [])
    assert served[0] > 20


@each_template
def test_the_wait_for_the_last_requests_is_bounded(start: Start, template: str) -> None:
    server = start(template, write_timeout="1s", exec_timeout="0")
    with server.connect() as client:
        client.sendall(b"GET /sleep?s=60 HTTP/1.1\r\nHost: f\r\n\r\n")
        time.sleep(0.2)
        begun = time.monotonic()
        server.terminate()

        assert server.ended() == 0
        assert 0.8 < time.monotonic() - begun < 3
    assert "unfinished" in server.log


@each_template
def test_healthcheck_interval_delays_the_end(start: Start, template: str) -> None:
    server = start(template, healthcheck_interval="700ms")
    server.terminate()
    time.sleep(0.3)

    assert server.get("/_/ready").status == 503
    assert server.get("/teapot").status == 418
    assert server.ended() == 0


# The start


@each_template
def test_without_a_socket_it_listens_on_its_port(start: Start, template: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = start(template, tcp=True, port=str(port))

    assert server.get("/teapot").status == 418
    server.terminate()
    assert server.ended() == 0


@each_template
def test_what_waits_in_the_backlog_during_the_start_is_served(start: Start, template: str) -> None:
    server = start(template, wait=False)

    assert server.get("/teapot").status == 418


@each_template
def test_what_the_handler_prints_is_in_the_log(start: Start, template: str) -> None:
    assert "the handler is imported" in start(template).log


BROKEN = {
    "python": {
        "there is no function/handler.py": {"other.py": ""},
        "syntax error in function/handler.py, line 2": {"handler.py": "x = 1\ndef handle(:\n"},
        "imports 'not_there_at_all', which is not there": {
            "handler.py": "import not_there_at_all\n"
        },
        "failed with ZeroDivisionError: division by zero": {"handler.py": "1/0\n"},
        "failed with SystemExit: 0": {"handler.py": "raise SystemExit(0)\n"},
        "defines no handle(": {"handler.py": "def other(): ...\n"},
        "handle in function/handler.py is not a function": {"handler.py": "handle = 3\n"},
        "and this template calls handle(": {"handler.py": "def handle(a, b, c): ...\n"},
    },
    "node": {
        "there is no function/handler.js": {"other.js": ""},
        "syntax error in function/handler.js, line 2": {"handler.js": "let x = 1\nlet x = = 2\n"},
        "needs not-there-at-all, which is not there": {
            "handler.js": "require('not-there-at-all')\n"
        },
        "needs ./other, which is not there: add the file": {"handler.js": "require('./other')\n"},
        "failed with TypeError: x is not a function": {"handler.js": "const x = 1\nx()\n"},
        "exports no function": {"handler.js": "module.exports = 3\n"},
    },
}


@pytest.mark.parametrize(
    ("template", "cause", "files"),
    [
        pytest.param(template, cause, files, id=f"{template}-{cause[:30]}", marks=marks)
        for template, language, marks in (
            ("python3-http", "python", pytest.mark.network),
            ("python3-flask", "python", pytest.mark.network),
            ("node", "node", ()),
        )
        for cause, files in BROKEN[language].items()
    ],
)
def test_what_cannot_start_says_why(
    start: Start, template: str, cause: str, files: dict[str, str]
) -> None:
    server = start(template, files, wait=False)

    assert server.ended() == 1
    *before, last = server.log.strip().splitlines()
    assert last.startswith("slipway: the function cannot start: ")
    assert cause in last
    for internal in ("importlib", "slipway_watchdog", "watchdog/loader"):
        assert template == "node" or not any(internal in line for line in before)
    assert not server.lock.exists()


@each_template
@pytest.mark.parametrize(
    ("name", "value"), [("exec_timeout", "soon"), ("max_inflight", "many"), ("write_timeout", "0")]
)
def test_a_wrong_variable_is_told(start: Start, template: str, name: str, value: str) -> None:
    server = start(template, wait=False, **{name: value})

    assert server.ended() == 1
    assert name in server.log.strip().splitlines()[-1]


@each_template
def test_sigterm_during_the_start_ends_it(start: Start, template: str) -> None:
    slow = {
        "node": "console.log('begun'); module.exports = new Promise(() => {})\n"
        "const end = Date.now() + 60000; (async () => {})()\n"
        "Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1500)\n",
    }.get(template, "import time\nprint('begun')\ntime.sleep(60)\n")
    server = start(template, {handler_file(template): slow}, wait=False)
    server.wait_for_log("begun")
    server.terminate()

    assert server.ended() in (0, 1)  # node sees a signal only after the handler's own loop


@each_template
def test_a_start_is_quick(start: Start, template: str) -> None:
    begun = time.monotonic()
    start(template)

    assert time.monotonic() - begun < 3  # about 0.1 s; the bound is for a busy machine


# The samples


def test_the_samples_pass_their_own_tests(tmp_path: Path) -> None:
    for name in ("python3-http", "python3-flask"):
        folder = tmp_path / name / "function"
        shutil.copytree(templates.FOLDER / name / "function", folder)
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout
        assert "1 passed" in ended.stdout
    ended = subprocess.run(
        [str(NODE / "node"), "--test"],
        cwd=templates.FOLDER / "node" / "function",
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    assert "pass 1" in ended.stdout


@each_template
def test_the_samples_answer(start: Start, template: str) -> None:
    folder = templates.FOLDER / template / "function"
    files = {each.name: each.read_text() for each in folder.iterdir() if each.is_file()}
    server = start(template, files)

    answer = server.request("POST", "/", b"ahoy", Content_Type="text/plain")
    assert answer.status == 200
    assert "Hello from Slipway!" in answer.text


@pytest.mark.parametrize("template", ["python3-http", "python3-flask", "node"])
def test_the_description_is_complete(template: str) -> None:
    found = templates.find_template(template)

    assert found.language == template
    assert found.fprocess.split()[0] in ("python3", "node")
    assert found.welcome_message
    assert found.packages(["dev"])
    assert {"Dockerfile", f"function/{handler_file(template)}"} <= set(found.files)


assert set(KITS) == {"python3-http", "python3-flask", "node"}

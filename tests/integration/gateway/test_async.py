"""Asynchronous calls: a real gateway, the real worker beside it, functions byte by byte."""

from __future__ import annotations

import dataclasses
import re
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
import requests
import trustme

from core import keys
from core.addresses import is_inside
from core.errors import Unavailable
from core.models import Call, CallState
from core.settings import Settings
from core.store import Store
from core.store.calls import INLINE, OVERDUE, OVERHEAD, Answered, Taken
from gateway import queue_worker
from gateway.attempts import MOST_TIMES
from gateway.bodies import Bodies, Body
from gateway.callbacks import connect as connect_to
from gateway.callbacks import post
from gateway.making import make
from gateway.pools import Pools
from gateway.queue_worker import QueueWorker
from supervisor import parts
from tests.integration.gateway.calls import CALL_ID, OK, ONCE, Callbacks, Platform, echo, platform
from tests.integration.gateway.harness import (
    exchange,
)
from tests.integration.gateway.test_gateway_invoke import read_body
from tests.waiting import until


@pytest.fixture(scope="module", name="platform")
def platform_(valkey: str) -> Iterator[Platform]:
    with platform(valkey, 7) as made:
        yield made


def test_the_function_gets_the_call_as_it_came(platform: Platform) -> None:
    bodies: list[bytes] = []
    body = bytes(range(256)) * 100
    with platform.function("f.whole", echo(bodies)) as upstream:
        before = time.time_ns()
        answer = platform.gateway.anonymous(
            "POST",
            "/async-function/f.whole/a%2Fb//c?x=%20&y",
            data=body,
            headers={"Content-Type": "application/x-odd", "X-Own": "\xe9", "User-Agent": "me/1"},
        )
        assert answer.status_code == 202
        assert before <= int(answer.headers["X-Start-Time"]) <= time.time_ns()
        assert answer.headers["X-Served-By"].startswith("slipway/")
        platform.idle()
        assert upstream.request_line() == "POST /a%2Fb//c?x=%20&y HTTP/1.1"
        got = upstream.headers()
        assert got["x-call-id"] == answer.headers["X-Call-Id"]
        assert (got["content-type"], got["x-own"]) == ("application/x-odd", "\xe9")
        assert got["user-agent"] == "me/1"
        assert got["content-length"] == str(len(body))
        assert "transfer-encoding" not in got
        assert int(got["x-start-time"]) > before
    assert bodies == [body]


def test_ids_are_always_ours_and_the_callers_own_goes_along(platform: Platform) -> None:
    with platform.function("f.ids", echo([])) as upstream, Callbacks() as callbacks:
        back = {"X-Callback-Url": callbacks.url}
        first = platform.call("f.ids", headers=back)
        mine = platform.call("f.ids", headers={**back, "X-Call-Id": "mine-1"})
        odd = platform.call("f.ids", headers={**back, "X-Call-Id": "no id (at all)"})
        liar = platform.call("f.ids", headers={**back, "X-Slipway-Call-Id": first})
        assert all(re.fullmatch(CALL_ID, each) for each in (first, mine, odd, liar))
        platform.idle()
        expected = {(first, first), ("mine-1", mine), (odd, odd), (liar, liar)}
        heads = [upstream.headers(number) for number in range(4)]
        assert {(each["x-call-id"], each["x-slipway-call-id"]) for each in heads} == expected
        told = [headers for _, headers, _ in callbacks.requests]
        assert {(each["x-call-id"], each["x-slipway-call-id"]) for each in told} == expected
        assert heads[0]["user-agent"] == requests.utils.default_user_agent()
        assert platform.gateway.anonymous("GET", "/async-function/mine-1").status_code == 404


def test_our_own_credentials_reach_no_function(platform: Platform) -> None:
    with platform.function("f.auth", echo([])) as upstream:
        platform.call("f.auth", auth=platform.gateway.auth)
        platform.call("f.auth", auth=("admin", "another"))
        platform.idle()
        given = ["authorization" in upstream.headers(number) for number in range(2)]
        assert sorted(given) == [False, True]


def test_what_is_refused(platform: Platform) -> None:
    gateway = platform.gateway
    with platform.function("f.refused", echo([])) as upstream:
        for name in ("nobody.refused", "f", "F.refused", "f.refused%2Fx", ""):
            assert gateway.anonymous("POST", f"/async-function/{name}").status_code == 404, name
        for method in ("GET", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "BREW"):
            answer = gateway.anonymous(method, "/async-function/f.refused")
            assert (answer.status_code, answer.headers["Allow"]) == (405, "POST"), method
        head = b"POST /async-function/f.refused HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
        large = gateway.anonymous("POST", "/async-function/f.refused", data=b"x" * 100_001)
        assert (large.status_code, "100000 bytes" in large.text) == (413, True)
        chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        chunked = exchange(gateway, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 2)
        assert chunked.startswith(b"HTTP/1.1 413")
        with socket.create_connection(("127.0.0.1", gateway.settings.port), 10) as short:
            short.sendall(head + b"Content-Length: 10\r\n\r\nfour")
            short.shutdown(socket.SHUT_WR)
            assert short.recv(4096).startswith(b"HTTP/1.1 400")
        for header in (b"X-A: b\rc", b"X-A: b\n c", b"X-A\x00: b", b"X A: b"):
            answer = exchange(gateway, head + b"Content-Length: 0\r\n" + header + b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 400"), header
        assert platform.store.waiting_calls() == 0
        assert upstream.heads == []


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.0.0.1:8080/system/functions",
        "http://[::1]:80/",
        "http://[::ffff:127.0.0.1]/",
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/",
        "http://0.0.0.0/",
        "http://gateway:8080/system/functions#/function/",
        "file:///etc/passwd",
        "ftp://example.com/",
        "//example.com/",
        "http:///nowhere",
        "example.com",
        "http://user:secret@example.com/",
        "http://user@example.com/",
        "http://example.com:99999/",
        "http://example.com:0/",
        "http://[::1",
        "http://example.com/a b",
        "http://example.com/\xe9",
        "http://" + "a" * 3000,
    ],
)
def test_callbacks_that_are_refused_at_once(platform: Platform, url: str) -> None:
    with platform.function("f.bad", echo([])) as upstream:
        answer = platform.gateway.anonymous(
            "POST", "/async-function/f.bad", headers={"X-Callback-Url": url.encode("latin-1")}
        )
        if url.startswith("http://gateway"):  # a name: seen when it is called
            assert answer.status_code == 202
            platform.idle()
            assert "callback_failed" in platform.log()
            return
        assert answer.status_code == 400, answer.text
        assert "X-Callback-Url" in answer.text
        assert upstream.heads == []


def test_the_answer_is_posted_to_the_callback(platform: Platform) -> None:
    answer = (
        b"HTTP/1.1 418 Teapot\r\nContent-Type: text/x-tea\r\nX-Own: 1\r\nX-Own: 2\r\n"
        b"X-Function-Status: 200\r\nX-Function-Name: liar\r\nHost: evil.example\r\n"
        b"Connection: X-Hop\r\nX-Hop: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\ntea\r\n0\r\n\r\n"
    )
    with platform.function("f.back", echo([], answer)), Callbacks() as callbacks:
        id_ = platform.call("f.back/p", headers={"X-Callback-Url": callbacks.url})
        platform.idle()
        ((path, headers, body),) = callbacks.requests
    assert (path, body) == ("/done?x=%2F", b"tea")
    assert headers["x-call-id"] == id_
    assert headers["x-function-status"] == "418"
    assert headers["x-function-name"] == "f.back"
    assert 0 <= float(headers["x-duration-seconds"]) < 60
    assert headers["content-type"] == "text/x-tea"
    assert headers["host"] == f"localhost:{callbacks.port}"
    assert {"x-hop", "transfer-encoding", "content-security-policy"}.isdisjoint(headers)


@pytest.mark.parametrize(
    ("answer", "status", "text"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfour", "502", b"no whole answer"),
        (b"nonsense\r\n\r\n", "502", b"gave no answer"),
        (b"HTTP/1.1 200 OK\r\nX: a\r\n\r\n" + b"x" * 100_001, "502", b"more than 100000 bytes"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "204", b""),
    ],
)
def test_answers_that_cannot_be_passed_on(
    platform: Platform, answer: bytes, status: str, text: bytes
) -> None:
    with platform.function("f.odd", echo([], answer), ONCE), Callbacks() as callbacks:
        platform.call("f.odd", headers={"X-Callback-Url": callbacks.url})
        platform.idle()
        ((_, headers, body),) = callbacks.requests
    assert headers["x-function-status"] == status
    assert text in body


def test_a_function_that_drips_its_answer_is_given_up(platform: Platform) -> None:
    """By its own word of how long it takes; else it would hold a thread for ever."""
    ended = threading.Event()

    def drip(connection: socket.socket, _: bytes) -> None:
        try:
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                connection.sendall(b"x")
                time.sleep(0.1)
        finally:
            ended.set()

    with platform.function("f.drip", drip, ONCE), Callbacks() as callbacks:
        record = platform.store.function("f.drip")
        assert record
        brief = msgspec.structs.replace(record.spec, env_vars={"exec_timeout": "1ms"})
        changed = msgspec.json.encode(msgspec.structs.replace(record, spec=brief))
        platform.store.redis.hset(keys.FUNCTIONS, "f.drip", changed)
        platform.call("f.drip", headers={"X-Callback-Url": callbacks.url})
        platform.idle()
        ((_, headers, body),) = callbacks.requests
        assert (headers["x-function-status"], b"took over" in body) == ("504", True)
        assert ended.wait(20), "the function is told so"


def test_callbacks_to_our_own_functions(platform: Platform) -> None:
    gateway = platform.gateway
    bodies: list[bytes] = []
    ours = [
        "http://gateway:8080/function/b.owned/x?y",
        "http://gateway.openfaas:8080/function/b.owned/x?y",
        f"{gateway.url}/function/b.owned/x?y",
        f"{gateway.url}/async-function/b.owned/x?y",
    ]
    with (
        platform.function("f.own", echo([])),
        platform.function("b.owned", echo(bodies)) as back,
    ):
        for url in ours:
            platform.call("f.own", headers={"X-Callback-Url": url})
        until(lambda: len(bodies) == len(ours), 20, platform.log)
        platform.idle()
        assert {back.request_line(n) for n in range(4)} == {"POST /x?y HTTP/1.1"}
        assert {back.headers(n)["x-function-name"] for n in range(4)} == {"f.own"}
    assert bodies == [b"ok"] * 4


def test_names_of_inside_addresses_are_not_called(platform: Platform) -> None:
    """Those that resolve: the check is of what is connected to, whatever the name looks like."""
    inside = []
    for name in ("ip6-localhost", "localhost.localdomain", socket.gethostname(), "127.1", "0x7f.1"):
        with suppress(OSError):
            if is_inside(socket.gethostbyname(name)):
                inside.append(name)
    assert inside
    with platform.function("f.inside", echo([])) as upstream, Callbacks() as callbacks:
        for name in inside:
            url = f"http://{name}:{callbacks.port}/"
            platform.call("f.inside", headers={"X-Callback-Url": url})
        platform.idle()
        assert len(upstream.heads) == len(inside)
        assert callbacks.requests == []
    assert platform.log().count("has the inside address") >= len(inside)


def test_no_redirect_is_followed(platform: Platform) -> None:
    with Callbacks() as target:

        def redirect(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(307)
            handler.send_header("Location", target.url)
            handler.end_headers()

        with platform.function("f.moved", echo([])), Callbacks(redirect) as callbacks:
            platform.call("f.moved", headers={"X-Callback-Url": callbacks.url})
            platform.idle()
            assert len(callbacks.requests) == 1
        assert target.requests == []


def test_a_callback_that_hangs_or_never_ends_keeps_no_other_waiting(platform: Platform) -> None:
    free = threading.Event()
    sent = []

    def flood(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        with suppress(OSError):
            while len(sent) < 1000:
                handler.wfile.write(b"x" * 2**20)
                sent.append(1)

    def hang(_: BaseHTTPRequestHandler) -> None:
        free.wait(60)

    bodies: list[bytes] = []
    with (
        platform.function("f.slow", echo(bodies)),
        Callbacks(flood) as endless,
        Callbacks(hang) as silent,
    ):
        try:
            for url in (endless.url, silent.url, silent.url):
                platform.call("f.slow", headers={"X-Callback-Url": url})
            until(lambda: len(silent.requests) == 2, 20, platform.log)
            platform.call("f.slow", data=b"after")
            until(lambda: b"after" in bodies, 20, platform.log)
        finally:
            free.set()
        platform.idle()
    assert len(sent) < 100, "nothing of an answer's body is read"


def test_nobody_holds_all_of_the_worker(platform: Platform) -> None:
    """More calls that hang, and more callbacks that say nothing, than there are threads."""
    free = threading.Event()
    hanging = []

    def hang(connection: socket.socket, head: bytes) -> None:
        hanging.append(head)
        free.wait(60)
        connection.sendall(OK)

    bodies: list[bytes] = []
    many = 3 * platform.gateway.settings.queue_workers
    with (
        platform.function("f.hangs", hang),
        platform.function("f.silent", echo([])) as told,
        platform.function("f.other", echo(bodies)),
        Callbacks(lambda _: free.wait(60) and None) as silent,
        Callbacks() as prompt,
    ):
        try:
            for _ in range(many):
                platform.call("f.hangs")
                platform.call("f.silent", headers={"X-Callback-Url": silent.url})
            until(lambda: len(silent.requests) >= 8 and len(hanging) >= 4, 20, platform.log)
            for _ in range(5):
                platform.call("f.other", data=b"x", headers={"X-Callback-Url": prompt.url})
            until(lambda: len(prompt.requests) == 5, 5, platform.log)
            assert len(bodies) == 5
            assert len(hanging) == platform.gateway.settings.queue_workers // 4
        finally:
            free.set()
        platform.idle()
        assert (len(hanging), len(told.heads)) == (many, many)
    assert platform.store.parked() == set()


@pytest.mark.parametrize("kind", ["calls", "large_bodies"])
def test_slow_senders_leave_room_for_others(platform: Platform, kind: str) -> None:
    """Those of small bodies and of large ones."""
    name, many = f"f.sent-{kind[:5]}", getattr(Pools(), kind).share
    body = b"x" * (20_000 if kind == "large_bodies" else 1)
    path, port = f"/async-function/{name}", platform.gateway.settings.port
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 90000\r\n\r\n".encode()

    with platform.function(name, echo([])), platform.function("g.sent2", echo([])):
        with ExitStack() as stack:
            senders = []
            for _ in range(many + 3):
                sender = socket.create_connection(("127.0.0.1", port), 10)
                stack.enter_context(sender).sendall(head + body)
                senders.append(sender)
            refused = until(lambda: len(r := select.select(senders, [], [], 0)[0]) == 3 and r, 5)
            for sender in refused:
                answer = b"".join(iter(lambda sender=sender: sender.recv(4096), b"")).decode()  # type: ignore[misc]  # of this turn
                assert answer.startswith("HTTP/1.1 503")
                assert f"{name} has {many} of the" in answer
            platform.call("g.sent2", data=body)
        platform.idle()


def test_a_call_is_made_again_when_its_worker_was_killed(platform: Platform) -> None:
    bodies: list[bytes] = []
    free = threading.Event()

    def handle(connection: socket.socket, head: bytes) -> None:
        bodies.append(read_body(connection, head))
        if len(bodies) == 1:
            free.wait(60)
        connection.sendall(OK)

    with platform.function("f.killed", handle) as upstream, Callbacks() as callbacks:
        id_ = platform.call("f.killed", data=b"once", headers={"X-Callback-Url": callbacks.url})
        until(lambda: bodies == [b"once"], 20, platform.log)
        assert platform.worker
        platform.worker.kill()
        platform.worker.wait()
        platform.start()
        time.sleep(1)
        assert bodies == [b"once"], "another worker waits until it is overdue"
        (entry,) = platform.store.redis.xrange(keys.CALLS)
        silent = int(OVERDUE * 1000) + 1
        platform.store.redis.xclaim(
            keys.CALLS, keys.CALLS, "worker", 0, [entry[0]], idle=silent, justid=True
        )
        platform.idle()
        free.set()
        assert bodies == [b"once", b"once"]
        assert {upstream.headers(n)["x-call-id"] for n in range(2)} == {id_}
        assert len(callbacks.requests) == 1


def test_a_call_that_is_being_made_is_not_given_to_another(platform: Platform) -> None:
    """The worker speaks for it: it does not become overdue."""
    bodies: list[bytes] = []
    free = threading.Event()

    def handle(connection: socket.socket, head: bytes) -> None:
        bodies.append(read_body(connection, head))
        free.wait(60)
        connection.sendall(OK)

    with platform.function("f.long", handle):
        platform.call("f.long")
        until(lambda: len(bodies) == 1, 20, platform.log)

        def idle_ms() -> int:
            (pending,) = platform.store.redis.xpending_range(keys.CALLS, keys.CALLS, "-", "+", 1)
            return int(pending["time_since_delivered"])

        until(lambda: idle_ms() > 1000)
        before = idle_ms()
        until(lambda: idle_ms() < before, 20)
        free.set()
        platform.idle()
    assert len(bodies) == 1


def test_a_stop_finishes_what_was_begun(platform: Platform) -> None:
    bodies: list[bytes] = []

    def handle(connection: socket.socket, head: bytes) -> None:
        bodies.append(read_body(connection, head))
        time.sleep(1)
        connection.sendall(OK)

    with platform.function("f.stop", handle):
        platform.call("f.stop")
        until(lambda: len(bodies) == 1, 20, platform.log)
        assert platform.end() == 0
        assert platform.worker
        mine = f":{platform.worker.pid}"
        assert [each for each in platform.store.beats("queue") if each.endswith(mine)] == []
        platform.idle()
        platform.call("f.stop")
        platform.start()
        platform.idle()
    assert len(bodies) == 2


def test_a_full_queue_answers_503(platform: Platform) -> None:
    assert platform.end() == 0
    gateway = platform.gateway
    try:
        with ExitStack() as stack:
            accepted = []
            for number in range(5):
                upstream = stack.enter_context(platform.function(f"f.full{number}", echo([])))
                path, tried = f"/async-function/f.full{number}", 0
                while True:
                    answer = gateway.anonymous("POST", path, data=b"x" * 99_000)
                    if answer.status_code != 202:
                        break
                    tried += 1
                assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
                assert "SLIPWAY_ASYNC_QUEUE" in answer.text
                assert ("of one function" in answer.text) == (number < 4)
                accepted.append((upstream, tried))
            assert [tried for _, tried in accepted] == [2, 2, 2, 2, 1], "a quarter at most"
            platform.start()
            platform.idle()
            assert [len(each.heads) for each, _ in accepted] == [2, 2, 2, 2, 1]
            platform.call("f.full4")
            platform.idle()
    finally:
        if platform.worker is None or platform.worker.poll() is not None:
            platform.start()


# The store's side.


def kept(number: int = 0) -> Call:
    id_ = f"00000000-0000-4000-8000-{number:012x}"
    return Call(id=id_, name="f", target="/", headers=[("A", "b")], body=b"\x00\xff")


def settle(store: Store, taken: Taken, state: CallState = CallState.DONE) -> int:
    answered = Answered(200, [("X-A", "b")], b"ok", "", 2, 0.5)
    if not store.begin_call(taken):
        return 0
    done, _ = store.settle_call(
        taken, state, "", answered, Settings(), dead=state is CallState.FAILED
    )
    return done


def test_thousands_wait_and_leave_nothing(store: Store) -> None:
    for number in range(2000):
        store.add_call(kept(number), 2**26)
    assert store.waiting_calls() == 2000
    assert store.next_call(0.01) is None, "the group is made first"
    order = []
    while taken := store.next_call(0.01):
        order.append(taken.call.id)
        settle(store, taken)
        settle(store, taken)
    assert order == [kept(number).id for number in range(2000)]
    assert store.waiting_calls() == int(store.redis.get(keys.CALLS_SIZE) or 0) == 0


def test_the_bound_is_of_all_that_wait(store: Store) -> None:
    store.add_call(kept(0), 2 * OVERHEAD)
    with pytest.raises(Unavailable, match="limit"):
        store.add_call(kept(1), 2 * OVERHEAD)
    assert store.waiting_calls() == 1
    store.next_call(0.01)
    taken = store.next_call(0.01)
    assert taken
    with pytest.raises(Unavailable, match="limit"):
        store.add_call(kept(2), 2 * OVERHEAD)  # what is being made counts as well
    settle(store, taken)
    store.add_call(kept(3), 2 * OVERHEAD)


def test_an_overdue_call_is_found_behind_any_number_of_others(store: Store) -> None:
    store.next_call(0.01)
    for number in range(40):
        store.add_call(kept(number), 2**20)
    taken = [store.next_call(0.01) for _ in range(40)]
    last = taken[-1]
    assert last
    assert store.next_call(0.01) is None
    idle = int(OVERDUE * 1000) + 1
    store.redis.xclaim(keys.CALLS, keys.CALLS, "worker", 0, [last.id], idle=idle, justid=True)
    again = store.next_call(0.01)
    assert again
    assert (again.call, again.times) == (last.call, 2)


def test_deliveries_are_counted(store: Store) -> None:
    store.next_call(0.01)
    store.add_call(kept(), 2**20)
    times = []
    for _ in range(3):
        taken = store.next_call(0.01)
        assert taken
        times.append(taken.times)
        assert store.next_call(0.01) is None
        store.keep_calls([taken.id])
        idle = int(OVERDUE * 1000) + 1
        store.redis.xclaim(keys.CALLS, keys.CALLS, "worker", 0, [taken.id], idle=idle, justid=True)
    assert times == [1, 2, 3]


def test_an_answer_without_a_length_that_is_cut_off_is_none(short_tmp: Path) -> None:
    """As HTTP/1.0 has it: its end is the connection's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ended = threading.Event()

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(2**16)
                connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nhalf")
                ended.wait(60)

        thread = threading.Thread(target=drip)
        thread.start()
        settings = Settings.from_env(
            {"SLIPWAY_STATE": str(short_tmp), "SLIPWAY_PORT": str(listener.getsockname()[1])}
        )
        answer = make(kept(), settings, 0.5, Bodies(settings.calls))
        ended.set()
        thread.join()
    assert answer.status == 504, answer


@pytest.mark.parametrize("meantime", [b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"])
def test_what_is_said_for_the_meantime_is_no_answer(short_tmp: Path, meantime: bytes) -> None:
    with answering(meantime + b"HTTP/1.1 201 Made\r\nContent-Length: 2\r\n\r\nok") as port:
        settings = Settings.from_env({"SLIPWAY_STATE": str(short_tmp), "SLIPWAY_PORT": str(port)})
        answer = make(kept(), settings, 5, Bodies(settings.calls))
    assert (answer.status, answer.body.data) == (201, b"ok")


def test_an_answer_that_cannot_be_kept_is_not_asked_for_again(short_tmp: Path) -> None:
    """The function did what it was called for."""
    body = b"x" * (INLINE + 1)
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with answering(head + body) as port:
        settings = Settings.from_env({"SLIPWAY_STATE": str(short_tmp), "SLIPWAY_PORT": str(port)})
        answer = make(kept(), settings, 5, Bodies(settings.calls, reserve=2**60))
    assert (answer.status, answer.hopeless) == (507, True)
    assert "are free" in answer.body.data.decode()


@contextmanager
def answering(text: bytes) -> Iterator[int]:
    """The port of a server that answers so once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(2**16)
                connection.sendall(text)

        thread = threading.Thread(target=answer)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def test_a_call_is_kept_once_where_the_answer_was_lost(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = store.redis.eval
    # The client sends a command again whose answer it did not get.
    monkeypatch.setattr(store.redis, "eval", lambda *told: once(*told) and once(*told))
    store.add_call(kept(0), 2**20)
    store.add_call(kept(1), 2**20)
    assert store.waiting_calls() == 2


def test_what_waits_for_a_share_is_out_of_the_way(store: Store) -> None:
    store.next_call(0.01)
    for number in range(3):
        store.add_call(kept(number), 2**20)
    for _ in range(2):
        taken = store.next_call(0.01)
        assert taken
        again = dataclasses.replace(taken, times=4)
        store.park_call(again, "function f")
        store.park_call(again, "function f")
    assert store.waiting_calls() == 3
    assert store.parked() == {"function f"}
    assert [store.unpark_call("function f") for _ in range(3)] == [True, False, False]
    assert store.parked() == set()
    found = []
    while taken := store.next_call(0.01):
        found.append((taken.call.id, taken.times))
        settle(store, taken)
    expected = [(kept(2).id, 1), (kept(0).id, 4), (kept(1).id, 4)]
    assert found == expected, "those that waited: begun as often as before"
    left = {keys.CALLS_SIZE, keys.CALLS_KEPT, keys.CALLS_KEPT_SIZE}
    assert set(store.redis.keys("*calls-*")) == {key.encode() for key in left}
    assert int(store.redis.get(keys.CALLS_SIZE) or 0) == 0


def test_what_is_being_made_is_kept_until_a_stop_has_ended(
    short_tmp: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_worker, "KEEP_EVERY", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        settings = Settings.from_env({"SLIPWAY_STATE": str(short_tmp), "SLIPWAY_PORT": port})
        worker = QueueWorker(settings, store)
        running_ = threading.Thread(target=worker.run)
        running_.start()
        store.add_call(kept(), 2**20)
        connection, _ = listener.accept()
        with connection:
            worker.stop()
            store.add_call(kept(1), 2**20)
            silent = int(OVERDUE * 1000) + 1
            overdue = store.redis.xpending_range(keys.CALLS, keys.CALLS, "-", "+", 1)
            id_ = overdue[0]["message_id"]
            for _ in range(2):  # the first may have been of before the stop
                store.redis.xclaim(
                    keys.CALLS, keys.CALLS, "worker", 0, [id_], idle=silent, justid=True
                )
                until(
                    lambda: (
                        not store.redis.xpending_range(
                            keys.CALLS, keys.CALLS, id_, id_, 1, idle=silent
                        )
                    )
                )
                time.sleep(1.5)
            assert running_.is_alive()
            connection.recv(2**16)
            connection.sendall(OK)
        running_.join(20)
        assert not running_.is_alive()
    assert store.waiting_calls() == 1, "nothing new is begun"
    assert parts.queue(settings).patience > settings.drain_timeout


def test_all_addresses_of_a_callback_share_its_time() -> None:
    with socket.socket() as deaf, ExitStack() as stack:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(4):  # the kernel answers no more than it keeps for us
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        begun = time.monotonic()
        url = urlsplit(f"http://a:{deaf.getsockname()[1]}/")
        with pytest.raises(TimeoutError):
            connect_to(url, ["127.0.0.1"] * 3, 2)
        assert time.monotonic() - begun < 5, "three times as long, if each had it all"


def test_what_is_no_call_is_dropped(store: Store) -> None:
    store.next_call(0.01)
    store.redis.xadd(keys.CALLS, {"id": b"\xff"})
    assert store.next_call(0.01) is None
    store.redis.xadd(keys.CALLS, {"of": "another version", "size": 5})
    store.redis.incrby(keys.CALLS_SIZE, 5)
    assert store.next_call(0.01) is None
    store.redis.hset(keys.call("x"), mapping={"state": "queued", "call": b'{"of": 1}'})
    store.redis.xadd(keys.CALLS, {"id": "x"})
    store.add_call(kept(), 2**20)
    assert store.next_call(0.01) is None
    taken = store.next_call(0.01)
    assert taken
    settle(store, taken)
    assert store.waiting_calls() == int(store.redis.get(keys.CALLS_SIZE) or 0) == 0


def test_a_callback_by_tls_needs_a_certificate_for_its_name(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.from_env(
        {"SLIPWAY_STATE": str(short_tmp), "SLIPWAY_ALLOW_HOSTS": "localhost,127.0.0.1"}
    )
    authority = trustme.CA()
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(served)
    with Callbacks(tls=served) as callbacks:
        url = f"https://localhost:{callbacks.port}/done"
        with pytest.raises(Unavailable, match="SSLCertVerificationError"):
            post(url, [], Body.of(b"x"), settings)
        authority.cert_pem.write_to_path(str(short_tmp / "ca.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(short_tmp / "ca.pem"))
        assert post(url, [], Body.of(b"x"), settings) == 200
        with pytest.raises(Unavailable, match="SSLCertVerificationError"):
            post(f"https://127.0.0.1:{callbacks.port}/done", [], Body.of(b"x"), settings)
        assert [body for _, _, body in callbacks.requests] == [b"x"]
        with pytest.raises(Unavailable, match="ValueError"):
            post(url, [("X-A", "b\r\nX-C: d")], Body.of(b"x"), settings)


def test_a_call_that_takes_its_workers_along_is_given_up(short_tmp: Path, store: Store) -> None:
    store.next_call(0.01)
    settings = Settings.from_env(
        {"SLIPWAY_STATE": str(short_tmp), "SLIPWAY_ALLOW_HOSTS": "localhost"}
    )
    with Callbacks() as callbacks:
        store.add_call(msgspec.structs.replace(kept(), callback=callbacks.url), 2**20)
        taken = store.next_call(0.01)
        assert taken
        often = dataclasses.replace(taken, times=MOST_TIMES + 1)
        QueueWorker(settings, store)._begin(often)
        until(lambda: store.waiting_calls() == 0)
        ((_, headers, body),) = callbacks.requests
        (letter,) = store.dead_letters(9)
        assert (letter.call.id, "given up" in letter.reason) == (taken.call.id, True)
        # And so is a callback that takes them along.
        store.add_call(msgspec.structs.replace(kept(1), callback=callbacks.url), 2**20)
        again = store.next_call(0.01)
        assert again
        settle(store, again)
        store.give_back_call(again)
        told = store.next_call(0.01)
        assert told
        assert told.answered
        QueueWorker(settings, store)._begin(dataclasses.replace(told, times=MOST_TIMES + 1))
        until(lambda: store.waiting_calls() == 0)
        assert len(callbacks.requests) == 1
    assert (headers["x-function-status"], b"given up" in body) == ("502", True)
    assert store.waiting_calls() == int(store.redis.get(keys.CALLS_SIZE) or 0) == 0

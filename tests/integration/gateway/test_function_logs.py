"""Functions' logs over HTTP, kept and live: real pipes, real files, a real gateway."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import requests

from core.logfiles import LogWriter
from core.models import FunctionLogLine
from core.store import Store
from gateway.followers import PLACES
from gateway.pools import THREADS
from runtime.providers.output import Output, make_pipe
from tests.integration.gateway.harness import Gateway, deploy, exchange, raw, running
from tests.integration.gateway.test_gateway_webhooks import PUSH, send
from tests.waiting import PATIENCE, until

BOUND = 4 * 2**20
NAMES = ["name", "namespace", "instance", "timestamp", "text"]


class Function:
    """One function and its replicas' pipes, read as the controller reads them."""

    def __init__(self, gateway: Gateway, store: Store, name: str, folder: Path) -> None:
        deploy(store, name, [])
        self.name = name
        self.log = gateway.settings.logs / name
        self.output = Output(BOUND)
        self._gateway = gateway
        self._folder = folder
        self._writers: dict[str, int] = {}

    def say(self, text: str, instance: str = "one") -> None:
        if instance not in self._writers:
            pipe = self._folder / f"{self.name}.{instance}"
            self._writers[instance] = make_pipe(pipe)
            self.output.add(instance, pipe, self.log)
        os.write(self._writers[instance], text.encode() + b"\n")

    def get(self, query: str = "") -> list[dict[str, Any]]:
        answer = self._gateway.call("GET", f"/system/logs?name={self.name}{query}")
        assert answer.status_code == 200, answer.text
        assert answer.headers["Content-Type"] == "application/x-ndjson"
        return [json.loads(line) for line in answer.text.splitlines()]

    def texts(self, query: str = "") -> list[str]:
        return [each["text"] for each in self.get(query)]

    def settled(self, text: str) -> None:
        """Returns once that line can be read."""
        until(lambda: text in self.texts("&tail=1"))

    def close(self) -> None:
        self.output.close()
        for writer in self._writers.values():
            os.close(writer)


class Client:
    """Follows a log with a bare socket, line by line; heartbeats are left out."""

    def __init__(self, gateway: Gateway, function: str, query: str = "") -> None:
        self.session = requests.Session()
        self.session.trust_env = False
        self.answer = self.session.get(
            f"{gateway.url}/system/logs?name={function}&follow=true{query}",
            auth=gateway.auth,
            stream=True,
            timeout=60,
        )
        self._lines = self.answer.iter_lines(chunk_size=None)

    def next(self) -> str:
        return str(json.loads(next(line for line in self._lines if line))["text"])

    def rest(self) -> list[str]:
        """What comes until the answer's proper end: an error where it breaks off."""
        return [str(json.loads(line)["text"]) for line in self._lines if line]

    def close(self) -> None:
        self.answer.close()
        self.session.close()


@pytest.fixture
def function(gateway: Gateway, store: Store, tmp_path: Path) -> Iterator[Function]:
    made = Function(gateway, store, "hello.logs", tmp_path)
    yield made
    made.close()
    shutil.rmtree(made.log, ignore_errors=True)


def test_lines_of_all_replicas_by_time(function: Function) -> None:
    for number in range(6):
        function.say(f"line {number}", f"replica-{number % 3}")
        time.sleep(0.02)
    function.settled("line 5")
    found = function.get()
    assert [each["text"] for each in found] == [f"line {number}" for number in range(6)]
    assert [list(each) for each in found] == [NAMES] * 6
    assert {(each["name"], each["namespace"]) for each in found} == {("hello", "logs")}
    times = [datetime.fromisoformat(each["timestamp"]) for each in found]
    assert times == sorted(times)
    assert all(each["timestamp"].endswith("Z") for each in found)
    assert function.texts("&instance=replica-1") == ["line 1", "line 4"]
    assert function.texts("&instance=replica-1&tail=1") == ["line 4"]
    assert function.texts("&instance=nobody") == []
    assert function.texts(f"&since={found[4]['timestamp']}") == ["line 4", "line 5"]
    assert function.texts("&tail=2&since=2026-01-01T00:00:00%2B02:00") == ["line 4", "line 5"]
    for everything in ("", "&tail=", "&tail=0", "&tail=-1", "&tail=-7", "&tail=999999999"):
        assert len(function.texts(f"{everything}&follow=false")) == 6


def test_a_function_that_is_gone_keeps_its_log(function: Function, store: Store) -> None:
    function.say("still here")
    function.settled("still here")
    store.redis.flushdb()
    assert function.texts() == ["still here"]


def test_follow_begins_with_what_is_kept_and_goes_on(gateway: Gateway, function: Function) -> None:
    for number in range(3):
        function.say(str(number))
    function.settled("2")
    everything = Client(gateway, function.name)
    assert everything.answer.headers["Content-Type"] == "application/x-ndjson"
    assert everything.answer.headers["Transfer-Encoding"] == "chunked"
    last = Client(gateway, function.name, "&tail=1")
    one = Client(gateway, function.name, "&tail=1&instance=two")
    assert [everything.next() for _ in range(3)] == ["0", "1", "2"]
    assert last.next() == "2"
    function.say("live")
    assert everything.next() == last.next() == "live"
    function.say("of another replica, which began later", "two")
    for client in (everything, last, one):
        assert client.next() == "of another replica, which began later"
        client.close()


def test_follow_waits_for_a_log_that_is_not_there_yet(gateway: Gateway, function: Function) -> None:
    client = Client(gateway, function.name)
    assert client.answer.status_code == 200
    function.say("first")
    assert client.next() == "first"
    client.close()


def test_no_line_is_lost_or_doubled_between_kept_and_live(
    gateway: Gateway, function: Function
) -> None:
    """Followers begin all the time while lines come, and the file changes in the middle of it."""
    total = 1500
    writer = LogWriter(function.log, 2**19)  # all of it stays, in two files

    def write() -> None:
        for number in range(total):
            each = FunctionLogLine(
                time=f"2026-01-01T00:00:00.{number:06}Z", instance="i", text=f"{number} {'x' * 200}"
            )
            writer.append(msgspec.json.encode(each) + b"\n")
            time.sleep(0.001)

    def collect(client: Client, into: list[int]) -> None:
        while not into or into[-1] != total - 1:
            into.append(int(client.next().split()[0]))

    thread = threading.Thread(target=write)
    thread.start()
    got: list[list[int]] = [[] for _ in range(12)]
    readers = []
    for each in got:
        reader = threading.Thread(target=collect, args=[Client(gateway, function.name), each])
        reader.start()
        readers.append(reader)
        time.sleep(0.05)
    for reader in (*readers, thread):
        reader.join(60)
    for each in got:
        assert each == list(range(each[0], total))


def test_it_ends_with_a_function_that_is_gone_log_and_all(
    gateway: Gateway, function: Function, store: Store
) -> None:
    function.say("one")
    function.settled("one")
    silent = Function(gateway, store, "silent.logs", function.log.parent)
    clients = [Client(gateway, function.name), Client(gateway, silent.name)]
    assert clients[0].next() == "one"
    function.output.finish("one")
    store.redis.flushdb()
    shutil.rmtree(function.log)
    for client in clients:
        assert client.rest() == []
        client.close()
    silent.close()


def test_two_hundred_followers_leave_room_for_the_short(
    gateway: Gateway, function: Function
) -> None:
    """As many as there are places; no thread is held, webhooks and lists are as ever."""
    function.say("kept")
    function.settled("kept")
    worker = psutil.Process(gateway.worker())
    before = worker.memory_info().rss
    with ExitStack() as held:
        clients = []
        for _ in range(PLACES):
            clients.append(Client(gateway, function.name))
            held.callback(clients[-1].close)
        assert {client.answer.status_code for client in clients} == {200}
        full = gateway.call("GET", f"/system/logs?name={function.name}&follow=1")
        assert (full.status_code, full.headers["Retry-After"]) == (503, "1")
        assert "readers of functions' logs" in full.text
        assert worker.num_threads() < THREADS + 8, "followers hold no threads"
        begun = time.monotonic()
        for number in range(20):
            function.say(f"live {number}")
            assert send(gateway, "push", {**PUSH, "after": f"{number:040x}"}).status_code == 202
            assert gateway.anonymous("GET", "/healthz").status_code in (200, 503)
            assert gateway.call("GET", "/system/functions").ok
        assert time.monotonic() - begun < 20 * PATIENCE
        wanted = ["kept", *(f"live {number}" for number in range(20))]
        for client in clients:
            assert [client.next() for _ in wanted] == wanted
        assert worker.memory_info().rss - before < 100 * 2**20
    # All have left while nothing is written: their places are free at once.
    until(lambda: gateway.call("GET", f"/system/logs?name={function.name}").ok)
    with Client(gateway, function.name).answer as again:
        assert again.status_code == 200


def test_a_flood_stays_within_its_bounds(gateway: Gateway, function: Function) -> None:
    """50 MB for one who reads, and one who does not: neither costs the gateway memory."""
    worker = psutil.Process(gateway.worker())
    function.say("begin")
    function.settled("begin")
    reader = Client(gateway, function.name)
    target = f"/system/logs?name={function.name}&follow=1"
    credentials = requests.auth._basic_auth_str(*gateway.auth)
    stalled = raw(
        gateway,
        f"GET {target} HTTP/1.1\r\nHost: a\r\nAuthorization: {credentials}\r\n\r\n".encode(),
    )
    assert stalled.recv(9).startswith(b"HTTP/1.1")
    assert reader.next() == "begin"
    before = worker.memory_info().rss
    writer = LogWriter(function.log, BOUND)
    seen: list[int] = []

    def read() -> None:
        while not seen or seen[-1] >= 0:
            text = reader.next()
            if not text.startswith("[slipway"):
                seen.append(int(text.split()[0]))

    thread = threading.Thread(target=read)
    thread.start()
    most = 0
    lines, padding = 0, "x" * 900
    for _ in range(100):
        data = b""
        while len(data) < 2**19:
            each = FunctionLogLine(
                time="2026-01-01T00:00:00Z", instance="i", text=f"{lines} {padding}"
            )
            data += msgspec.json.encode(each) + b"\n"
            lines += 1
        writer.append(data)
        most = max(most, worker.memory_info().rss)
        assert sum(path.stat().st_size for path in function.log.iterdir()) <= BOUND
        time.sleep(0.02)
    end = FunctionLogLine(time="2026-01-01T00:00:00Z", instance="i", text="-1 end")
    writer.append(msgspec.json.encode(end) + b"\n")
    thread.join(60)
    assert not thread.is_alive()
    assert seen[:-1] == sorted(set(seen[:-1])), "in order, none twice"
    assert most - before < 40 * 2**20
    stalled.settimeout(10)
    got = b""
    while b"-1 end" not in got[-4096:]:
        got += stalled.recv(2**16)
    assert b"bytes of log left out: read too slowly" in got
    assert len(got) < 20 * 2**20
    stalled.close()
    reader.close()


def test_a_stop_ends_followers(valkey: str, store: Store, short_tmp: Path, tmp_path: Path) -> None:
    with running(short_tmp, valkey) as gateway:
        function = Function(gateway, store, "hello.stop", tmp_path)
        function.say("one")
        clients = [Client(gateway, function.name) for _ in range(5)]
        assert {client.next() for client in clients} == {"one"}
        gateway.process.terminate()
        begun = time.monotonic()
        for client in clients:
            assert client.rest() == [], "a proper end"
        assert time.monotonic() - begun < 3 * PATIENCE
        gateway.process.wait(10)
        assert gateway.process.returncode == 0
        function.close()


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("", "name is missing"),
        ("name=", "name is missing"),
        ("name=..", "is not a function name"),
        ("name=../../etc.logs", "is not a function name"),
        ("name=a%2Fb", "is not a function name"),
        ("name=hello.logs.logs", "is not a function name"),
        ("name=hello.%00", "is not a namespace"),
        ("name=%FF", "is not a function name"),
        (f"name={'a' * 7000}", "is not a function name"),
        ("name=hello.logs&namespace=other", "is not in the namespace other"),
        ("name=hello&namespace=..", "is not a namespace"),
        ("name=hello&namespace=A", "is not a namespace"),
        ("name=hello.logs&tail=abc", "tail must be a whole number"),
        ("name=hello.logs&tail=1e3", "tail must be a whole number"),
        (f"name=hello.logs&tail={10**22}", "tail must be a whole number"),
        ("name=hello.logs&since=yesterday", "since must be a time of RFC 3339"),
        ("name=hello.logs&since=2026-01-01", "since must be a time of RFC 3339"),
        ("name=hello.logs&since=2026-13-01T00:00:00Z", "since must be a time of RFC 3339"),
        ("name=hello.logs&since=2026-01-01T00:00:00", "since must be a time of RFC 3339"),
        ("name=hello.logs&since=0001-01-01T00:00:00%2B23:59", "since must be a time of RFC 3339"),
        ("name=hello.logs&follow=maybe", "follow must be true or false"),
        ("name=hello.logs&instance=a%2Fb", "instance must be"),
        ("name=hello.logs&instance=..", "instance must be"),
        (f"name=hello.logs&instance={'a' * 200}", "instance must be"),
    ],
)
def test_what_cannot_be_asked_for_is_400(gateway: Gateway, query: str, told: str) -> None:
    answer = gateway.call("GET", f"/system/logs?{query}")
    assert answer.status_code == 400
    assert told in answer.text
    assert len(answer.text) < 500


def test_other_refusals(gateway: Gateway, function: Function) -> None:
    assert gateway.anonymous("GET", f"/system/logs?name={function.name}").status_code == 401
    assert gateway.call("GET", "/system/logs?name=nobody.logs").status_code == 404
    assert gateway.call("GET", "/system/logs?name=nobody.logs&follow=1").status_code == 404
    assert gateway.call("POST", f"/system/logs?name={function.name}").status_code == 405
    assert gateway.call("GET", f"/system/logs?name={'a' * 10_000}").status_code in (400, 414)


def test_older_clients_and_heads(gateway: Gateway, function: Function) -> None:
    function.say("one")
    function.settled("one")
    head = gateway.call("HEAD", f"/system/logs?name={function.name}&follow=1")
    assert (head.status_code, head.content) == (200, b"")
    credentials = requests.auth._basic_auth_str(*gateway.auth)
    target = f"/system/logs?name={function.name}"
    got = exchange(
        gateway,
        f"GET {target} HTTP/1.0\r\nHost: a\r\nAuthorization: {credentials}\r\n\r\n".encode(),
    )
    told, _, body = got.partition(b"\r\n\r\n")
    assert told.startswith(b"HTTP/1.0 200")
    assert b"chunked" not in told
    assert json.loads(body)["text"] == "one"


def test_a_client_that_talks_on_is_borne(gateway: Gateway, function: Function) -> None:
    """What it sends after its request is not a next one."""
    function.say("one")
    function.settled("one")
    credentials = requests.auth._basic_auth_str(*gateway.auth)
    request = (
        f"GET /system/logs?name={function.name}&follow=1 HTTP/1.1\r\nHost: a\r\n"
        f"Authorization: {credentials}\r\n\r\n"
    ).encode()
    with raw(gateway, request) as connection:
        connection.settimeout(10)
        got = b""
        while b"one" not in got:
            got += connection.recv(4096)
        connection.sendall(request * 50)
        function.say("two")
        while b"two" not in got:
            got += connection.recv(4096)
        assert got.count(b"HTTP/1.1") == 1
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass

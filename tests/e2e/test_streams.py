"""Bodies that flow, requests that arrive as they were sent, and long ones beside short ones."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import os
import re
import select
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import websockets.sync.client as websockets
from websockets.exceptions import InvalidStatus

from tests.e2e.platform import Answer, Platform, Repository, fresh_folder, handler, running, stack

SECRET = "hook-secret"
LIVELY = """
import hashlib
import json
import time

def count(form):
    for number in range(3):
        yield form.format(number)
        time.sleep(0.4)

def handle(event, context):
    if event.path == "/stream":
        return count("{}\\n")
    if event.path == "/events":
        return count("data: {}\\n\\n"), 200, {"Content-Type": "text/event-stream"}
    if event.path == "/page":
        return "<h1>hello</h1>"
    return json.dumps({"method": event.method, "size": len(event.body),
                       "digest": hashlib.sha256(event.body).hexdigest()})
"""
RAW = '''
"""A server of the function's own: tells each request as it came, sends /echo back piece by piece,
and speaks WebSocket (RFC 6455), each message sent back in capitals.
"""
import base64
import hashlib
import json
import os
import socket
import socketserver
from http.server import BaseHTTPRequestHandler


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def pieces(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            yield self.rfile.read(int(self.headers.get("Content-Length", 0)))
            return
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def converse(self):
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.send_header("Sec-WebSocket-Accept", accept)
        self.end_headers()
        self.close_connection = True
        while head := self.rfile.read(2):
            mask = self.rfile.read(4)
            data = self.rfile.read(head[1] & 127)
            data = bytes(byte ^ mask[place % 4] for place, byte in enumerate(data))
            closing = head[0] & 15 == 8
            data = data if closing else data.upper()
            self.wfile.write(bytes([head[0], len(data)]) + data)
            if closing:
                return

    def answer(self):
        if "Upgrade" in self.headers:
            return self.converse()
        if "/echo" in self.requestline:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for piece in self.pieces():
                self.wfile.write(b"%x\\r\\n%b\\r\\n" % (len(piece), piece))
            self.wfile.write(b"0\\r\\n\\r\\n")
            return
        told = {
            "size": sum(map(len, self.pieces())),
            "line": self.requestline,
            "headers": [[name.lower(), value] for name, value in self.headers.items()],
        }
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def get_request(self):
        return self.socket.accept()[0], ("edge", 0)


server = Server("", Handler, bind_and_activate=False)
server.socket.close()
if os.environ.get("LISTEN_FDS") == "1":
    server.socket = socket.socket(fileno=3)
else:  # in a container
    server.socket = socket.create_server(("", 8080))
server.serve_forever()
'''


@pytest.fixture(scope="module")
def flowing() -> Iterator[Platform]:
    with fresh_folder() as folder, running(folder, SLIPWAY_GITHUB_WEBHOOK_SECRET=SECRET) as up:
        own = stack("raw", fprocess="python3 function/raw.py").partition("functions:\n")[2]
        files = {"lively/handler.py": LIVELY, "raw/handler.py": handler(""), "raw/raw.py": RAW}
        pushed = up.repository("sue", "fns").push({"stack.yml": stack("lively") + own, **files})
        assert pushed.last.startswith("slipway: live"), pushed.text + up.logs()
        yield up


def connect(platform: Platform) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", platform.port, timeout=20)


def exchange(platform: Platform, data: bytes) -> bytes:
    """Sends bytes as they are; returns all that comes until the other side closes."""
    with socket.create_connection(("127.0.0.1", platform.port), 20) as client:
        client.sendall(data)
        return b"".join(iter(lambda: client.recv(65536), b""))


def arrived(platform: Platform, target: str, *, method: str = "GET", more: str = "") -> Any:
    """What the raw function says of a request with this target, byte by byte as it got it."""
    head = f"{method} {target} HTTP/1.1\r\nHost: slipway.test\r\nConnection: close\r\n{more}\r\n"
    answer = exchange(platform, head.encode())
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    return json.loads(answer.partition(b"\r\n\r\n")[2])


# --------------------------------------------------------------------------------------- one call


@pytest.mark.parametrize(
    ("sent", "got"),
    [
        ("", "/"),
        ("/", "/"),
        ("?x=1", "/?x=1"),
        ("/a%2Fb", "/a%2Fb"),
        ("/a/../b", "/a/../b"),
        ("/../../system/functions", "/../../system/functions"),
        ("/%2e%2e/x", "/%2e%2e/x"),
        ("//two//slashes/", "//two//slashes/"),
        ("/a%20b%00%ff", "/a%20b%00%ff"),
        ("/;p=1/@:!$&'()*+,=~", "/;p=1/@:!$&'()*+,=~"),
        ("/q?x=1&x=2&empty=&e=%26?&plus=+", "/q?x=1&x=2&empty=&e=%26?&plus=+"),
        ("/" + "x" * 8192, "/" + "x" * 8192),
    ],
    ids=lambda value: value[:24],
)
def test_paths_and_queries_arrive_as_they_were_sent(flowing: Platform, sent: str, got: str) -> None:
    told = arrived(flowing, f"/function/raw.sue{sent}")
    assert told["line"] == f"GET {got} HTTP/1.1"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE", "BREW"])
def test_every_method_arrives(flowing: Platform, method: str) -> None:
    told = arrived(flowing, "/function/raw.sue/m", method=method, more="Content-Length: 0\r\n")
    assert told["line"] == f"{method} /m HTTP/1.1"


@pytest.mark.parametrize("method", ["OPTIONS", "PURGE", "PROPFIND"])
def test_unusual_methods_reach_a_handler(flowing: Platform, method: str) -> None:
    answer = flowing.request("/function/lively.sue", method=method)
    assert (answer.status, answer.json()["method"]) == (200, method)


def test_head_has_the_headers_and_no_body(flowing: Platform) -> None:
    get = flowing.request("/function/lively.sue/page")
    head = flowing.request("/function/lively.sue/page", method="HEAD")
    assert (get.status, get.text) == (head.status, "<h1>hello</h1>") == (200, "<h1>hello</h1>")
    assert head.body == b""
    assert head.headers["Content-Length"] == "14"
    assert head.headers["Content-Type"] == get.headers["Content-Type"]


def test_headers_of_openfaas_are_made_and_passed_on(flowing: Platform) -> None:
    connection = connect(flowing)
    before = time.time_ns()
    connection.request("GET", "/function/raw.sue", headers={"X-Forwarded-For": "192.0.2.1"})
    answer = connection.getresponse()
    told = dict(json.loads(answer.read())["headers"])
    assert re.fullmatch(r"[0-9a-f-]{36}", told["x-call-id"])
    assert answer.getheader("X-Call-Id") == told["x-call-id"]
    assert before - 10**9 < int(told["x-start-time"]) < time.time_ns() + 10**9
    assert answer.getheader("X-Start-Time") == told["x-start-time"]
    assert told["x-forwarded-for"] == "127.0.0.1", "not what the client claims"
    assert told["x-forwarded-host"] == told["host"] == f"127.0.0.1:{flowing.port}"
    connection.request("GET", "/function/raw.sue", headers={"X-Call-Id": "order-66"})
    answer = connection.getresponse()
    told = dict(json.loads(answer.read())["headers"])
    assert told["x-call-id"] == answer.getheader("X-Call-Id") == "order-66"
    connection.request("GET", "/function/raw.sue", headers={"X-Call-Id": "a" * 500})
    answer = connection.getresponse()
    told = dict(json.loads(answer.read())["headers"])
    assert re.fullmatch(r"[0-9a-f-]{36}", told["x-call-id"]), "no id is that long"
    connection.close()


def test_pages_of_functions_are_in_a_sandbox_of_their_own(flowing: Platform) -> None:
    for path in ("/page", "/events", "/"):
        policy = flowing.request(f"/function/lively.sue{path}").headers["Content-Security-Policy"]
        assert policy.split()[0] == "sandbox"
        assert "allow-same-origin" not in policy
    page = flowing.request("/function/lively.sue/page")
    assert page.headers["Content-Type"].startswith("text/html")
    assert "Content-Security-Policy" not in flowing.request("/healthz").headers


# ---------------------------------------------------------------------------------------- streams


@pytest.mark.parametrize(
    ("path", "type_", "parts"),
    [
        ("/stream", "text/html", [b"0\n", b"1\n", b"2\n"]),
        ("/events", "text/event-stream", [b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n"]),
    ],
)
def test_an_answer_comes_as_it_is_made(
    flowing: Platform, path: str, type_: str, parts: list[bytes]
) -> None:
    connection = connect(flowing)
    connection.request("GET", f"/function/lively.sue{path}")
    answer = connection.getresponse()
    assert answer.status == 200
    assert (answer.getheader("Content-Type") or "").startswith(type_)
    came = []
    while piece := answer.read1():
        came.append((time.monotonic(), piece))
    connection.close()
    assert [piece for _, piece in came] == parts
    assert came[2][0] - came[0][0] > 0.6, "the first came while the last was not made yet"


def test_a_body_is_seen_while_it_is_still_being_sent(flowing: Platform) -> None:
    with socket.create_connection(("127.0.0.1", flowing.port), 20) as client:
        client.sendall(
            b"POST /function/raw.sue/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        got = b""
        for number in range(3):
            word = b"piece-%d" % number
            client.sendall(b"%x\r\n%b\r\n" % (len(word), word))
            while word not in got:
                got += client.recv(65536)
        client.sendall(b"0\r\n\r\n")
        while not got.endswith(b"0\r\n\r\n"):
            got += client.recv(65536)
    assert got.startswith(b"HTTP/1.1 200 ")


def test_a_function_speaks_websocket(flowing: Platform) -> None:
    url = f"ws://127.0.0.1:{flowing.port}/function/raw.sue/chat"
    with websockets.connect(url) as client:
        for word in ("hello", "and again"):
            client.send(word)
            assert client.recv(20) == word.upper()
    assert client.close_code == 1000


def test_a_handler_that_knows_no_upgrade_answers_as_ever(flowing: Platform) -> None:
    url = f"ws://127.0.0.1:{flowing.port}/function/lively.sue/page"
    with pytest.raises(InvalidStatus) as refused, websockets.connect(url):
        pass
    assert refused.value.response.status_code == 200
    assert refused.value.response.body == b"<h1>hello</h1>"


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_megabyte_is_uploaded(flowing: Platform, chunked: bool) -> None:
    body = os.urandom(2**20)
    connection = connect(flowing)
    pieces = (body[start : start + 60_000] for start in range(0, len(body), 60_000))
    connection.request(
        "POST",
        "/function/lively.sue",
        pieces if chunked else body,
        {"Content-Type": "application/octet-stream"},
        encode_chunked=chunked,
    )
    told = json.loads(connection.getresponse().read())
    connection.close()
    assert told["size"] == len(body)
    assert told["digest"] == hashlib.sha256(body).hexdigest()


def test_a_client_that_expects_100_continue_gets_it(flowing: Platform) -> None:
    with socket.create_connection(("127.0.0.1", flowing.port), 20) as client:
        client.sendall(
            b"POST /function/lively.sue HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Content-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        )
        assert client.recv(65536).startswith(b"HTTP/1.1 100 "), "before any of the body was sent"
        client.sendall(b"body")
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["size"] == 4


# ------------------------------------------------------------------------------------ a large push


class Memory:
    """Samples the proportional set size of parts and of what they started."""

    def __init__(self, *pids: int) -> None:
        self._parents = [psutil.Process(pid) for pid in pids]
        self._done = threading.Event()
        self.before = self._megabytes()
        self.peak = self.before
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._done.wait(0.1):
            self.peak = max(self.peak, self._megabytes())

    def _megabytes(self) -> float:
        total = 0
        for parent in self._parents:
            for process in [parent, *parent.children(recursive=True)]:
                try:
                    text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
                except OSError:
                    continue  # it has ended meanwhile
                if found := re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE):
                    total += int(found[1])
        return total / 1024


def test_a_large_pack_is_pushed_with_flat_memory(flowing: Platform) -> None:
    repository = flowing.repository("sue", "large")
    repository.commit({"stack.yml": stack("big"), "big/handler.py": handler("big")})
    repository.git("config", "core.compression", "0")
    repository.git("config", "pack.window", "0")
    repository.commit({f"data/{number}": os.urandom(2**20) for number in range(100)})
    with Memory(flowing.part("gateway"), flowing.part("edge")) as memory:
        pushed = repository.push({})
    assert pushed.status == 0, pushed.text
    assert pushed.last.startswith("slipway: live"), pushed.text + flowing.logs()
    assert flowing.call("big.sue").text == "big"
    stored = flowing.settings.git_folder / "sue" / "large.git"
    packs = [each.stat().st_size for each in stored.glob("objects/pack/*.pack")]
    assert max(packs) > 100 * 2**20, "in one pack"
    assert memory.peak - memory.before < 40, (memory.before, memory.peak)


# ------------------------------------------------------------------------------ long beside short


def ping(platform: Platform) -> Answer:
    """A forge's webhook, rightly signed."""
    body = b'{"zen": "Keep it logically awesome."}'
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    headers = {"X-Hub-Signature-256": f"sha256={signature}", "X-GitHub-Event": "ping"}
    return platform.request("/webhooks/github", method="POST", data=body, headers=headers)


def stay_quick(platform: Platform) -> None:
    """What is short is answered within a second, whatever else goes on in the platform; the best
    of three, for a busy machine may be slow by itself."""
    short: list[Callable[[], Answer]] = [
        lambda: platform.request("/healthz"),
        lambda: ping(platform),
        lambda: platform.request("/system/functions", admin=True),
        lambda: platform.call("raw.sue"),
    ]
    for ask in short:
        times = []
        for _ in range(3):
            begun = time.monotonic()
            assert ask().status == 200
            times.append(time.monotonic() - begun)
        assert min(times) < 1


def authorization(platform: Platform) -> str:
    return f"Basic {b64encode(f'admin:{platform.password}'.encode()).decode()}"


def answered(clients: list[socket.socket], seconds: float) -> list[Answer]:
    """What those were told that were answered within some seconds."""
    time.sleep(seconds)
    told = []
    for client in select.select(clients, [], [], 0)[0]:
        with http.client.HTTPResponse(client, method="POST") as answer:
            answer.begin()
            told.append(Answer(answer.status, dict(answer.headers), answer.read()))
    return told


def test_many_pushes_at_once_leave_room_for_the_short(flowing: Platform) -> None:
    head = (
        "POST /git/sue/fns.git/git-receive-pack HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: {authorization(flowing)}\r\nTransfer-Encoding: chunked\r\n"
        "Content-Type: application/x-git-receive-pack-request\r\n\r\n"
    )
    clients = [socket.create_connection(("127.0.0.1", flowing.port), 20) for _ in range(20)]
    try:
        for client in clients:
            client.sendall(head.encode())
        told = answered(clients, 2)
        assert len(told) == 8, "twelve have a place and wait for their packs"
        for answer in told:
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert "all 12 places for git requests are taken" in answer.text
        stay_quick(flowing)
    finally:
        for client in clients:
            client.close()
    deadline = time.monotonic() + 15
    repository = flowing.repository("sue", "after")
    repository.commit({"stack.yml": stack("after"), "after/handler.py": handler("after")})
    while (pushed := repository.push({})).status != 0:
        assert time.monotonic() < deadline, pushed.text
        time.sleep(0.2)
    assert pushed.last.startswith("slipway: live"), "places of clients that left are free again"


def test_bodies_that_nobody_reads_leave_room_for_the_short(flowing: Platform) -> None:
    """They are answered at once, and go on with a byte now and then."""
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
    clients = [socket.create_connection(("127.0.0.1", flowing.port), 20) for _ in range(120)]
    try:
        for client in clients:
            client.sendall(head)
        assert [answer.status for answer in answered(clients, 2)] == [405] * len(clients)
        for _ in range(3):
            for client in clients:
                with suppress(OSError):  # it may have been cut off by now
                    client.sendall(b"x")
            stay_quick(flowing)
    finally:
        for client in clients:
            client.close()


def test_who_sends_all_of_an_unwanted_body_sees_the_answer(flowing: Platform) -> None:
    connection = connect(flowing)
    connection.request("POST", "/", bytes(20 * 2**20))
    assert connection.getresponse().status == 405
    connection.close()


def follow(platform: Platform, release: str) -> tuple[http.client.HTTPConnection, Any]:
    connection = connect(platform)
    connection.request(
        "GET",
        f"/system/releases/{release}/logs?follow=1",
        headers={"Authorization": authorization(platform)},
    )
    return connection, connection.getresponse()


def slow_repository(platform: Platform) -> Repository:
    repository = platform.repository("sue", "slow")
    slow = "import time\n\ndef test_it():\n    time.sleep(5)\n"
    files = {"slow/handler.py": handler("slow"), "slow/handler_test.py": slow}
    repository.commit({"stack.yml": stack("slow"), **files})
    return repository


def test_many_followers_at_once_leave_room_for_the_short(flowing: Platform) -> None:
    repository = slow_repository(flowing)
    told: list[str] = []
    client = threading.Thread(target=lambda: told.append(repository.push({}).last))
    client.start()
    path = "/system/releases?namespace=sue&repository=slow"
    deadline = time.monotonic() + 15
    while not (releases := flowing.request(path, admin=True).json()):
        assert time.monotonic() < deadline, "no release"
        time.sleep(0.05)
    followers = []
    try:
        followers = [follow(flowing, releases[0]["id"]) for _ in range(10)]
        assert sorted(answer.status for _, answer in followers) == [200] * 8 + [503] * 2
        for _, answer in followers:
            if answer.status == 503:
                assert answer.getheader("Retry-After") == "1"
                assert b"log followers" in answer.read()
        stay_quick(flowing)
        assert flowing.release("sue", "slow")["state"] in ("building", "testing")
        client.join(60)
        ends = [
            json.loads(answer.read().splitlines()[-1])
            for _, answer in followers
            if answer.status == 200
        ]
        assert [end["state"] for end in ends] == ["live"] * 8, "each was told the end"
    finally:
        for connection, _ in followers:
            connection.close()
        client.join(60)
    assert told[0].startswith("slipway: live"), told
    connection, answer = follow(flowing, releases[0]["id"])
    assert answer.status == 200, "places of followers that left are free again"
    connection.close()

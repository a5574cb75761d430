"""Requests that two parsers could read differently, and a function that tells how it read them.

Every case hides ``GET /smuggled`` in what a sloppy reader takes for a second request. Whoever reads
well never passes it on: as a request of the client's own it has no function, so that a function
that sees it was reached by a way that nobody allowed.
"""

from __future__ import annotations

import re
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TARGET = b"/function/f.abuse/first"
HIDDEN = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
WAITS = 0
_CHUNKED_END = b"0\r\n\r\n"


@dataclass(frozen=True)
class Case:
    name: str
    data: bytes
    edge: int
    """Status that the edge answers with; 200: it is made harmless. WAITS: for the body's rest."""
    gateway: int
    """The same of the gateway, asked directly."""


def _request(*lines: bytes, method: bytes = b"POST", target: bytes = TARGET) -> bytes:
    head = [method + b" " + target + b" HTTP/1.1", b"Host: a", *lines]
    return b"\r\n".join(head) + b"\r\n\r\n"


def _framed(name: str, edge: int, gateway: int, *lines: bytes) -> Case:
    """The body ends at once for who reads it as chunked, else it has the hidden request in it."""
    length = b"Content-Length: %d" % len(_CHUNKED_END + HIDDEN)
    wanted = [length if line == b"CL" else line for line in lines]
    return Case(name, _request(*wanted) + _CHUNKED_END + HIDDEN, edge, gateway)


def _chunk(name: str, edge: int, gateway: int, body: bytes) -> Case:
    return Case(name, _request(b"Transfer-Encoding: chunked") + body + HIDDEN, edge, gateway)


def _plain(name: str, edge: int, gateway: int, data: bytes) -> Case:
    return Case(name, data, edge, gateway)


TE = b"Transfer-Encoding: "
CASES = [
    _framed("length and chunked", 200, 400, b"CL", TE + b"chunked"),
    _framed("chunked and length", 200, 400, TE + b"chunked", b"CL"),
    _framed("two lengths that differ", 400, 400, b"CL", b"Content-Length: 5"),
    _framed("two lengths that differ in one line", 400, 400, b"Content-Length: 5, 42"),
    _framed("the same length twice", 200, 400, b"CL", b"CL"),
    _framed("the same length twice in one line", 200, 400, b"Content-Length: 5, 5"),
    _framed("length with a sign", 400, 400, b"Content-Length: +5"),
    _framed("length below zero", 400, 400, b"Content-Length: -5"),
    _framed("length in hexadecimal", 400, 400, b"Content-Length: 0x5"),
    _framed("length with a separator", 400, 400, b"Content-Length: 4_2"),
    _framed("length that is empty", 400, 400, b"Content-Length: "),
    _framed("length over all bounds", 400, 400, b"Content-Length: 99999999999999999999999"),
    _framed("xchunked", 400, 501, b"CL", TE + b"xchunked"),
    _framed("chunked with a space before", 200, 400, b"CL", TE + b" chunked"),
    _framed("chunked with a tab before", 200, 400, b"CL", b"Transfer-Encoding:\tchunked"),
    _framed("chunked after a vertical tab", 400, 400, b"CL", TE + b"\x0bchunked"),
    _framed("chunked in capitals", 200, 400, b"CL", TE + b"CHUNKED"),
    _framed("chunked, identity", 400, 400, b"CL", TE + b"chunked, identity"),
    _framed("identity, chunked", 422, 400, b"CL", TE + b"identity, chunked"),
    _framed("identity", 400, 400, b"CL", TE + b"identity"),
    _framed("gzip, chunked", 422, 400, b"CL", TE + b"gzip, chunked"),
    _framed("chunked twice", 400, 400, TE + b"chunked", TE + b"chunked"),
    _framed("chunked, chunked", 400, 400, TE + b"chunked, chunked"),
    _framed("chunked, and then something else", 400, 501, TE + b"chunked", TE + b"cow"),
    _framed("quoted chunked", 400, 501, b"CL", TE + b'"chunked"'),
    _framed("chunked on a folded line", 200, 400, b"CL", b"Transfer-Encoding:\r\n chunked"),
    _framed(
        "chunked that somebody folded in", 200, 400, b"CL", b"X: y\r\n Transfer-Encoding: chunked"
    ),
    _framed("space before the colon", 400, 400, b"CL", b"Transfer-Encoding : chunked"),
    _framed("space before the name", 400, 400, b" Transfer-Encoding: chunked", b"CL"),
    _framed("underscore in the name", 200, 200, b"CL", b"Transfer_Encoding: chunked"),
    _framed("length with an underscore", 200, 200, b"Content_Length: 5", b"CL"),
    _framed("nul in a value", 400, 400, b"CL", b"X: a\0b"),
    _framed("nul in a name", 400, 400, b"CL", b"X\0Y: a"),
    _framed("bare cr in a value", 400, 400, b"CL", b"X: a\rTransfer-Encoding: chunked"),
    _framed("bare lf between headers", 200, 400, b"CL", b"X: a\nTransfer-Encoding: chunked"),
    _framed("lf and cr", 400, 400, b"CL", b"X: a\n\rTransfer-Encoding: chunked"),
    _framed("length named as of one hop", 200, 200, b"CL", b"Connection: Content-Length"),
    _framed(
        "chunked named as of one hop", 200, 200, TE + b"chunked", b"Connection: Transfer-Encoding"
    ),
    _chunk("size with a sign", 400, 400, b"+5\r\nhello\r\n0\r\n\r\n"),
    _chunk("size with 0x", 400, 400, b"0x5\r\nhello\r\n0\r\n\r\n"),
    _chunk("size with a space before", 400, 400, b" 5\r\nhello\r\n0\r\n\r\n"),
    _chunk("size that overflows", 400, WAITS, b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
    _chunk("size below zero", 400, 400, b"-1\r\nhello\r\n0\r\n\r\n"),
    _chunk("size that is empty", 400, 400, b"\r\nhello\r\n0\r\n\r\n"),
    _chunk("size that ends in lf alone", 400, 400, b"5\nhello\r\n0\r\n\r\n"),
    _chunk("chunk longer than its size", 400, 400, b"5\r\nhello, you\r\n0\r\n\r\n"),
    _chunk("chunk that ends in lf alone", 400, 400, b"5\r\nhello\n0\r\n\r\n"),
    _chunk("extension", 200, 200, b'5;a="b"\r\nhello\r\n0\r\n\r\n'),
    _chunk(
        "extension with a bare lf", 400, 400, b"5;a\nGET /smuggled HTTP/1.1\r\nhello\r\n0\r\n\r\n"
    ),
    _chunk(
        "trailers that would be headers",
        200,
        400,
        b"0\r\nX-Call-Id: evil\r\nContent-Length: 9\r\n\r\n",
    ),
    _plain("two hosts", 400, 400, _request(b"Host: b", method=b"GET") + HIDDEN),
    _plain(
        "two hosts in one", 400, 400, _request(method=b"GET").replace(b"Host: a", b"Host: a, b")
    ),
    _plain(
        "url of another host",
        400,
        400,
        _request(method=b"GET", target=b"http://b/function/f.abuse/first") + HIDDEN,
    ),
    _plain(
        "get with a body",
        200,
        200,
        _request(b"Content-Length: 5", method=b"GET") + b"hello" + HIDDEN,
    ),
    _plain("get that has not told of its body", 200, 200, _request(method=b"GET") + HIDDEN),
    _plain("connect", 405, 404, _request(method=b"CONNECT", target=b"a:80") + HIDDEN),
    _plain(
        "upgrade to h2c",
        200,
        200,
        _request(
            b"Upgrade: h2c",
            b"Connection: Upgrade, HTTP2-Settings",
            b"HTTP2-Settings: AAMAAA",
            method=b"GET",
        )
        + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + HIDDEN,
    ),
    _plain("preface of h2", 400, 400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN),
    _plain("http/0.9", 400, 400, b"GET " + TARGET + b"\r\n\r\n" + HIDDEN),
    _plain("http/1.2", 200, 200, _request(method=b"GET").replace(b"1.1", b"1.2") + HIDDEN),
    _plain(
        "version in small letters",
        400,
        400,
        _request(method=b"GET").replace(b"HTTP", b"http") + HIDDEN,
    ),
    _plain("no target", 400, 400, b"GET HTTP/1.1\r\nHost: a\r\n\r\n" + HIDDEN),
    _plain("two spaces", 200, 400, _request(method=b"GET", target=b" " + TARGET) + HIDDEN),
    _plain(
        "space in the target", 400, 400, _request(method=b"GET", target=TARGET + b" /b") + HIDDEN
    ),
    _plain(
        "tab for a space", 200, 400, _request(method=b"GET").replace(b"GET ", b"GET\t") + HIDDEN
    ),
    _plain("method that is none", 400, 400, _request(method=b"G(T") + HIDDEN),
    _plain("fragment", 400, 200, _request(method=b"GET", target=TARGET + b"#x") + HIDDEN),
    _plain("nul in the target", 400, 400, _request(method=b"GET", target=TARGET + b"\0") + HIDDEN),
    _plain(
        "bytes above ascii in the target",
        400,
        400,
        _request(method=b"GET", target=TARGET + b"\xff\xc3\xa9") + HIDDEN,
    ),
    _plain(
        "cr in the target", 400, 400, _request(method=b"GET", target=TARGET + b"\rX: y") + HIDDEN
    ),
    _plain(
        "what follows one that is refused", 400, 400, _request(b"X : y", method=b"GET") + HIDDEN
    ),
    _plain(
        "http/1.0 that stays",
        200,
        200,
        _request(b"Connection: keep-alive", method=b"GET").replace(b"1.1", b"1.0") + HIDDEN,
    ),
    _plain(
        "http/1.0 in chunks",
        200,
        400,
        _request(TE + b"chunked").replace(b"1.1", b"1.0") + _CHUNKED_END + HIDDEN,
    ),
]


@dataclass
class Seen:
    """One request, by the strictest reading."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for given, value in self.headers if given == name]


@dataclass
class Recorder:
    """A function that keeps what it got; what RFC 9112 would have it refuse is a fault."""

    path: Path
    seen: list[Seen] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return f"unix@{self.path}"

    def __enter__(self) -> Recorder:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for each in list(self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(connection)
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as file:
            try:
                while self._one(connection, file):
                    pass
            except (OSError, ValueError) as error:
                if not isinstance(error, ConnectionError):
                    self.faults.append(repr(error))
            finally:
                self._open.discard(connection)

    def _one(self, connection: socket.socket, file: Any) -> bool:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = file.readline(2**20)
            if not line:
                if head:
                    self.faults.append(f"broke off in its head: {head[:200]!r}")
                return False
            head += line
        first, *rest = head[:-4].split(b"\r\n")
        self._check(head, first, rest)
        pairs = [line.decode("latin-1").partition(":") for line in rest]
        headers = [(name.lower(), value.strip()) for name, _, value in pairs]
        request = Seen(first.decode("latin-1"), headers, b"")
        lengths, codings = request.all("content-length"), request.all("transfer-encoding")
        if len(lengths) + len(codings) > 1:
            self.faults.append(f"framed twice: {lengths} {codings}")
            return False
        if codings:
            request.body = self._chunks(file)
        elif lengths:
            request.body = file.read(int(lengths[0]))
            if len(request.body) < int(lengths[0]):
                return False  # it broke off: no function takes it for a request
        self.seen.append(request)
        told = first if b" HEAD" not in first else b""
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(told), told))
        return True

    def _check(self, head: bytes, first: bytes, rest: list[bytes]) -> None:
        if not re.fullmatch(rb"[!#-'*+.^_`|~0-9A-Za-z-]+ [!-~]+ HTTP/1\.[01]", first):
            self.faults.append(f"request line {first!r}")
        for line in rest:
            if not re.fullmatch(rb"[!#-'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*", line):
                self.faults.append(f"header {line!r}")
        if len([line for line in rest if line.lower().startswith(b"host:")]) != 1:
            self.faults.append(f"hosts {rest!r}")
        if re.search(rb"(?<!\r)\n|\r(?!\n)|\0", head):
            self.faults.append(f"bare control characters in {head!r}")

    def _chunks(self, file: Any) -> bytes:
        body = b""
        while True:
            line = file.readline(2**16)
            if not line:
                raise ConnectionError
            size = re.fullmatch(rb"([0-9a-fA-F]{1,16})(;[\t\x20-\x7e]*)?\r\n", line)
            if not size:
                raise ValueError(f"chunk {line!r}")
            if not int(size[1], 16):
                while (trailer := file.readline(2**16)) not in (b"\r\n", b""):
                    if not trailer.endswith(b"\r\n"):
                        raise ValueError(f"trailer {trailer!r}")
                return body
            body += file.read(int(size[1], 16))
            if file.read(2) not in (b"\r\n", b""):
                raise ValueError("a chunk's end")


def told_by(port: int, data: bytes, seconds: float = 10.0) -> bytes:
    """What comes back until the other side closes, or is quiet for a while after an answer."""
    with socket.create_connection(("127.0.0.1", port), seconds) as client:
        client.sendall(data)
        got = b""
        with suppress(TimeoutError, ConnectionError):
            while piece := client.recv(65536):
                got += piece
                client.settimeout(0.3)
        return got


def check(recorder: Recorder, port: int, case: Case, wanted: int) -> None:
    """Asks, judges, and sees that the next client gets the answer to its own question."""
    answer = told_by(port, case.data, 1.0 if wanted == WAITS else 10.0)
    judge(recorder, answer, wanted)
    other = b"GET /function/f.abuse/other HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    assert told_by(port, other).endswith(b"GET /other HTTP/1.1")


def status(answer: bytes) -> int:
    found = re.match(rb"HTTP/1\.\d (\d{3})", answer)
    return int(found[1]) if found else 0


def judge(recorder: Recorder, answer: bytes, wanted: int) -> None:
    """What was asked for alone was seen, once, by one reading; or nothing, and a refusal told."""
    assert not recorder.faults, recorder.faults
    assert status(answer) == wanted, answer[:300]
    lines = [each.line for each in recorder.seen]
    assert not any("smuggled" in line for line in lines)
    if wanted == 200:
        assert len(lines) == 1, lines
        assert lines[0].split(" ")[1] == "/first"
        (host,) = recorder.seen[0].all("host")
        assert host == "a"
        assert not any(b"evil" in value.encode() for _, value in recorder.seen[0].headers)
    else:
        assert b"first" not in answer.partition(b"\r\n\r\n")[0]


OURS = {
    "x_call_id": "",
    "x_start_time": "",
    "x_forwarded_for": "127.0.0.1",
    "x_forwarded_host": "shop.test",
    "x_forwarded_proto": "http",
    "host": "shop.test",
}
"""As who makes variables of headers calls them, and what they must be; empty: made by us."""


def check_headers_of_ours(recorder: Recorder, port: int) -> None:
    """Nobody takes them away, doubles them or speaks in their name."""
    lines = [
        "POST /function/f.abuse/first HTTP/1.1",
        "Host: shop.test",
        "Connection: close, X-Call-Id, X-Start-Time, Host, Content-Length, X-Forwarded-For",
        "Connection: X-Forwarded-Host, X-Forwarded-Proto, Content-Type",
        "Content-Length: 5",
        "Content-Type: text/evil",
        "X-Start-Time: evil",
        "Proxy-Authorization: evil",
        "Proxy: evil",
        *(
            f"{name}: evil"
            for ours in ("X-Call-Id", "X-Start-Time", "X-Forwarded-For", "X-Forwarded-Proto")
            for name in (
                ours.replace("-", "_"),
                ours.replace("-", "_", 1),
                "_".join(ours.rsplit("-", 1)),
            )
        ),
        "X-Forwarded_Host: evil",
        "X-Forwarded-For: evil",
        "X-Forwarded-Host: evil",
        "X-Forwarded-Proto: evil",
        "X_Own: theirs",
    ]
    answer = told_by(port, "\r\n".join([*lines, "", "hello"]).encode())
    assert status(answer) == 200, answer
    assert not recorder.faults, recorder.faults
    (seen,) = recorder.seen
    assert seen.body == b"hello"
    for ours, wanted in OURS.items():
        (value,) = [value for name, value in seen.headers if name.replace("-", "_") == ours]
        assert value == wanted or (not wanted and value and "evil" not in value), ours
    assert seen.all("content-type") == ["text/evil"], "the client's own word of its own body"
    assert not [name for name, _ in seen.headers if name.startswith(("proxy", "connection"))]

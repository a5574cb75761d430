"""What handlers of the node template see and may return."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contracts.templates.server import Server, Start

SEEN = """
module.exports = async (event) => ({
  body: Buffer.isBuffer(event.body) ? 'bytes ' + event.body.toString('latin1') : event.body,
  query: event.query,
})
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A function that answers with what it sees."""
    server = Server(tmp_path_factory.mktemp("s"), "node", {"handler.js": SEEN})
    yield server
    server.close()


@pytest.mark.parametrize(
    ("kind", "sent", "body"),
    [
        ("text/plain", "grüße".encode(), "grüße"),
        ("text/plain; charset=latin1", b"\xfc", "ü"),
        (None, b"no type", "no type"),
        ("application/json", b'{"a": [1]}', {"a": [1]}),
        ("application/json; charset=utf-8", b"[1]", [1]),
        ("application/vnd.api+json", b"{}", {}),
        ("application/json", b"", {}),
        (
            "application/x-www-form-urlencoded",
            b"a=1&a=2&b[c]=3&d[]=4&e=+%21",
            {
                "a": ["1", "2"],
                "b": {"c": "3"},
                "d": ["4"],
                "e": " !",
            },
        ),
        ("application/octet-stream", b"\x00\xff", "bytes \x00\xff"),
    ],
)
def test_the_body_is_what_its_type_says(
    seen: Server, kind: str | None, sent: bytes, body: Any
) -> None:
    headers = {"Content_Type": kind} if kind else {}

    assert seen.request("POST", "/", sent, **headers).json["body"] == body


def test_without_a_body_it_is_an_empty_object(seen: Server) -> None:
    assert seen.get("/").json["body"] == {}


@pytest.mark.parametrize(
    ("kind", "sent", "status"),
    [
        ("application/json", b"{", 400),
        ("application/json", b'"text"', 400),
        ("application/json", b"x" * 102_401, 413),
        ("text/plain", b"x" * 102_401, 413),
        ("text/plain; charset=klingon", b"x", 415),
    ],
)
def test_a_body_that_is_not_what_it_says_is_refused(
    seen: Server, kind: str, sent: bytes, status: int
) -> None:
    answer = seen.request("POST", "/", sent, Content_Type=kind)

    assert answer.status == status
    assert seen.get("/").status == 200


def test_compressed_bodies_are_unpacked_within_the_bound(seen: Server) -> None:
    def ask(body: bytes, encoding: str = "gzip") -> Any:
        kind = "application/json"
        return seen.request("POST", "/", body, Content_Type=kind, Content_Encoding=encoding)

    assert ask(gzip.compress(b'{"a": 1}')).json["body"] == {"a": 1}
    assert ask(gzip.compress(b"[" * 10_000_000)).status == 413
    assert ask(b"not gzip").status == 400
    assert ask(b"{}", "rot13").status == 415


def test_json_and_raw_bodies_have_bounds_of_their_own(start: Start) -> None:
    server = start("node", {"handler.js": SEEN}, MAX_JSON_SIZE="1kb", MAX_RAW_SIZE="2kb")

    def status(kind: str, size: int) -> int:
        body = json.dumps(["x" * size]).encode()
        return server.request("POST", "/", body, Content_Type=kind).status

    assert [status("application/json", n) for n in (900, 1100)] == [200, 413]
    assert [status("image/png", n) for n in (1900, 2100)] == [200, 413]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("a=1&b=two%20words&c", {"a": "1", "b": "two words", "c": ""}),
        ("a[]=1&a[]=2", {"a": ["1", "2"]}),
        ("a[b][c]=1&a[b][d]=2", {"a": {"b": {"c": "1", "d": "2"}}}),
        ("__proto__[x]=1&a=1", {"__proto__": {"x": "1"}, "a": "1"}),
        ("a=1&a[b]=2", {"a": "1"}),
        ("a[]=1&a[length]=9", {"a": ["1"]}),
    ],
)
def test_the_query_is_read_as_express_does(seen: Server, query: str, found: Any) -> None:
    assert seen.get(f"/?{query}").json["query"] == found


@pytest.mark.parametrize(
    ("handler", "status", "kind", "body"),
    [
        ("async () => ({ a: 1 })", 200, "application/json; charset=utf-8", b'{"a":1}'),
        ("async () => [1]", 200, "application/json; charset=utf-8", b"[1]"),
        ("async () => 'text ü'", 200, "text/html; charset=utf-8", "text ü".encode()),
        ("async () => 42", 200, "application/json; charset=utf-8", b"42"),
        ("async () => Buffer.from('b')", 200, "application/octet-stream", b"b"),
        ("async (e, c) => { c.status(201).succeed('made') }", 201, None, b"made"),
        ("async (e, c) => c.headers({ 'content-type': 'a/b' }).succeed('x')", 200, "a/b", b"x"),
        ("async (e, c) => { c.status(202); return 'later' }", 202, None, b"later"),
        ("async (e, c) => { c.succeed('first'); return 'second' }", 200, None, b"first"),
        ("async (e, c) => c.fail('no')", 500, None, b"no"),
        ("async (e, c) => c.status(409).fail(new Error('taken'))", 409, None, b"Error: taken"),
        (
            "(e, c, callback) => { setTimeout(() => callback(null, 'late'), 20) }",
            200,
            None,
            b"late",
        ),
        ("(e, c, callback) => callback('wrong')", 500, None, b"wrong"),
        ("(e, c) => 'not async'", 200, None, b"not async"),
        ("(e, c) => { throw new Error('x') }", 500, "text/plain; charset=utf-8", None),
        ("async () => ({ a: 1n })", 500, None, None),
        ("async () => require('stream').Readable.from(['a', 'b'])", 200, None, b"ab"),
    ],
)
def test_the_ways_to_answer(
    start: Start, handler: str, status: int, kind: str | None, body: bytes | None
) -> None:
    answer = start("node", {"handler.js": f"module.exports = {handler}\n"}).get("/")

    assert answer.status == status
    if kind:
        assert answer.headers["Content-Type"] == kind
    if body is not None:
        assert answer.body == body


@pytest.mark.parametrize(
    "files",
    [
        {"handler.mjs": "export default async () => 'esm'\n"},
        {
            "handler.js": "export const handler = async () => 'esm'\n",
            "package.json": '{"type": "module"}',
        },
        {"handler.mjs": "await 0\nexport default async () => 'esm'\n"},
        {"handler.cjs": "exports.handle = async () => 'esm'\n"},
        {
            "handler.js": "module.exports = require('./lib/more')\n",
            "lib/more.js": "module.exports = () => 'esm'\n",
        },
    ],
)
def test_the_ways_to_export(start: Start, files: dict[str, str]) -> None:
    assert start("node", files).get("/").text == "esm"


def test_a_crash_outside_of_a_request_answers_those_in_flight(start: Start) -> None:
    handler = """
module.exports = (event, context, callback) => {
  setTimeout(() => { throw new Error('boom') }, 50)
}
"""
    server = start("node", {"handler.js": handler})
    answer = server.get("/")

    assert (answer.status, answer.headers["X-OpenFaaS-Internal"]) == (500, "of-watchdog")
    assert "boom" not in answer.text
    assert server.ended() == 1
    assert "boom" in server.log

"""What handlers of python3-http and python3-flask see and may return."""

from __future__ import annotations

import io
import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.contracts.templates.server import PYTHON_TEMPLATES, Server, Start

pytestmark = pytest.mark.network

each_python = pytest.mark.parametrize("template", PYTHON_TEMPLATES)

HTML = "text/html; charset=utf-8"
JSON = "application/json"
RETURNED = [
    ("'text ü'", 200, HTML, "text ü".encode()),
    ("b'bytes'", 200, HTML, b"bytes"),
    ("None", 200, HTML, b""),
    ("{}", 200, HTML, b""),
    ("{'statusCode': 201}", 201, HTML, b""),
    ("{'statusCode': '404', 'body': 'no'}", 404, HTML, b"no"),
    ("{'body': {'a': [1, 'ü']}}", 200, JSON, b'{"a": [1, "\\u00fc"]}'),
    ("{'body': [1, 2]}", 200, JSON, b"[1, 2]"),
    ("{'body': 42}", 200, HTML, b"42"),
    ("{'body': b'\\xff'}", 200, HTML, b"\xff"),
    ("{'body': 'x', 'headers': {'content-type': 'text/csv'}}", 200, "text/csv", b"x"),
    ("{'body': 'x', 'headers': [('Content-Type', 'text/csv')]}", 200, "text/csv", b"x"),
    ("{'hello': 'world'}", 200, JSON, b'{"hello": "world"}'),
    ("[1, 2]", 200, JSON, b"[1, 2]"),
    ("('made', 201)", 201, HTML, b"made"),
    ("('made', 201, {'Content-Type': 'text/csv'})", 201, "text/csv", b"made"),
    ("('made', {'Content-Type': 'text/csv'})", 200, "text/csv", b"made"),
    ("({'a': 1}, 202)", 202, JSON, b'{"a": 1}'),
    ("types.SimpleNamespace(statusCode=202, body='o', headers={})", 202, HTML, b"o"),
    ("{'body': datetime.date(2026, 11, 23)}", 500, None, None),
    ("{'body': {'on': datetime.date(2026, 11, 23)}}", 200, JSON, b'{"on": "2026-11-23"}'),
    ("{'body': (c for c in 'abc')}", 200, HTML, b"abc"),
    ("{'body': 'x', 'headers': {'Content-Length': '99'}}", 200, HTML, b"x"),
    ("{'body': 'x', 'headers': {'Connection': 'close, X'}}", 200, HTML, b"x"),
    ("{'body': 'x', 'headers': 7}", 500, None, None),
    ("{'body': 'x', 'headers': {'Bad Name': '1'}}", 500, None, None),
    ("{'body': object()}", 500, None, None),
    ("{'statusCode': 'many'}", 500, None, None),
    ("('a', 'b', 'c', 'd')", 500, None, None),
]


@pytest.fixture(scope="module")
def returning(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A python3-http function that returns what it is asked to."""
    handler = (
        "import datetime, types\ndef handle(event, context): return eval(event.body.decode())\n"
    )
    server = Server(tmp_path_factory.mktemp("r"), "python3-http", {"handler.py": handler})
    yield server
    server.close()


@pytest.mark.parametrize(("expression", "status", "kind", "body"), RETURNED)
def test_http_what_a_handler_may_return(
    returning: Server, expression: str, status: int, kind: str | None, body: bytes | None
) -> None:
    answer = returning.request("POST", "/", expression.encode())

    assert answer.status == status, returning.log
    if body is not None:
        assert (answer.headers["Content-Type"], answer.body) == (kind, body)


def test_http_what_cannot_be_sent_is_explained_in_the_log(returning: Server) -> None:
    returning.request("POST", "/", b"{'body': object()}")

    returning.wait_for_log("the body is of type object: give text, bytes, a dict")


def test_http_what_a_handler_sees(start: Start) -> None:
    handler = """
def handle(event, context):
    return {"body": {
        "body": repr(event.body), "path": event.path, "method": event.method,
        "first": event.query["a"], "all": event.query.getlist("a"), "none": event.query.get("z"),
        "any case": [
            event.headers["x-test"], event.headers.get("X-TEST"), "X-tEsT" in event.headers],
        "names": sorted(event.headers), "host": context.hostname}}
"""
    server = start("python3-http", {"handler.py": handler}, HOSTNAME="here")
    found = json.loads(
        server.raw(
            b"POST /a%20b/%2F?a=1&a=2&b= HTTP/1.1\r\nhost: f\r\nx-test: 1\r\nX-Test: 2\r\n"
            b"connection: close\r\ncontent-length: 2\r\n\r\n\xff\x00"
        ).partition(b"\r\n\r\n")[2]
    )

    assert found == {
        "body": "b'\\xff\\x00'",
        "path": "/a b//",
        "method": "POST",
        "first": "1",
        "all": ["1", "2"],
        "none": None,
        "any case": ["1, 2", "1, 2", True],
        "names": ["Connection", "Content-Length", "Host", "X-Test"],
        "host": "here",
    }


def test_http_a_body_longer_or_shorter_than_it_says_breaks_the_connection(start: Start) -> None:
    handler = """
def handle(event, context):
    return iter([b"abc", b"def"]), 200, {"Content-Length": event.query["n"]}
"""
    server = start("python3-http", {"handler.py": handler})

    assert server.get("/?n=6").body == b"abcdef"
    for length, sent in (("5", b"abc"), ("7", b"abcdef")):
        answer = server.raw(f"GET /?n={length} HTTP/1.1\r\nHost: f\r\n\r\n".encode())
        assert answer.partition(b"\r\n\r\n")[2] in (sent, b"")


def test_http_an_absolute_target_is_its_path(start: Start) -> None:
    server = start("python3-http")
    answer = server.raw(b"GET http://f/a HTTP/1.1\r\nHost: f\r\nConnection: close\r\n\r\n")

    assert answer.endswith(b"at /a")


def test_flask_what_a_handler_sees(start: Start) -> None:
    handler = """
from flask import g, request
def handle(req):
    g.seen = True
    return {"req": req, "json": request.get_json(silent=True), "args": request.args.getlist("a"),
            "test": request.headers["x-test"], "path": request.path, "form": dict(request.form),
            "kind": type(req).__name__}
"""
    server = start("python3-flask", {"handler.py": handler})
    answer = server.raw(
        b"POST /a%20b?a=1&a=2 HTTP/1.1\r\nHost: f\r\nX-Test: right\r\nX_Test: forged\r\n"
        b"Content-Type: application/json\r\nConnection: close\r\nContent-Length: 9\r\n\r\n"
        b'{"k": 1}\n'
    )

    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {
        "req": '{"k": 1}\n',
        "json": {"k": 1},
        "args": ["1", "2"],
        "test": "right",
        "path": "/a b",
        "form": {},
        "kind": "str",
    }


def test_flask_gives_bytes_where_raw_body_is_set(start: Start) -> None:
    handler = "def handle(req): return repr(req)\n"
    server = start("python3-flask", {"handler.py": handler}, RAW_BODY="true")

    assert server.request("POST", "/", b"\xff").text == "b'\\xff'"


def test_flask_answers_of_its_own_work(start: Start) -> None:
    handler = """
import io
from flask import Response, abort, make_response, redirect, render_template, request, send_file
def handle(req):
    p = request.path
    if p == "/abort": abort(403, "not you")
    if p == "/redirect": return redirect("/elsewhere")
    if p == "/file": return send_file(io.BytesIO(b"z" * 3_000_000), mimetype="x/y")
    if p == "/page": return render_template("page.html", name="<Ada>")
    return make_response(("made", 201))
"""
    files = {"handler.py": handler, "templates/page.html": "Hello {{ name }}"}
    server = start("python3-flask", files)

    assert server.get("/").status == 201
    assert server.get("/abort").status == 403
    assert server.get("/redirect").headers["Location"] == "/elsewhere"
    file = server.get("/file")
    assert (file.headers["Content-Type"], file.body) == ("x/y", b"z" * 3_000_000)
    assert server.get("/page").text == "Hello &lt;Ada&gt;"


@each_python
def test_modules_beside_the_handler_can_be_imported(start: Start, template: str) -> None:
    arguments = "event, context" if template == "python3-http" else "req"
    handler = f"from .words import greeting\ndef handle({arguments}): return greeting\n"
    server = start(template, {"handler.py": handler, "words.py": "greeting = 'ahoy'\n"})

    assert server.get("/").text == "ahoy"


@each_python
def test_a_handler_that_ends_its_process_is_told_apart(start: Start, template: str) -> None:
    arguments = "event, context" if template == "python3-http" else "req"
    server = start(template, {"handler.py": f"import sys\ndef handle({arguments}): sys.exit(3)\n"})
    answer = server.get("/")

    assert (answer.status, answer.headers["X-OpenFaaS-Internal"]) == (500, "of-watchdog")
    assert server.get("/_/health").status == 200


@each_python
def test_with_every_thread_stuck_it_is_unhealthy_until_one_returns(
    start: Start, template: str
) -> None:
    server = start(template, exec_timeout="300ms", max_inflight="2")
    with ThreadPoolExecutor(2) as pool:
        slow = [pool.submit(server.get, "/sleep?s=2") for _ in range(2)]
        assert [each.result().status for each in slow] == [504, 504]

    answer = server.get("/_/health")
    assert answer.status == 503
    assert "exec_timeout" in answer.text
    deadline = time.monotonic() + 5
    while server.get("/_/health").status != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@each_python
def test_what_runs_at_exit_runs(start: Start, template: str) -> None:
    arguments = "event, context" if template == "python3-http" else "req"
    handler = f"""
import atexit, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
atexit.register(print, "goodbye")
def handle({arguments}): return ""
"""
    server = start(template, {"handler.py": handler})
    server.terminate()

    assert server.ended(3) == 0
    assert "goodbye" in server.log


@each_python
def test_a_stream_is_closed_when_the_client_leaves(start: Start, template: str) -> None:
    arguments = "event, context" if template == "python3-http" else "req"
    handler = f"""
import time
def handle({arguments}): return pieces()
def pieces():
    try:
        while True:
            yield "x"
            time.sleep(0.01)
    finally: print("cleaned up")
"""
    server = start(template, {"handler.py": handler})
    with server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: f\r\n\r\n")
        assert client.recv(1)
    server.wait_for_log("cleaned up")


@each_python
def test_an_upload_in_pieces_of_any_size_arrives_whole(start: Start, template: str) -> None:
    server = start(template, RAW_BODY="true")
    body = io.BytesIO(bytes(range(256)) * 400)
    with server.connect() as client:
        client.sendall(
            b"POST /size HTTP/1.1\r\nHost: f\r\nConnection: close\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        sizes = (1, 7, 1000, 65536)
        for turn in range(100):
            piece = body.read(sizes[turn % 4])
            if piece:
                client.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        client.sendall(b"0\r\n\r\n")
        answer = client.recv(65536)

    assert answer.endswith(b"102400")

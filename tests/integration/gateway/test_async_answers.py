"""What becomes of asynchronous calls: answers that are read, attempts, cancelling, dead letters,
and bodies too large for the store. A real gateway, the real worker, functions byte by byte."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from core import keys
from core.errors import NotFound, Unavailable
from core.models import Observed
from core.origin import SANDBOX
from core.store.calls import INLINE, OVERDUE
from gateway.bodies import OLD, Bodies, Spool, answer_file
from tests.integration.gateway.calls import OK, ONCE, Callbacks, Platform, echo, platform
from tests.integration.gateway.harness import memory_mb
from tests.integration.gateway.test_gateway_invoke import read_body
from tests.waiting import until

MAX_BODY = 40 * 2**20
QUICK = {"com.openfaas.retry.min_wait": "10ms", "com.openfaas.retry.max_wait": "50ms"}
Handle = Callable[[socket.socket, bytes], None]


@pytest.fixture(scope="module", name="platform")
def platform_(valkey: str) -> Iterator[Platform]:
    sizes = {"SLIPWAY_ASYNC_MAX_BODY": str(MAX_BODY), "SLIPWAY_ASYNC_QUEUE": "200Mi"}
    with platform(valkey, 8, **sizes) as made:
        yield made


def read(platform: Platform, id_: str) -> dict[str, Any]:
    answer = platform.gateway.anonymous("GET", f"/async-function/{id_}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def over(platform: Platform, id_: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found = read(platform, id_)
        return found if found["state"] in ("done", "failed") else None

    return until(look, 20, platform.log)


def answers(*texts: bytes) -> tuple[list[bytes], Handle]:
    """Heads that came, and a function that answers so, the last one again and again."""
    heads: list[bytes] = []

    def handle(connection: socket.socket, head: bytes) -> None:
        read_body(connection, head)
        heads.append(head)
        connection.sendall(texts[min(len(heads), len(texts)) - 1])

    return heads, handle


def http(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def files(platform: Platform) -> list[str]:
    folder = platform.gateway.settings.calls
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_an_answer_is_read_by_the_id_of_the_call(platform: Platform) -> None:
    text = http("418 Teapot", "té".encode(), "Content-Type: text/x-tea", "X-Own: 1", "X-Own: 2")
    with platform.function("f.read", answers(text)[1]):
        id_ = platform.call("f.read/a?b", headers={"X-Call-Id": "mine"})
        found = over(platform, id_)
    assert found["id"] == id_
    assert (found["function"], found["state"], found["status"]) == ("f.read", "done", 418)
    assert (found["body"], found["length"], "bodyEncoding" in found) == ("té", 3, False)
    assert found["headers"]["X-Own"] == ["1", "2"]
    assert found["headers"]["Content-Type"] == ["text/x-tea"]
    assert (found["attempts"], found["reason"], found["nextAttemptAt"]) == (1, "", None)
    assert found["createdAt"] <= found["startedAt"] <= found["finishedAt"]


def test_what_is_no_text_is_base64_and_raw_it_comes_as_it_was(platform: Platform) -> None:
    body = bytes(range(256))
    with platform.function("f.raw", answers(http("200 OK", body, "Content-Type: text/html"))[1]):
        id_ = platform.call("f.raw")
        found = over(platform, id_)
    assert base64.b64decode(found["body"]) == body
    assert found["bodyEncoding"] == "base64"
    answer = platform.gateway.anonymous("GET", f"/async-function/{id_}?raw=1")
    assert (answer.status_code, answer.content) == (200, body)
    assert answer.headers["Content-Type"] == "text/html"
    assert answer.headers["Content-Security-Policy"] == SANDBOX
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert platform.gateway.anonymous("GET", f"/async-function/{id_}?raw=x").status_code == 400


def test_ids_that_are_nobodys(platform: Platform) -> None:
    with platform.function("f.nobody", echo([])):
        for method in ("GET", "DELETE"):
            for id_ in (
                str(uuid.uuid4()),
                str(uuid.uuid4()).upper(),
                "x",
                "no.where",
                "%2e%2e",
                "*",
            ):
                answer = platform.gateway.anonymous(method, f"/async-function/{id_}")
                assert answer.status_code == 404, id_
            answer = platform.gateway.anonymous(method, f"/async-function/{uuid.uuid4()}")
            assert "kept for 3600 s" in answer.text
            function = platform.gateway.anonymous(method, "/async-function/f.nobody")
            assert function.status_code == 405
            below = platform.gateway.anonymous(method, f"/async-function/{uuid.uuid4()}/x")
            assert below.status_code == 405


def test_while_it_runs_there_is_no_answer_yet(platform: Platform) -> None:
    free = threading.Event()

    def wait(connection: socket.socket, _: bytes) -> None:
        free.wait(60)
        connection.sendall(OK)

    with platform.function("f.runs", wait):
        id_ = platform.call("f.runs")
        until(lambda: read(platform, id_)["state"] == "running", 20, platform.log)
        found = read(platform, id_)
        assert (found["body"], found["status"], found["headers"]) == (None, None, {})
        assert platform.gateway.anonymous("GET", f"/async-function/{id_}?raw=1").status_code == 409
        free.set()
        assert over(platform, id_)["body"] == "ok"


# Attempts.


def test_a_call_that_fails_is_tried_again_and_told_once(platform: Platform) -> None:
    heads, handle = answers(http("500 Oops", b"no"), http("502 Oops"), http("200 OK", b"yes"))
    with platform.function("f.again", handle, QUICK) as upstream, Callbacks() as callbacks:
        id_ = platform.call("f.again", data=b"body", headers={"X-Callback-Url": callbacks.url})
        found = over(platform, id_)
        platform.idle()
        assert len(heads) == 3
        ids = {upstream.headers(n)["x-slipway-call-id"] for n in range(3)}
        assert ids == {id_}, "a function can tell that it is the same call"
        ((_, headers, body),) = callbacks.requests
    assert (found["state"], found["status"], found["attempts"]) == ("done", 200, 3)
    assert (body, headers["x-retry"], headers["x-retry-max"]) == (b"yes", "2", "10")


def test_attempts_are_used_up(platform: Platform) -> None:
    told = {**QUICK, "com.openfaas.retry.attempts": "2", "com.openfaas.retry.codes": "503"}
    heads, handle = answers(http("503 Busy", b"last", "Retry-After: 0"))
    with platform.function("f.used", handle, told), Callbacks() as callbacks:
        id_ = platform.call("f.used", headers={"X-Callback-Url": callbacks.url})
        found = over(platform, id_)
        platform.idle()
        ((_, headers, body),) = callbacks.requests
        assert len(heads) == 3
    assert (found["state"], found["status"], found["body"]) == ("failed", 503, "last")
    assert "answered 503, and 2 more times" in found["reason"]
    assert (body, headers["x-retry"], headers["x-retry-max"]) == (b"last", "2", "2")
    assert headers["x-function-status"] == "503"


def test_between_two_attempts_it_waits_as_long_as_the_function_asks(platform: Platform) -> None:
    def due(id_: str) -> float:
        found = until(lambda: read(platform, id_)["nextAttemptAt"] and read(platform, id_), 20)
        assert (found["state"], found["status"]) == ("queued", 429)
        score = platform.store.redis.zscore(keys.CALLS_DUE, id_)
        assert score is not None
        return float(score) - time.time()

    told = {"com.openfaas.retry.min_wait": "1s", "com.openfaas.retry.max_wait": "500s"}
    date = formatdate(time.time() + 300, usegmt=True)
    for name, value, low, high in (
        ("seconds", "200", 190, 225),
        ("date", date, 280, 335),
        ("huge", "999999", 490, 500),
    ):
        busy = http("429 Busy", b"", f"Retry-After: {value}")
        with platform.function(f"{name}.later", answers(busy)[1], told):
            id_ = platform.call(f"{name}.later")
            assert low <= due(id_) <= high, name
            assert platform.gateway.anonymous("DELETE", f"/async-function/{id_}").status_code == 202
            found = read(platform, id_)
            assert (found["state"], found["reason"]) == ("failed", "cancelled")
            assert found["nextAttemptAt"] is None
    assert platform.store.redis.zcard(keys.CALLS_DUE) == 0


def test_what_cannot_be_reached_is_tried_again(platform: Platform) -> None:
    """The function has no endpoint at first: no code of its own says anything."""
    told = {**QUICK, "com.openfaas.retry.codes": "418", "com.openfaas.retry.attempts": "100"}
    with platform.function("f.asleep", answers(OK)[1], told):
        gone = Observed(available=0, trouble="exited with status 1")
        platform.store.save_observed({"f.asleep": gone})
        id_ = platform.call("f.asleep")
        found = until(lambda: (f := read(platform, id_))["attempts"] > 1 and f, 20, platform.log)
        assert "no endpoints" in found["reason"]
        platform.observe()
        assert over(platform, id_)["state"] == "done"


# Cancelling.


def test_a_call_that_runs_is_cut_off_and_not_tried_again(platform: Platform) -> None:
    free = threading.Event()
    heads: list[bytes] = []

    def hang(_: socket.socket, head: bytes) -> None:
        heads.append(head)
        free.wait(60)

    with platform.function("f.cut", hang, QUICK), Callbacks() as callbacks:
        id_ = platform.call("f.cut", headers={"X-Callback-Url": callbacks.url})
        until(lambda: heads, 20, platform.log)
        answer = platform.gateway.anonymous("DELETE", f"/async-function/{id_}")
        assert (answer.status_code, answer.content) == (202, b"")
        found = over(platform, id_)
        assert (found["state"], found["reason"], found["body"]) == ("failed", "cancelled", None)
        free.set()
        platform.idle()
        assert len(heads) == 1
        assert callbacks.requests == []
        assert platform.gateway.anonymous("GET", f"/async-function/{id_}?raw=1").status_code == 404


def test_a_call_that_waits_is_never_made(platform: Platform) -> None:
    assert platform.end() == 0
    heads, handle = answers(OK)
    with platform.function("f.never", handle):
        id_ = platform.call("f.never", data=b"x" * (INLINE + 1))
        assert f"{id_}.body" in files(platform)
        for _ in range(2):
            answer = platform.gateway.anonymous("DELETE", f"/async-function/{id_}")
            assert answer.status_code == 202
        assert files(platform) == []
        other = platform.call("f.never")
        platform.start()
        over(platform, other)
        assert len(heads) == 1
        answer = platform.gateway.anonymous("DELETE", f"/async-function/{other}")
        assert (answer.status_code, "done already" in answer.text) == (409, True)


# Large bodies.


def test_large_bodies_pass_through_files_and_little_memory(platform: Platform) -> None:
    """Of the call, of its answer, of the callback, and of who reads it."""
    size = 30 * 2**20
    body = os.urandom(2**20) * 30
    bodies: list[bytes] = []

    def mirror(connection: socket.socket, head: bytes) -> None:
        bodies.append(read_body(connection, head))
        connection.sendall(http("200 OK", bodies[0], "Content-Type: application/x-own"))

    def reset(pid: int) -> None:
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc(5): of the peak

    assert platform.worker
    pids = (platform.gateway.worker(), platform.worker.pid)
    before = []
    for pid in pids:
        reset(pid)
        before.append(memory_mb(pid))
    with platform.function("f.large", mirror), Callbacks() as callbacks:
        id_ = platform.call("f.large", data=body, headers={"X-Callback-Url": callbacks.url})
        found = over(platform, id_)
        platform.idle()
        ((_, _, told),) = callbacks.requests
    assert bodies[0] == told == body
    assert (found["length"], found["body"]) == (size, None), "JSON has no such body"
    raw = platform.gateway.anonymous("GET", f"/async-function/{id_}?raw=1")
    assert (raw.content, raw.headers["Content-Length"]) == (body, str(size))
    (name,) = files(platform)
    assert name.startswith(id_)
    assert name.endswith(".answer"), "the call's own body is gone"
    path = platform.gateway.settings.calls / name
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    for pid, then in zip(pids, before, strict=True):
        assert memory_mb(pid) - then < 20, "of 30 MB that passed twice"


def test_who_reads_a_large_answer_has_a_place_and_so_long_for_it(platform: Platform) -> None:
    """Anybody may read: who reads slowly keeps neither threads nor memory from others."""
    with platform.function("f.slow", answers(http("200 OK", b"\0" * 2**20))[1]):
        id_ = platform.call("f.slow")
        over(platform, id_)
    head = f"GET /async-function/{id_} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    with ExitStack() as slow:
        for _ in range(4):
            line = socket.socket()
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            line.connect(("127.0.0.1", platform.gateway.settings.port))
            slow.enter_context(line).sendall(head)  # 6 MiB: of each byte six
            assert line.recv(12) == b"HTTP/1.1 200"
        refused = platform.gateway.anonymous("GET", f"/async-function/{id_}")
        assert (refused.status_code, "4 of the 16 places" in refused.text) == (503, True)
        begun = time.monotonic()
        until(
            lambda: platform.gateway.anonymous("GET", f"/async-function/{id_}").ok,
            40,
            platform.log,
        )
        assert time.monotonic() - begun < 30, "ten seconds, and one for each 256 KiB"


def test_a_body_above_the_limit_leaves_nothing(platform: Platform) -> None:
    with platform.function("f.over", echo([])):
        before = files(platform)

        def pieces() -> Iterator[bytes]:
            for _ in range(MAX_BODY // 2**20 + 1):
                yield b"x" * 2**20

        for data in (b"x" * (MAX_BODY + 1), pieces()):
            answer = platform.gateway.anonymous("POST", "/async-function/f.over", data=data)
            assert (answer.status_code, str(MAX_BODY) in answer.text) == (413, True)
        with socket.create_connection(("127.0.0.1", platform.gateway.settings.port), 10) as short:
            head = (
                b"POST /async-function/f.over HTTP/1.1\r\nHost: a\r\nContent-Length: 50000\r\n\r\n"
            )
            short.sendall(head + b"x" * 40_000)
            short.shutdown(socket.SHUT_WR)
            assert short.recv(4096).startswith(b"HTTP/1.1 400")
        assert files(platform) == before
        platform.idle()


def test_an_answer_above_the_limit_is_no_use_to_try_again(platform: Platform) -> None:
    endless = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MAX_BODY + 1)
    heads, handle = answers(endless)
    with platform.function("f.endless", handle, QUICK):
        found = over(platform, platform.call("f.endless"))
    assert (found["state"], found["status"], len(heads)) == ("failed", 502, 1)
    assert "SLIPWAY_ASYNC_MAX_BODY" in found["reason"]


def test_a_call_whose_body_is_gone_is_told_so(platform: Platform) -> None:
    assert platform.end() == 0
    with platform.function("f.gone", echo([]), QUICK):
        lost, torn = (platform.call("f.gone", data=b"x" * 20_000) for _ in range(2))
        folder = platform.gateway.settings.calls
        (folder / f"{lost}.body").unlink()
        os.truncate(folder / f"{torn}.body", 5)
        platform.start()
        for id_ in (lost, torn):
            found = over(platform, id_)
            assert (found["state"], "the body is gone" in found["reason"]) == ("failed", True)
            answer = platform.gateway.call("POST", f"/system/dead-letters/{id_}/replay")
            assert (answer.status_code, "gone" in answer.text) == (409, True)
            assert platform.gateway.call("DELETE", f"/system/dead-letters/{id_}").status_code == 204


@pytest.mark.root
def test_a_full_disk_is_told_and_nothing_is_half_kept(short_tmp: Path) -> None:
    folder = short_tmp / "calls"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    try:
        for reserve, why in ((0, "No space left"), (2**21, "are free")):
            bodies = Bodies(folder, reserve)
            with pytest.raises(Unavailable, match=why):
                bodies.take((b"x" * 2**16 for _ in range(40)), "name.body")
            assert list(folder.iterdir()) == []
        assert Bodies(folder, 0).take([b"small"], "name.body").data == b"small"
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_what_nobody_names_is_swept_once_it_is_old(short_tmp: Path) -> None:
    bodies = Bodies(short_tmp / "calls")
    assert bodies.sweep(lambda _: set()) == 0, "there is no folder yet"
    ids = [str(uuid.uuid4()) for _ in range(3)]
    for id_ in ids:
        bodies.take([b"x" * (INLINE + 1)], f"{id_}.body")
    answer = bodies.take([b"x" * (INLINE + 1)], answer_file(ids[0]))
    half = Spool(bodies)
    half.write(b"x" * (INLINE + 1))
    (bodies.folder / "notes.txt").touch()
    known = {ids[0]: {f"{ids[0]}.body", answer.file}, ids[1]: {"another.body"}}
    assert bodies.sweep(lambda id_: known.get(id_, set())) == 0, "all of it is young"
    for path in bodies.folder.iterdir():
        os.utime(path, (0, time.time() - OLD - 10))
    (bodies.folder / f"{ids[2]}.body").touch()
    assert bodies.sweep(lambda id_: known.get(id_, set())) == 3
    left = {f"{ids[0]}.body", answer.file, f"{ids[2]}.body"}
    assert {path.name for path in bodies.folder.iterdir()} == left
    half.drop()
    bodies.remove(["../../etc/passwd", "notes", f"{ids[0]}.body", f"{ids[0]}.body"])
    with pytest.raises(NotFound, match="gone"):
        bodies.kept(f"{ids[0]}.body", b"", 5).open()


# Dead letters.


def failing(platform: Platform, name: str, count: int, body: bytes = b"\xffbody") -> list[str]:
    """Ids of calls that failed for good."""
    ids = []
    headers = {"Authorization": "Bearer x", "X-Own": "1"}
    with platform.function(name, answers(http("500 Oops", b"why"))[1], ONCE):
        for _ in range(count):  # one after another: that is their order
            ids.append(platform.call(f"{name}/a?b", data=body, headers=headers))
            over(platform, ids[-1])
    return ids


def letters(platform: Platform, query: str = "") -> list[dict[str, Any]]:
    answer = platform.gateway.call("GET", f"/system/dead-letters{query}")
    assert answer.status_code == 200, answer.text
    return list(answer.json())


def test_dead_letters_are_shown_to_the_admin_alone(platform: Platform) -> None:
    first, second = failing(platform, "f.dead", 2)
    assert [each["id"] for each in letters(platform, "?namespace=dead")] == [second, first]
    assert [each["id"] for each in letters(platform, "?function=f.dead&limit=1")] == [second]
    assert [each["id"] for each in letters(platform, "?function=f&namespace=dead")]
    assert letters(platform, "?function=g.dead") == []
    (found, _) = letters(platform, "?namespace=dead")
    assert (found["function"], found["status"], found["attempts"]) == ("f.dead", 500, 1)
    assert (found["length"], found["reason"]) == (5, "the function answered 500")
    whole = platform.gateway.call("GET", f"/system/dead-letters/{first}").json()
    assert (whole["target"], whole["bodyEncoding"]) == ("/a?b", "base64")
    assert base64.b64decode(whole["body"]) == b"\xffbody"
    assert whole["headers"]["X-Own"] == ["1"]
    assert whole["headers"]["Authorization"] == ["…"]
    raw = platform.gateway.call("GET", f"/system/dead-letters/{first}?raw=1")
    assert (raw.content, raw.headers["Content-Security-Policy"]) == (b"\xffbody", SANDBOX)
    for method, path in (
        ("GET", ""),
        ("GET", f"/{first}"),
        ("POST", f"/{first}/replay"),
        ("POST", "/replay?function=f.dead"),
        ("DELETE", f"/{first}"),
    ):
        answer = platform.gateway.anonymous(method, f"/system/dead-letters{path}")
        assert answer.status_code == 401, path
    for path, status in (
        (f"/{uuid.uuid4()}", 404),
        ("/x", 400),
        ("?limit=0", 400),
        ("?function=F", 400),
        ("?function=f.dead&namespace=ann", 400),
    ):
        assert platform.gateway.call("GET", f"/system/dead-letters{path}").status_code == status


def test_one_is_replayed_under_its_own_id_and_callback(platform: Platform) -> None:
    body = os.urandom(INLINE * 3)
    (id_,) = failing(platform, "f.replay", 1, body)
    path = f"/system/dead-letters/{id_}/replay"
    platform.store.redis.hdel(keys.FUNCTIONS, "f.replay")
    answer = platform.gateway.call("POST", path)
    assert (answer.status_code, "waits for it" in answer.text) == (404, True)
    bodies: list[bytes] = []
    with platform.function("f.replay", echo(bodies)) as upstream:
        answer = platform.gateway.call("POST", path)
        assert (answer.status_code, answer.json()["replayed"]) == (202, [id_])
        assert platform.gateway.call("POST", path).status_code == 409
        found = over(platform, id_)
        assert (found["state"], found["attempts"], bodies) == ("done", 2, [body])
        assert upstream.headers()["authorization"] == "Bearer x"
    assert letters(platform, "?function=f.replay") == []
    assert platform.gateway.call("POST", path).status_code == 409
    assert f"{id_}.body" not in files(platform)


def test_all_of_a_function_are_replayed(platform: Platform) -> None:
    ids = failing(platform, "f.all", 3)
    failing(platform, "g.all", 1)
    path = "/system/dead-letters/replay"
    assert platform.gateway.call("POST", path).status_code == 400
    bodies: list[bytes] = []
    with platform.function("f.all", echo(bodies)):
        answer = platform.gateway.call("POST", f"{path}?function=f.all")
        assert answer.json() == {"replayed": ids, "left": 0, "reason": ""}
        for id_ in ids:
            over(platform, id_)
        assert len(bodies) == 3
        again = platform.gateway.call("POST", f"{path}?function=f&namespace=all")
        assert (again.status_code, again.json()["replayed"]) == (202, [])
    assert len(letters(platform, "?namespace=all")) == 1


def test_one_is_removed_with_its_body(platform: Platform) -> None:
    (id_,) = failing(platform, "f.gone2", 1, os.urandom(INLINE * 2))
    assert f"{id_}.body" in files(platform)
    path = f"/system/dead-letters/{id_}"
    assert [platform.gateway.call("DELETE", path).status_code for _ in range(2)] == [204, 404]
    assert f"{id_}.body" not in files(platform)
    assert platform.gateway.anonymous("GET", f"/async-function/{id_}").status_code == 404


# Deaths.


def test_a_worker_that_dies_between_answer_and_callback_makes_no_second_call(
    platform: Platform,
) -> None:
    """What was kept already is told by the next worker."""
    heads, handle = answers(http("200 OK", b"x" * 2 * INLINE))
    free = threading.Event()

    def hang(_: object) -> None:
        free.wait(60)

    with platform.function("f.half", handle), Callbacks(hang) as callbacks:
        id_ = platform.call("f.half", headers={"X-Callback-Url": callbacks.url})
        until(lambda: callbacks.requests, 20, platform.log)
        assert platform.worker
        platform.worker.kill()
        platform.worker.wait()
        assert read(platform, id_)["state"] == "done"
        (entry,) = platform.store.redis.xrange(keys.CALLS)
        silent = int(OVERDUE * 1000) + 1
        platform.store.redis.xclaim(
            keys.CALLS, keys.CALLS, "worker", 0, [entry[0]], idle=silent, justid=True
        )
        free.set()
        platform.start()
        until(lambda: len(callbacks.requests) == 2, 20, platform.log)
        platform.idle()
        assert [body for _, _, body in callbacks.requests] == [b"x" * 2 * INLINE] * 2
    assert len(heads) == 1


def test_killed_while_an_answer_comes_in_the_next_one_has_it_whole(platform: Platform) -> None:
    bodies: list[bytes] = []
    whole = os.urandom(INLINE * 4)

    def handle(connection: socket.socket, head: bytes) -> None:
        bodies.append(read_body(connection, head))
        connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(whole)}\r\n\r\n".encode())
        connection.sendall(whole if len(bodies) > 1 else whole[: INLINE * 2])
        if len(bodies) == 1:
            connection.settimeout(60)
            connection.recv(1)

    with platform.function("f.halfway", handle):
        body = os.urandom(INLINE * 2)
        id_ = platform.call("f.halfway", data=body)
        until(lambda: [name for name in files(platform) if name.startswith(".")], 20)
        assert platform.worker
        platform.worker.kill()
        platform.worker.wait()
        (entry,) = platform.store.redis.xrange(keys.CALLS)
        silent = int(OVERDUE * 1000) + 1
        platform.store.redis.xclaim(
            keys.CALLS, keys.CALLS, "worker", 0, [entry[0]], idle=silent, justid=True
        )
        platform.start()
        assert over(platform, id_)["attempts"] == 2
        assert bodies == [body, body]
        raw = platform.gateway.anonymous("GET", f"/async-function/{id_}?raw=1")
        assert raw.content == whole
    (orphan,) = [name for name in files(platform) if name.startswith(".")]
    path = platform.gateway.settings.calls / orphan
    os.utime(path, (0, time.time() - OLD - 10))
    assert platform.end() == 0
    platform.store.redis.delete(keys.lock("calls"))
    platform.start()  # it sweeps as it starts
    until(lambda: not path.exists(), 20, platform.log)

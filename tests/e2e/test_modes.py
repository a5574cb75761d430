"""The whole platform in its other forms: without the edge, and run by an ordinary user."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from core.settings import ROOT
from tests.conftest import missing
from tests.e2e.ordinary import BECOME, NOBODY
from tests.e2e.platform import Platform, fresh_folder, handler, running, stack
from tests.waiting import until

# ------------------------------------------------------------------------------- without the edge

LIVELY = """
import json
import os
import time

def slow_count():
    for number in range(3):
        yield f"{number}\\n"
        time.sleep(0.4)

def handle(event, context):
    if event.path == "/stream":
        return slow_count()
    if event.path == "/slow":
        time.sleep(2)
    if event.path == "/die":
        os._exit(3)
    return json.dumps({
        "method": event.method, "path": event.path, "query": dict(event.query),
        "body": event.body.decode(), "headers": {k.lower(): v for k, v in event.headers.items()},
    })
"""


@pytest.fixture(scope="module")
def plain() -> Iterator[Platform]:
    with fresh_folder() as folder, running(folder, SLIPWAY_EDGE="none") as up:
        files = {"p/handler.py": handler("v0"), "lively/handler.py": LIVELY}
        pushed = up.repository("ann", "plain").push({"stack.yml": stack("p", "lively"), **files})
        assert pushed.last.startswith("slipway: live"), pushed.text + up.logs()
        yield up


def test_without_the_edge_there_is_none_and_it_is_healthy(plain: Platform) -> None:
    health = plain.request("/healthz")
    assert health.status == 200
    assert health.json()["parts"] == dict.fromkeys(
        ["gateway", "store", "worker", "queue", "reporter", "controller"], "ok"
    )
    assert [each for each in plain.processes() if "haproxy" in each.name()] == []
    with pytest.raises(ProcessLookupError):
        plain.part("edge")


def test_without_the_edge_a_restart_of_the_gateway_loses_nothing(plain: Platform) -> None:
    """Connections wait in the socket, long requests and streams come to their end."""
    done = threading.Event()
    problems: list[object] = []
    answered = Counter[str]()

    def call(path: str, *, keep: bool = False) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", plain.port, timeout=60)
        while not done.is_set():
            try:
                connection.request("GET", f"/function/lively.ann{path}")
                answer = connection.getresponse()
                body = answer.read()
                if answer.status != 200 or (path == "/stream" and body != b"0\n1\n2\n"):
                    problems.append((path, answer.status, body))
            except (OSError, http.client.HTTPException) as error:
                problems.append((path, repr(error)))
            answered[path] += 1
            if not keep:
                connection.close()
        connection.close()

    threads = [
        threading.Thread(target=call, args=["/slow"]),
        threading.Thread(target=call, args=["/stream"]),
        threading.Thread(target=call, args=["/fresh"]),
        threading.Thread(target=call, args=["/kept"], kwargs={"keep": True}),
    ]
    for thread in threads:
        thread.start()
    until(lambda: answered["/slow"])
    restarted = plain.slipway("restart", "gateway", check=False)
    before = Counter(answered)
    until(lambda: all(answered[path] > before[path] + 1 for path in before), 30)
    done.set()
    for thread in threads:
        thread.join()
    assert restarted.returncode == 0, restarted.stderr
    assert problems == []
    refused = plain.slipway("restart", "edge", check=False)
    assert (refused.returncode, "SLIPWAY_EDGE=none" in refused.stderr) == (1, True)


def test_without_the_edge_functions_are_called(plain: Platform) -> None:
    told = plain.call("lively.ann", path="/a/b?x=1&y=%20").json()
    assert (told["method"], told["path"], told["query"]) == ("GET", "/a/b", {"x": "1", "y": " "})
    assert told["headers"]["x-call-id"]
    assert told["headers"]["x-forwarded-for"] == "127.0.0.1"
    posted = plain.call("lively.ann", b"some body")
    assert posted.json()["body"] == "some body"
    assert posted.json()["method"] == "POST"
    assert posted.headers["Content-Security-Policy"].startswith("sandbox")
    assert posted.headers["X-Call-Id"] == posted.json()["headers"]["x-call-id"]


def test_without_the_edge_answers_are_streamed(plain: Platform) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", plain.port, timeout=10)
    connection.request("GET", "/function/lively.ann/stream")
    answer = connection.getresponse()
    came = []
    while piece := answer.read1():
        came.append((time.monotonic(), piece))
    connection.close()
    assert b"".join(piece for _, piece in came) == b"0\n1\n2\n"
    assert came[-1][0] - came[0][0] > 0.6, "the first came while the last was not made yet"


def test_without_the_edge_unknown_is_404_and_unhealthy_503(plain: Platform) -> None:
    unknown = plain.call("nobody.ann")
    assert (unknown.status, "nobody.ann" in unknown.text) == (404, True)
    statuses = set()
    deadline = time.monotonic() + 20
    while "exited with status 3" not in (answer := plain.call("lively.ann", path="/die")).text:
        statuses.add(answer.status)
        assert time.monotonic() < deadline, statuses
    assert statuses <= {502, 503}, "it broke off, or refused, before we knew why"
    assert 502 in statuses
    assert answer.status == 503
    assert "no endpoints available for lively.ann" in answer.text
    assert answer.headers["Retry-After"]
    assert plain.call("p.ann").status == 200, "others are not concerned"
    while plain.call("lively.ann").status != 200:
        assert time.monotonic() < deadline, "it did not come back"
        time.sleep(0.1)


def test_without_the_edge_websockets_are_refused_with_a_reason(plain: Platform) -> None:
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    headers["Sec-WebSocket-Key"] = "AAAAAAAAAAAAAAAAAAAAAA=="
    answer = plain.request("/function/p.ann", headers=headers)
    assert answer.status == 501
    assert "SLIPWAY_EDGE=haproxy" in answer.text


def test_without_the_edge_slow_functions_leave_room_for_others(plain: Platform) -> None:
    clients = [http.client.HTTPConnection("127.0.0.1", plain.port, timeout=20) for _ in range(12)]
    try:
        for client in clients:
            client.request("GET", "/function/lively.ann/slow")
        times = []
        for _ in range(3):
            begun = time.monotonic()
            assert plain.request("/healthz").status == 200
            assert plain.call("p.ann").status == 200
            times.append(time.monotonic() - begun)
        assert min(times) < 1
        answers = [client.getresponse() for client in clients]
        assert [answer.status for answer in answers] == [200] * 12
    finally:
        for client in clients:
            client.close()
    assert plain.call("lively.ann").status == 200


def test_without_the_edge_a_release_loses_no_request(plain: Platform) -> None:
    seen: list[tuple[int, str]] = []
    failures: list[str] = []
    done = threading.Event()

    def keep_calling() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", plain.port, timeout=10)
        while not done.is_set():
            try:
                connection.request("GET", "/function/p.ann")
                answer = connection.getresponse()
                seen.append((answer.status, answer.read().decode()))
            except (OSError, http.client.HTTPException) as error:
                failures.append(repr(error))
                connection.close()
        connection.close()

    clients = [threading.Thread(target=keep_calling) for _ in range(3)]
    for client in clients:
        client.start()
    try:
        for version in ("v1", "v2"):
            pushed = plain.repository("ann", "plain").push({"p/handler.py": handler(version)})
            assert pushed.last.startswith("slipway: live"), pushed.text
            assert plain.call("p.ann").text == version
        time.sleep(0.5)
    finally:
        done.set()
        for client in clients:
            client.join()
    assert failures == []
    assert [told for told in seen if told[0] != 200] == []
    assert {text for _, text in seen} == {"v0", "v1", "v2"}


def test_without_the_edge_ctrl_c_and_a_new_start(plain: Platform) -> None:
    before = plain.call("p.ann").text
    assert plain.stop() == 0, plain.output()
    assert [process.cmdline() for process in plain.processes()] == []
    plain.start()
    deadline = time.monotonic() + 15
    while plain.call("p.ann").status != 200:
        assert time.monotonic() < deadline, plain.logs()
        time.sleep(0.1)
    assert plain.call("p.ann").text == before


# -------------------------------------------------------------------------------- an ordinary user

ASKING = """
import errno
import json
import os
import socket

def look(path):
    try:
        return os.listdir(path) if os.path.isdir(path) else open(path).read()
    except OSError as error:
        return errno.errorcode[error.errno]

def reach(address, port):
    with socket.socket() as client:
        client.settimeout(2)
        try:
            client.connect((address, port))
            return "connected"
        except OSError as error:
            return errno.errorcode[error.errno]

def connect(path):
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(path)
            return "connected"
        except OSError as error:
            return errno.errorcode[error.errno]

def handle(event, context):
    asked = json.loads(event.body)
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return json.dumps({
        "uid": os.getuid(),
        "capabilities": [v.strip() for k, v in lines.items() if k.startswith("Cap")],
        "locked": [lines["NoNewPrivs"].strip(), lines["Seccomp"].strip()],
        "files": {path: look(path) for path in asked["files"]},
        "sockets": [connect(path) for path in asked["sockets"]],
        "network": [reach(*target) for target in asked["network"]],
        "pids": sorted(int(each) for each in os.listdir("/proc") if each.isdigit()),
    })
"""


@pytest.fixture(scope="module")
def ordinary() -> Iterator[Platform]:
    """A platform that somebody other than root has started."""
    python = (*BECOME, sys.executable)
    tried = subprocess.run(
        [*python, "-P", "-c", "import cli.main"], cwd=ROOT, env={}, capture_output=True, check=False
    )
    if tried.returncode:
        missing(f"no ordinary user can be had here: {tried.stderr.decode()[-500:]}")
    with fresh_folder() as folder:
        if BECOME:
            os.chown(folder, NOBODY, NOBODY)
        up = Platform(folder, python=python)
        try:
            up.start()
            yield up
        finally:
            if up.process and up.process.poll() is None:
                up.stop()
            up.kill_everything()


def test_an_ordinary_user_pushes_and_is_answered(ordinary: Platform) -> None:
    assert "functions have no network: only root can make" in ordinary.output()
    assert ordinary.request("/healthz").status == 200
    user = NOBODY if BECOME else os.getuid()
    assert {process.uids().real for process in ordinary.processes()} == {user}
    assert (ordinary.folder / "state").stat().st_uid == user
    repository = ordinary.repository("ann", "mine")
    tested = (
        "from .handler import handle\n\ndef test_it():\n    assert handle(None, None) == 'v1'\n"
    )
    pushed = repository.push(
        {"stack.yml": stack("m"), "m/handler.py": handler("v1"), "m/handler_test.py": tested}
    )
    assert pushed.last.startswith("slipway: live"), pushed.text + ordinary.logs()
    assert ordinary.call("m.ann").text == "v1"
    failed = repository.push({"m/handler.py": handler("v2")})
    assert failed.last.startswith("slipway: failed"), failed.text
    assert "assert 'v2' == 'v1'" in failed.text
    assert ordinary.call("m.ann").text == "v1"


def test_an_ordinary_users_functions_are_fenced_in(ordinary: Platform) -> None:
    files = {"stack.yml": stack("spy"), "spy/handler.py": ASKING}
    pushed = ordinary.repository("eve", "spies").push(files)
    assert pushed.last.startswith("slipway: live"), pushed.text + ordinary.logs()
    state = ordinary.settings.state
    hidden = [state, ordinary.settings.password_file, state / "bundles", ordinary.folder]
    sockets = [each for each in ordinary.settings.run.rglob("*") if each.is_socket()]
    assert len(sockets) >= 4
    asked = {
        "files": ["/etc/shadow", *map(str, hidden)],
        "sockets": [str(each) for each in sockets],
        "network": [("127.0.0.1", ordinary.port), ("198.51.100.10", 80)],
    }
    found = ordinary.call("spy.eve", json.dumps(asked).encode()).json()
    assert set(found["files"].values()) == {"ENOENT"}
    assert set(found["sockets"]) == {"ENOENT"}
    assert found["network"] == ["ECONNREFUSED", "ENETUNREACH"]
    assert {int(each, 16) for each in found["capabilities"]} == {0}
    assert found["locked"] == ["1", "2"]
    assert found["pids"] == [1, 2]
    (program,) = _programs("spy.eve")
    inside = Path(f"/proc/{program.pid}/ns/user").readlink()
    assert inside != Path("/proc/self/ns/user").readlink(), "a user namespace of its own"
    assert program.uids().real == (NOBODY if BECOME else os.getuid())


def _programs(function: str) -> list[psutil.Process]:
    """The innermost processes of bubblewrap that hold a program of that function."""
    found = []
    for process in psutil.process_iter():
        # Others may end while they are looked at.
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            outer = process.parent() or process
            if (
                process.name().startswith("bwrap")
                and any(function in word for word in outer.cmdline())
                and process.children()
            ):
                found.append(process)
    return found


def test_an_ordinary_user_is_told_what_is_not_bounded(ordinary: Platform) -> None:
    told = json.loads(ordinary.slipway("config", "--output", "json").stdout)["enforced"]
    assert "user namespace" in told["identity"]
    assert "bubblewrap" in told["files"]
    assert told["system calls"] == "seccomp"
    assert told["network"].startswith("none but loopback")
    groups = [
        json.loads((each / "instance").read_text().partition("\n")[2])["process"]["cgroups"]
        for each in (ordinary.settings.instances).iterdir()
    ]
    bounded = "not bounded" not in told["memory"]
    assert all(bool(folders) == bounded for folders in groups), (told, groups)


def test_an_ordinary_user_stops_and_starts_it(ordinary: Platform) -> None:
    assert ordinary.stop() == 0, ordinary.output()
    assert ordinary.processes() == []
    ordinary.start()
    deadline = time.monotonic() + 15
    while ordinary.call("m.ann").status != 200:
        assert time.monotonic() < deadline, ordinary.logs()
        time.sleep(0.1)
    assert ordinary.call("m.ann").text == "v1"

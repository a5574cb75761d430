"""The main job: from ``git push`` to an HTTP answer."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time

import pytest

from tests.e2e.platform import Platform, handler, stack
from tests.waiting import until


def test_a_push_goes_live_and_tells_so(platform: Platform) -> None:
    repository = platform.repository("ann", "first")
    pushed = repository.push({"stack.yml": stack("hi"), "hi/handler.py": handler("hello")})
    assert pushed.status == 0, pushed.text
    assert pushed.last.startswith("slipway: live r"), pushed.text + platform.logs()
    assert f"{platform.url}/function/hi.ann" in pushed.text
    answer = platform.call("hi.ann")
    assert (answer.status, answer.text) == (200, "hello")
    release = platform.release("ann", "first")
    assert release["state"] == "live"
    assert [row["build"] for row in release["functions"]] == ["built"]
    assert release["functions"][0]["url"] == f"{platform.url}/function/hi.ann"


def test_a_change_replaces_and_loses_no_request(platform: Platform) -> None:
    repository = platform.repository("ann", "second")
    repository.push({"stack.yml": stack("two"), "two/handler.py": handler("v0")})
    seen: list[tuple[int, str]] = []
    done = threading.Event()

    def keep_calling() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", platform.port, timeout=10)
        while not done.is_set():
            connection.request("GET", "/function/two.ann")
            answer = connection.getresponse()
            seen.append((answer.status, answer.read().decode()))
        connection.close()

    clients = [threading.Thread(target=keep_calling) for _ in range(3)]
    for client in clients:
        client.start()
    for version in ("v1", "v2"):
        pushed = repository.push({"two/handler.py": handler(version)})
        assert pushed.last.startswith("slipway: live"), pushed.text
        assert platform.call("two.ann").text == version, "live is said after the routes moved"
    done.set()
    for client in clients:
        client.join()
    assert {status for status, _ in seen} == {200}
    assert {text for _, text in seen} == {"v0", "v1", "v2"}
    states = platform.request("/system/releases?namespace=ann&repository=second", admin=True)
    assert [release["state"] for release in states.json()] == ["live", "replaced", "replaced"]
    deadline = time.monotonic() + 20
    while platform.release("ann", "second")["receipt"] is None and time.monotonic() < deadline:
        time.sleep(0.2)
    receipt = platform.release("ann", "second")["receipt"]
    assert receipt["failed"] == 0
    assert receipt["requests"] > 0


def test_what_did_not_change_is_not_built(platform: Platform) -> None:
    repository = platform.repository("ann", "third")
    files = {"a3/handler.py": handler("a"), "b3/handler.py": handler("b")}
    repository.push({"stack.yml": stack("a3", "b3"), **files})
    before = {i.name for i in (platform.folder / "state" / "instances").glob("b3.ann-*")}
    repository.push({"a3/handler.py": handler("a2")})
    release = platform.release("ann", "third")
    assert {row["name"]: row["build"] for row in release["functions"]} == {
        "a3": "built",
        "b3": "reused",
    }
    assert platform.call("a3.ann").text == "a2"
    after = {i.name for i in (platform.folder / "state" / "instances").glob("b3.ann-*")}
    assert after == before, "an unchanged function keeps running"


def test_a_removed_function_goes(platform: Platform) -> None:
    repository = platform.repository("ann", "fourth")
    files = {"a4/handler.py": handler("a"), "b4/handler.py": handler("b")}
    repository.push({"stack.yml": stack("a4", "b4"), **files})
    assert platform.call("b4.ann").status == 200
    pushed = repository.push({"stack.yml": stack("a4")})
    assert pushed.last.startswith("slipway: live")
    assert platform.call("b4.ann").status == 404
    rows = {row["name"]: row["build"] for row in platform.release("ann", "fourth")["functions"]}
    assert rows == {"a4": "reused", "b4": "removed"}


def test_a_failing_test_stops_the_release(platform: Platform) -> None:
    repository = platform.repository("ann", "fifth")
    good = "from .handler import handle\n\ndef test_it():\n    assert handle(None, None) == 'v1'\n"
    pushed = repository.push(
        {"stack.yml": stack("t5"), "t5/handler.py": handler("v1"), "t5/handler_test.py": good}
    )
    assert pushed.last.startswith("slipway: live"), pushed.text
    pushed = repository.push({"t5/handler.py": handler("v2")})
    assert pushed.status == 0, "the push itself is stored"
    assert pushed.last.startswith("slipway: failed"), pushed.text
    assert "assert 'v2' == 'v1'" in pushed.text, "the test's own output reaches the push"
    assert platform.call("t5.ann").text == "v1"
    release = platform.release("ann", "fifth")
    assert release["state"] == "failed"
    assert "t5" in release["reason"]
    log = platform.request(f"/system/releases/{release['id']}/logs", admin=True).text
    assert "assert 'v2' == 'v1'" in log


def test_another_branch_is_stored_and_not_deployed(platform: Platform) -> None:
    repository = platform.repository("ann", "sixth")
    repository.push({"stack.yml": stack("s6"), "s6/handler.py": handler("main")})
    pushed = repository.push({"s6/handler.py": handler("branch")}, "HEAD:feature")
    assert pushed.status == 0
    assert "not deployed" in pushed.text
    assert platform.call("s6.ann").text == "main"


def test_node_and_flask_functions_run(platform: Platform) -> None:
    repository = platform.repository("ann", "langs")
    text = stack("n7", lang="node") + "\n".join(stack("f7", lang="python3-flask").splitlines()[4:])
    pushed = repository.push(
        {
            "stack.yml": text + "\n",
            "n7/handler.js": "module.exports = async (event, context) =>"
            " context.status(201).succeed({got: event.body.toString(), path: event.path})\n",
            "n7/package.json": '{"name": "n7", "version": "1.0.0"}\n',
            "f7/handler.py": "def handle(req):\n    return req.upper(), 202\n",
        }
    )
    assert pushed.last.startswith("slipway: live"), pushed.text + platform.logs()
    plain = {"Content-Type": "text/plain"}
    node = platform.request("/function/n7.ann/deep?q=1", method="POST", data=b"x", headers=plain)
    assert (node.status, node.json()["got"]) == (201, "x"), node.text
    assert node.json()["path"] == "/deep"
    flask = platform.call("f7.ann", b"abc")
    assert (flask.status, flask.text) == (202, "ABC")


def test_dependencies_are_installed(platform: Platform) -> None:
    repository = platform.repository("ann", "deps")
    code = "import humanize\n\ndef handle(event, context):\n    return humanize.intcomma(12345)\n"
    pushed = repository.push(
        {
            "stack.yml": stack("d8"),
            "d8/handler.py": code,
            "d8/requirements.txt": "humanize>=4\n",
        }
    )
    assert pushed.last.startswith("slipway: live"), pushed.text
    assert platform.call("d8.ann").text == "12,345"


def test_unknown_and_unhealthy_are_told_apart(platform: Platform) -> None:
    answer = platform.call("nobody.ann")
    assert answer.status == 404
    assert "nobody" in answer.text


def test_lists(platform: Platform) -> None:
    repository = platform.repository("ann", "lists")
    repository.push(
        {
            "stack.yml": stack("l9", environment='{A: "on", B: 1.10}', labels='{x: "0644"}'),
            "l9/handler.py": handler("x"),
        }
    )
    listed = platform.request("/system/functions?namespace=ann", admin=True).json()
    mine = next(each for each in listed if each["name"] == "l9")
    assert mine["namespace"] == "ann"
    assert mine["availableReplicas"] == 1
    assert mine["envVars"] == {"A": "on", "B": "1.10"}
    assert mine["labels"]["x"] == "0644"
    one = platform.request("/system/function/l9?namespace=ann", admin=True).json()
    assert one["name"] == "l9"
    assert platform.request("/system/functions").status == 401
    assert platform.request("/healthz").status == 200


@pytest.mark.skipif(os.geteuid() != 0, reason="only root forks functions")
def test_what_was_built_is_forked_once_its_owner_has_a_warm_parent(platform: Platform) -> None:
    repository = platform.repository("forks", "first")
    files = {
        "http/handler.py": handler("http"),
        "flask/handler.py": "def handle(req):\n  return ''",
    }
    text = stack("http", "flask").replace("lang: python3-http", "lang: python3-flask")
    text = text.replace("lang: python3-flask", "lang: python3-http", 1)
    pushed = repository.push({"stack.yml": text, **files})
    assert pushed.last.startswith("slipway: live"), pushed.text
    log = platform.folder / "state" / "log" / "controller.log"
    for name in ("http", "flask"):
        until(lambda name=name: f"forks-python3-{name}" in log.read_text(), why=platform.logs)
        platform.request(
            f"/system/scale-function/{name}.forks",
            method="POST",
            data=json.dumps({"serviceName": name, "replicas": 2}).encode(),
            admin=True,
        )
        until(lambda name=name: len(_monitors(platform, f"{name}.forks")) == 2)
        assert 0 in _monitors(platform, f"{name}.forks"), platform.logs()
        assert platform.call(f"{name}.forks").status == 200


def _monitors(platform: Platform, function: str) -> list[int]:
    """Of each replica that runs the process that watches over it; 0: it was forked."""
    found = []
    for document in (platform.folder / "state" / "instances").glob(f"{function}-*/instance"):
        told = json.loads(document.read_bytes().partition(b"\n")[2])
        if told["process"]:
            found.append(told["process"]["monitor"])
    return found

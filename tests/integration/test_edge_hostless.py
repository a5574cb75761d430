"""Owners whom the policy gives no host of their own (``domain: false``): edge and gateway together,
with a policy that changes while they run."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from core import queues
from core.models import Observed
from core.repositories import Repository
from core.store import Store
from gateway.policy import look
from runtime.edge import Route
from runtime.edge.collector import Collector
from tests.conftest import empty_store
from tests.integration.abuse import Recorder, status, told_by
from tests.integration.edge_harness import Proxy, before
from tests.integration.gateway.harness import Gateway, go_live, running
from tests.waiting import until

DOMAIN = "fn.example.com"
SPACES = ("ann", "ann--pr-5", "bob")
CLOSED = "policies: {ann: {domain: false}}"
SAYS = b"have no host of their own here: call them at http://"
Rule = Callable[[str], None]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    (made / "policy.yml").write_text("{}")
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def gateway(folder: Path, valkey: str) -> Iterator[Gateway]:
    policy = str(folder / "policy.yml")
    with running(folder, valkey, SLIPWAY_DOMAIN=DOMAIN, SLIPWAY_POLICY=policy) as found:
        yield found


@pytest.fixture(scope="module")
def there(gateway: Gateway) -> Iterator[Store]:
    with empty_store(gateway.settings.store_url) as store:
        for space in SPACES:
            known = Repository(
                namespace=space, name="hosts", source="git", deploy_branch="m", public=True
            )
            store.save_repository(known)
            release = store.create_release(known, "a" * 40, "m", again=True)
            queues.dispatch(store, known.key)
            go_live(store, release, ["f", "asleep"])
        yield store


@pytest.fixture
def proxy(gateway: Gateway) -> Iterator[Proxy]:
    with before(gateway.settings, DOMAIN) as proxy:
        yield proxy


@pytest.fixture
def function(proxy: Proxy, there: Store) -> Iterator[Recorder]:
    with Recorder(proxy.settings.run / "f.sock") as recorder:
        seen = Observed(available=1, endpoints=[recorder.endpoint])
        there.save_observed({f"f.{space}": seen for space in SPACES})
        yield recorder


@pytest.fixture
def rule(gateway: Gateway, there: Store, proxy: Proxy, function: Recorder) -> Rule:
    """Changes the policy's file; the gateway reads it, and the controller's next pass moves."""

    def change(text: str) -> None:
        Path(gateway.settings.policy).write_text(text)
        look(gateway.settings, there)
        hostless = there.hostless(gateway.settings, SPACES)
        proxy.edge.apply(
            {
                f"f.{space}": Route(
                    "r",
                    [function.endpoint],
                    patience=5.0 if space == "ann" else 0.0,
                    hostless=space in hostless,
                )
                for space in SPACES
            }
        )

    change("{}")
    return change


def ask(port: int, host: str, target: str, *headers: str) -> bytes:
    lines = [f"GET {target} HTTP/1.1", f"Host: {host}", *(headers or ("Connection: close",))]
    return told_by(port, "\r\n".join([*lines, "", ""]).encode())


def test_what_the_policy_says_holds_for_all_of_an_owner(
    gateway: Gateway, proxy: Proxy, rule: Rule
) -> None:
    def statuses(target: str = "/f/x") -> dict[str, set[int]]:
        """Of the edge, and of the gateway alone as with SLIPWAY_EDGE=none."""
        ports = (proxy.port, gateway.settings.port)
        return {
            space: {status(ask(port, f"{space}.{DOMAIN}", target)) for port in ports}
            for space in SPACES
        }

    everywhere = {space: {200} for space in SPACES}
    pid = proxy.edge._identify().pid
    assert statuses() == everywhere
    rule(CLOSED)
    assert statuses() == {"ann": {404}, "ann--pr-5": {404}, "bob": {200}}
    rule("{default: {domain: false}, policies: {ann: {domain: true}}}")
    assert statuses() == {"ann": {200}, "ann--pr-5": {200}, "bob": {404}}
    rule("{}")
    assert statuses() == everywhere
    assert proxy.edge._identify().pid == pid, "nothing was reloaded"


def test_nothing_answers_there(
    gateway: Gateway, proxy: Proxy, function: Recorder, rule: Rule
) -> None:
    rule(CLOSED)
    websocket = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    paths = ("/", "/f", "//f", "/f/x?y", "/asleep", "/none", "/healthz", "/system/functions")
    before = len(function.seen)
    for port in (proxy.port, gateway.settings.port):
        for space in ("ann", "ann--pr-5"):
            asked = [*((path, ()) for path in paths), ("/f", websocket), ("/asleep", websocket)]
            for path, headers in asked:
                answer = ask(port, f"{space}.{DOMAIN}", path, *headers)
                assert status(answer) == 404, answer
                assert SAYS in answer
                assert b"x-openfaas-internal: proxy" in answer.lower()
        assert status(ask(port, f"ANN.{DOMAIN}.:80", "/f")) == 404
    assert len(function.seen) == before
    for port in (proxy.port, gateway.settings.port):
        for host in ("elsewhere", DOMAIN):
            assert status(ask(port, host, "/function/f.ann/x")) == 200
    assert status(ask(proxy.inside_port, "edge", "/function/f.ann")) == 200


def test_a_change_loses_no_request(proxy: Proxy, rule: Rule) -> None:
    told: dict[str, set[int]] = {"by path": set(), "by host": set()}
    answers, stop = dict.fromkeys(told, 0), threading.Event()

    def client(name: str, host: str, target: str) -> None:
        while not stop.is_set():
            found, _, _ = proxy.get(target, headers={"Host": host})
            told[name].add(found)
            answers[name] += 1

    threads = [
        threading.Thread(target=client, args=each)
        for each in (
            ("by path", "elsewhere", "/function/f.ann"),
            ("by host", f"ann.{DOMAIN}", "/f"),
        )
    ]
    for thread in threads:
        thread.start()
    for text in (CLOSED, "{}") * 5:
        before = dict(answers)
        rule(text)
        until(lambda before=before: all(answers[name] > before[name] + 2 for name in told))
    stop.set()
    for thread in threads:
        thread.join()
    assert told == {"by path": {200}, "by host": {200, 404}}


def test_an_edge_that_was_restarted_knows_from_its_first_request(
    proxy: Proxy, function: Recorder, rule: Rule
) -> None:
    rule(CLOSED)
    for killed in (True, False):  # and no controller is there
        if killed:
            proxy.process.kill()
            proxy.process.wait()
            proxy.start()
        else:
            proxy.start(replaces=proxy.process.pid)
            until(lambda: proxy.processes[-2].poll() is not None)
        before = len(function.seen)
        assert status(ask(proxy.port, f"ann.{DOMAIN}", "/f")) == 404
        assert len(function.seen) == before
        assert status(ask(proxy.port, "elsewhere", "/function/f.ann")) == 200
        assert status(ask(proxy.port, f"bob.{DOMAIN}", "/f")) == 200


def test_it_is_no_request_of_the_function(proxy: Proxy, rule: Rule) -> None:
    """Else it would wake nobody, and yet keep them from falling asleep."""
    rule(CLOSED)
    collector = Collector(proxy.settings)
    collector.only(["f.ann"])
    collector.start()
    try:
        for _ in range(3):
            assert status(ask(proxy.port, f"ann.{DOMAIN}", "/f")) == 404
        assert status(ask(proxy.port, "elsewhere", "/function/f.ann")) == 200
        until(lambda: collector.counts()["f.ann"] > 0)  # the log is in order
        assert collector.counts() == {"f.ann": 1}
    finally:
        collector.stop()


def test_urls_that_are_told_answer(gateway: Gateway, there: Store, rule: Rule) -> None:
    def urls(space: str) -> list[str]:
        """As functions are listed, and as a release has them that was live before the change."""
        release = there.live_release(f"{space}/hosts")
        listed = gateway.call("GET", f"/system/functions?namespace={space}").json()
        one = gateway.call("GET", f"/system/function/f.{space}").json()
        rows = gateway.call("GET", f"/system/releases/{release}").json()["functions"]
        page = gateway.anonymous("GET", f"/releases/{release}").text
        (row,) = [each["url"] for each in rows if each["name"] == "f"]
        assert row in page
        return [next(e["url"] for e in listed if e["name"] == "f"), one["url"], row]

    port = gateway.settings.port
    host = f"http://ann.{DOMAIN}:{port}/f"
    assert urls("ann") == [host, host, "http://slipway.test/function/f.ann"]
    rule(CLOSED)
    for space in ("ann", "ann--pr-5"):
        assert urls(space) == [f"http://{DOMAIN}:{port}/function/f.{space}"] * 3
    assert urls("bob")[0] == f"http://bob.{DOMAIN}:{port}/f"
    settings = gateway.settings
    assert there.functions_url(settings, "ann") == f"http://{DOMAIN}:{port}"
    assert there.functions_url(settings, "bob") == f"http://*.{DOMAIN}:{port}"
    plain = replace(settings, domain="")
    assert there.hostless(plain, SPACES) == set()
    assert there.functions_url(plain, "ann") == there.functions_url(plain, "bob") == plain.user_url

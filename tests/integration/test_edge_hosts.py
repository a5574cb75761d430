"""Functions with hosts of their own, ``<namespace>.<domain>/<name>``: edge and gateway together."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import queues
from core.models import Observed
from core.repositories import Repository
from runtime.edge import Route
from tests.conftest import empty_store
from tests.integration.abuse import Recorder, status, told_by
from tests.integration.edge_harness import Proxy, before
from tests.integration.gateway.harness import Gateway, go_live, running

DOMAIN = "fn.example.com"
FUNCTIONS = {"ann": ["f", "system", "function", "asleep"], "openfaas-fn": ["dflt"]}
"""Of which one has no route at the edge."""
CSP = b"content-security-policy:"


@pytest.fixture(scope="module")
def gateway(valkey: str) -> Iterator[Gateway]:
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    with running(folder, valkey, SLIPWAY_DOMAIN=DOMAIN) as found:
        yield found
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def edge(gateway: Gateway) -> Iterator[Proxy]:
    """An edge in front of that gateway, on a state folder of its own."""
    with before(gateway.settings, DOMAIN) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def function(gateway: Gateway, edge: Proxy) -> Iterator[Recorder]:
    with (
        empty_store(gateway.settings.store_url) as store,  # others' functions are not to be found
        Recorder(edge.settings.run / "f.sock") as recorder,
    ):
        for namespace, names in FUNCTIONS.items():
            known = Repository(namespace=namespace, name="hosts", source="git", deploy_branch="m")
            store.save_repository(known)
            release = store.create_release(known, "a" * 40, "m", again=True)
            queues.dispatch(store, known.key)
            go_live(store, release, names)
        functions = [f"{name}.{space}" for space, names in FUNCTIONS.items() for name in names]
        there = Observed(available=1, endpoints=[recorder.endpoint])
        store.save_observed(dict.fromkeys(functions, there))
        awake = [each for each in functions if each != "asleep.ann"]
        edge.edge.apply({each: Route("r", [recorder.endpoint]) for each in awake})
        yield recorder


@pytest.fixture(params=["edge", "gateway"])
def port(request: pytest.FixtureRequest, edge: Proxy, gateway: Gateway) -> int:
    return edge.port if request.param == "edge" else gateway.settings.port


def ask(port: int, host: str, target: str) -> bytes:
    head = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    return told_by(port, head.encode("latin-1"))


@pytest.mark.parametrize(
    ("host", "target", "seen"),
    [
        (f"ann.{DOMAIN}", "/f", "/"),
        (f"ann.{DOMAIN}", "/f/", "/"),
        (f"ann.{DOMAIN}", "/f?x=/y?z", "/?x=/y?z"),
        (f"ann.{DOMAIN}", "/f//a/../b%2Fc?d", "//a/../b%2Fc?d"),
        (f"ann.{DOMAIN}", "/f/../../system/functions", "/../../system/functions"),
        (f"ANN.Fn.Example.COM:{8080}", "/f/x", "/x"),
        (f"ann.{DOMAIN}.:443", "/f/x", "/x"),
        (f"ann.{DOMAIN}", f"http://ann.{DOMAIN}/f/x", "/x"),
        (f"openfaas-fn.{DOMAIN}", "/dflt/x", "/x"),
        (f"ann.{DOMAIN}", "/system/functions", "/functions"),
        (f"ann.{DOMAIN}", "/function/f.ann", "/f.ann"),
        (f"ann.{DOMAIN}", "/asleep/x//y?z", "/x//y?z"),
    ],
)
def test_it_leads_to_the_function(
    function: Recorder, port: int, host: str, target: str, seen: str
) -> None:
    answer = ask(port, host, target)
    assert answer.endswith(f"GET {seen} HTTP/1.1".encode()), answer
    assert CSP not in answer.lower(), "it is an origin of its own"
    assert b"x-call-id: " in answer.lower()
    assert function.seen[-1].all("host") == [host]


@pytest.mark.parametrize(
    ("host", "target"),
    [
        (f"ann.{DOMAIN}", "/"),
        (f"ann.{DOMAIN}", "//f"),
        (f"ann.{DOMAIN}", "/%66"),
        (f"ann.{DOMAIN}", "/healthz"),
        (f"ann.{DOMAIN}", "/webhooks/github"),
        (f"ann.{DOMAIN}", "/git/ann/fns.git/info/refs?service=git-upload-pack"),
        (f"ann.{DOMAIN}", "/../system/functions"),
        (f"ann.{DOMAIN}", "/%2e%2e/system/functions"),
        (f"ann.{DOMAIN}", "/F"),
        (f"ann.{DOMAIN}", "/f.ann"),
        (f"bob.{DOMAIN}", "/f"),
        (f"bob.{DOMAIN}", "/system/functions"),
        (f"bob.{DOMAIN}", "/f.ann"),
        (f"x.ann.{DOMAIN}", "/f"),
        (f"x.ann.{DOMAIN}", "/system/functions"),
        (f".{DOMAIN}", "/system/functions"),
        (f"a_n.{DOMAIN}", "/system/functions"),
    ],
)
def test_nothing_else_is_served_there(
    function: Recorder, port: int, host: str, target: str
) -> None:
    before = len(function.seen)
    answer = ask(port, host, target)
    if host.startswith("."):
        assert status(answer) == 400, answer
    else:
        assert status(answer) == 404, answer
        assert b"function" in answer.partition(b"\r\n\r\n")[2]
    assert len(function.seen) == before


@pytest.mark.usefixtures("function")
def test_the_front_of_a_host_says_what_it_is(port: int) -> None:
    assert b"this host has the functions of ann" in ask(port, f"ann.{DOMAIN}", "/")


@pytest.mark.usefixtures("function")
def test_a_host_that_is_none_says_why(gateway: Gateway) -> None:
    port = gateway.settings.port
    assert b"one label stands before fn.example.com" in ask(port, f"x.ann.{DOMAIN}", "/f")
    for host in (f"ann.{DOMAIN}..", f".{DOMAIN}", f"ann..{DOMAIN}"):
        told = ask(port, host, "/f")
        assert status(told) == 400
        assert b"is not that of one host" in told


@pytest.mark.parametrize(
    "host", [DOMAIN, f"{DOMAIN}:80", f"{DOMAIN}.", "127.0.0.1", "ann.fn-example.com"]
)
@pytest.mark.usefixtures("function")
def test_other_hosts_are_the_platforms(port: int, host: str) -> None:
    assert status(ask(port, host, "/system/functions")) == 401
    answer = ask(port, host, "/function/f.ann/x")
    assert answer.endswith(b"GET /x HTTP/1.1")
    assert CSP in answer.lower(), "it shares the origin with /system"


@pytest.mark.usefixtures("function")
def test_a_function_asks_by_the_path_alone(edge: Proxy) -> None:
    """From inside, a host changes nothing: what functions may reach is told by the path."""
    assert status(ask(edge.inside_port, f"ann.{DOMAIN}", "/f")) == 403
    assert status(ask(edge.inside_port, f"ann.{DOMAIN}", "/system/functions")) == 403

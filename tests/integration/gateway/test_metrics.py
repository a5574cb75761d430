"""``/metrics`` of a real gateway, with a function that it calls itself: there is no edge."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from core.models import Observed
from core.store import Store
from core.store.metrics import Tally
from tests.integration.gateway.harness import Gateway, Upstream, deploy, exchange, running
from tests.waiting import until

STARTED = "gateway_function_invocation_started"
TOTAL = "gateway_function_invocation"
"""The parser takes the suffix off."""


def scrape(gateway: Gateway) -> dict[str, Metric]:
    answer = gateway.call("GET", "/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return {family.name: family for family in text_string_to_metric_families(answer.text)}


def counts(gateway: Gateway, family: str = TOTAL) -> dict[tuple[str, ...], float]:
    """Labels' values by the labels' names in order → value, of a counter or histogram's count."""
    found = scrape(gateway).get(family)
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for sample in (found.samples if found else [])
        if not sample.name.endswith(("_bucket", "_sum"))
    }


def answer_as_asked(connection: object, head: bytes) -> None:
    """``/<status>``"""
    status = head.split(b" ")[1].lstrip(b"/") or b"200"
    connection.sendall(  # type: ignore[attr-defined]  # a socket
        b"HTTP/1.1 " + status + b" It\r\nContent-Length: 2\r\n\r\nok"
    )


def test_requests_are_counted_by_function_and_code(
    valkey: str, store: Store, short_tmp: Path
) -> None:
    with (
        running(short_tmp, valkey) as gateway,
        Upstream(short_tmp / "f.sock", answer_as_asked) as upstream,
    ):
        deploy(store, "f.met", [upstream.address])
        for status in (200, 200, 200, 404, 500, 599, 299):
            gateway.anonymous("GET", f"/function/f.met/{status}")
        gateway.anonymous("POST", "/function/f.met/201", data=b"x")
        for made_up in ("nobody.met", "f", "a" * 500, "F.met", "f.met%22%7D%20evil", "{}"):
            gateway.anonymous("GET", f"/function/{made_up}")
        exchange(gateway, b'GET /function/"}\n# HELP evil HTTP/1.1\r\nHost: a\r\n\r\n')
        expected = {
            ("200", "f.met"): 4,
            ("201", "f.met"): 1,
            ("404", "f.met"): 1,
            ("500", "f.met"): 2,
        }
        until(lambda: counts(gateway) == expected, 10, lambda: str(counts(gateway)))
        assert counts(gateway, "gateway_functions_seconds") == expected
        assert counts(gateway, STARTED) == {("f.met",): 8}
        assert counts(gateway, "gateway_service_count") == {("f.met",): 1}
        assert store.counts()["f.met"] == 8
        (told,) = gateway.call("GET", "/system/functions?namespace=met").json()
        assert told["invocationCount"] == 8
        store.save_observed({"f.met": Observed(available=0, trouble="exited with status 1")})
        assert gateway.anonymous("GET", "/function/f.met").status_code == 503
    # Nothing is lost by an orderly end, and nothing goes back when the gateway is another one.
    with running(short_tmp, valkey) as gateway:
        assert counts(gateway) == expected | {("503", "f.met"): 1}


def test_the_api_is_counted_by_route(gateway: Gateway, store: Store) -> None:
    family = "provider_http_request_duration_seconds"
    gateway.call("GET", "/system/functions?namespace=x")
    gateway.call("GET", "/system/function/one?namespace=x")
    gateway.call("GET", "/system/function/two?namespace=x")
    gateway.anonymous("GET", "/system/info")
    gateway.call("PATCH", "/system/info")
    gateway.call("GET", "/system/made/up")
    gateway.call("GET", "/healthz")
    expected = {
        ("200", "GET", "/system/functions"): 1,
        ("404", "GET", "/system/function/{name}"): 2,
        ("401", "GET", "/system/info"): 1,
    }
    until(lambda: expected.items() <= counts(gateway, family).items(), 10)
    found = counts(gateway, family)
    assert counts(gateway, "provider_http_requests") == found
    assert {path for _, _, path in found if "made" in path or "one" in path} == set()
    assert store.counts() == {}


def test_it_is_for_the_admin_and_tells_of_the_process(gateway: Gateway, store: Store) -> None:
    assert gateway.anonymous("GET", "/metrics").status_code == 401
    tally = Tally("test")
    tally.add("gone.met", "200", 1)
    tally.hand_over(store)
    families = scrape(gateway)
    assert families["process_resident_memory_bytes"].samples[0].value > 2**20
    assert families[TOTAL].samples == [], "of functions that there are"

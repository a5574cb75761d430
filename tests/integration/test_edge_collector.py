"""The collector behind a real HAProxy: counts, breaks, receipts."""

from __future__ import annotations

import socket
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.settings import Settings
from core.store import Store
from core.store.metrics import BUCKETS
from runtime.edge.collector import Collector
from tests.integration.edge_harness import Proxy
from tests.waiting import until


@pytest.fixture
def proxy(short_tmp: Path) -> Iterator[Proxy]:
    proxy = Proxy(Settings.from_env({"SLIPWAY_STATE": str(short_tmp)}))
    yield proxy
    proxy.close()


@pytest.fixture
def collector(proxy: Proxy) -> Iterator[Collector]:
    collector = Collector(proxy.settings)
    collector.start()
    yield collector
    collector.stop()


def test_function_requests_are_counted_and_nothing_else(proxy: Proxy, collector: Collector) -> None:
    function = proxy.function("f")
    collector.only(["f.ann", "asleep.ann", "bare.openfaas-fn", "idle.ann"])
    proxy.route({"f.ann": function, "bare.openfaas-fn": function})
    for _ in range(5):
        proxy.get("/function/f.ann")
    proxy.get("/function/f.ann?status=500")
    proxy.get("/function/bare")
    proxy.get("/function/bare.openfaas-fn")
    proxy.get("/function/asleep.ann")
    proxy.get("/function/unknown.ann?status=404")
    for path in ("/", "/system/functions", "/function"):
        proxy.get(path)
    proxy.get("/function/" + "x" * 3000)
    expected = {"f.ann": 6, "asleep.ann": 1, "bare.openfaas-fn": 2, "idle.ann": 0}
    until(lambda: collector.counts() == expected)


def test_made_up_names_are_not_counted(proxy: Proxy, collector: Collector) -> None:
    """Neither if the client goes before the answer, nor while the gateway is down."""
    collector.only(["f.ann"])
    proxy.route({"f.ann": proxy.function("f")})
    window = collector.begin_window(["gone.ann", "down.ann"])
    with socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.sendall(b"GET /function/gone.ann?sleep=1 HTTP/1.1\r\nHost: h\r\n\r\n")
        until(lambda: proxy.gateway.calls == 1)
    until(lambda: window.requests == 1)
    proxy.gateway.close()
    assert proxy.get("/function/down.ann")[0] == 503
    proxy.get("/function/f.ann")
    until(lambda: collector.counts().get("f.ann") == 1)
    assert collector.counts() == {"f.ann": 1}
    receipt = window.close()
    assert (receipt.requests, receipt.failed) == (2, 1)


def test_failures_of_the_platform_are_told_apart(proxy: Proxy, collector: Collector) -> None:
    proxy.route({"f.ann": proxy.function("f")})
    windows = {name: collector.begin_window([name]) for name in ("f.ann", "asleep.ann")}
    proxy.get("/function/f.ann?status=503")
    proxy.raw(
        b"POST /function/f.ann?abort=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n"
        b"Connection: close\r\n\r\n"
    )
    proxy.get("/function/asleep.ann?status=503")
    until(lambda: [each.requests for each in windows.values()] == [2, 1])
    receipts = {name: window.close() for name, window in windows.items()}
    assert {name: each.failed for name, each in receipts.items()} == {"f.ann": 1, "asleep.ann": 1}


def test_lines_wait_for_a_collector_that_comes_later(proxy: Proxy) -> None:
    proxy.route({"f.ann": proxy.function("f")})
    for _ in range(5):
        proxy.get("/function/f.ann")
    collector = Collector(proxy.settings)
    collector.only(["f.ann"])
    collector.start()
    try:
        until(lambda: collector.counts() == {"f.ann": 5})
    finally:
        collector.stop()


def test_next_collector_repeats_nothing_and_misses_little(proxy: Proxy) -> None:
    """The edge notices the break by a write that fails, and loses what was in that one."""
    proxy.route({"f.ann": proxy.function("f")})
    sent = told = 0
    for _ in range(3):
        collector = Collector(proxy.settings)
        collector.only(["f.ann"])
        collector.start()
        try:
            for _ in range(10):
                proxy.get("/function/f.ann")
                time.sleep(0.02)
            sent += 10
            until(lambda collector=collector: collector.counts().get("f.ann", 0) >= 8)
            time.sleep(0.3)
            told += collector.counts()["f.ann"]
        finally:
            collector.stop()
        for _ in range(3):
            proxy.get("/function/f.ann")
            time.sleep(0.02)
        sent += 3
    assert sent - 3 * 3 - 3 <= told <= sent


def test_receipt_of_a_switch(proxy: Proxy, collector: Collector) -> None:
    collector.only(["f.ann", "other.ann"])
    old, new = proxy.function("old"), proxy.function("new")
    proxy.route({"f.ann": old, "other.ann": old})
    proxy.get("/function/f.ann")
    until(lambda: collector.counts() == {"f.ann": 1, "other.ann": 0})
    window = collector.begin_window(["f.ann"])
    slow = threading.Thread(target=lambda: proxy.get("/function/f.ann?sleep=0.5"))
    slow.start()
    time.sleep(0.1)
    proxy.route({"f.ann": new, "other.ann": old})
    slow.join()
    for _ in range(10):
        proxy.get("/function/f.ann")
        proxy.get("/function/other.ann")
    until(lambda: collector.counts() == {"f.ann": 12, "other.ann": 10})
    receipt = window.close()
    assert (receipt.requests, receipt.failed) == (11, 0)
    assert 450 < receipt.longest_gap_ms < 3000
    proxy.get("/function/f.ann")
    until(lambda: collector.counts()["f.ann"] == 13)
    assert window.requests == 11


def test_metrics_of_requests_through_the_edge(
    proxy: Proxy, collector: Collector, store: Store
) -> None:
    """N requests with these ends give these counts, buckets and sums; made-up names none."""
    collector.only(["f.ann", "down.ann"])
    proxy.route({"f.ann": proxy.function("f")})
    for status in (200, 200, 200, 204, 404, 500, 599, 432):
        proxy.get(f"/function/f.ann?status={status}")
    proxy.get("/function/f.ann?sleep=0.3")
    for name in ("unknown.ann", "f.ann%22%7D", "..", "F.ANN"):
        proxy.get(f"/function/{name}")
    with socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.sendall(b"GET /function/f.ann?sleep=1 HTTP/1.1\r\nHost: h\r\n\r\n")
        until(lambda: proxy.servers["f"].calls == 10)
    proxy.gateway.close()
    assert proxy.get("/function/down.ann")[0] == 503
    until(lambda: collector.counts() == {"f.ann": 10, "down.ann": 1})
    collector.tally.hand_over(store)
    collector.tally.hand_over(store)
    assert collector.counts() == {"f.ann": 0, "down.ann": 0}
    assert store.counts() == {"f.ann": 10, "down.ann": 1}
    traffic = store.traffic(["f.ann", "down.ann"])
    assert {code: each.requests for code, each in traffic.pop("down.ann").items()} == {"503": 1}
    ended = traffic["f.ann"]
    assert {code: each.requests for code, each in ended.items()} == {
        **{"200": 4, "204": 1, "404": 1, "500": 2, "400": 1},
        "499": 1,  # the client that went away
    }
    slow = ended["200"]
    assert sum(slow.buckets[bisect_left(BUCKETS, 0.3) :]) == 1
    assert 0.3e6 <= slow.microseconds < 3e6


def test_the_controller_s_gone_functions_are_not_handed_over(
    proxy: Proxy, collector: Collector, store: Store
) -> None:
    collector.only(["f.ann", "gone.ann"])
    for name in ("f.ann", "gone.ann"):
        proxy.get(f"/function/{name}")
    until(lambda: collector.counts() == {"f.ann": 1, "gone.ann": 1})
    collector.only(["f.ann"])
    collector.tally.hand_over(store)
    assert store.counts() == {"f.ann": 1}

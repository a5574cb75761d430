"""The text of ``/metrics``, read by Prometheus' own client, and what is counted how."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import pairwise

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from redis.exceptions import ConnectionError as RedisConnectionError

from core import keys
from core.store import Store
from core.store.metrics import BUCKETS, SYSTEM, Series, Tally, Traffic, code
from gateway.metrics import exposition


def parsed(replicas: Mapping[str, int], traffic: Traffic) -> dict[str, Metric]:
    text = "".join(exposition(replicas, traffic))
    return {family.name: family for family in text_string_to_metric_families(text)}


def series(*seconds: float) -> Series:
    tally = Tally("test")
    for each in seconds:
        tally.add("f", "200", each)
    return tally._fresh["f"]["200"]


def test_names_types_and_labels() -> None:
    text = "".join(
        exposition(
            {"f.ann": 2}, {"f.ann": {"200": series(0.1)}, SYSTEM: {"404 GET /system/x": series(1)}}
        )
    )
    types = [line.split()[2:] for line in text.splitlines() if line.startswith("# TYPE")]
    assert types == [
        ["gateway_functions_seconds", "histogram"],
        ["gateway_function_invocation_total", "counter"],
        ["gateway_function_invocation_started", "counter"],
        ["slipway_edge_lost_requests_total", "counter"],
        ["gateway_service_count", "gauge"],
        ["provider_http_requests_total", "counter"],
        ["provider_http_request_duration_seconds", "histogram"],
    ]
    assert '\ngateway_function_invocation_started{function_name="f.ann"} 1\n' in text
    labels = {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert labels == {
        "gateway_functions_seconds_bucket": {"function_name", "code", "le"},
        "gateway_functions_seconds_sum": {"function_name", "code"},
        "gateway_functions_seconds_count": {"function_name", "code"},
        "gateway_function_invocation_total": {"function_name", "code"},
        # As this parser names every counter; Prometheus itself does not.
        "gateway_function_invocation_started_total": {"function_name"},
        "gateway_service_count": {"function_name"},
        "provider_http_requests_total": {"code", "method", "path"},
        "provider_http_request_duration_seconds_bucket": {"code", "method", "path", "le"},
        "provider_http_request_duration_seconds_sum": {"code", "method", "path"},
        "provider_http_request_duration_seconds_count": {"code", "method", "path"},
    }


def test_a_histogram_agrees_with_itself_and_with_what_was_observed() -> None:
    took = [0, 0.005, 0.0051, 0.3, 2.5, 9, 10, 10.1, 4000]
    found = parsed({"f.ann": 1}, {"f.ann": {"200": series(*took)}})["gateway_functions_seconds"]
    buckets = {s.labels["le"]: s.value for s in found.samples if s.name.endswith("_bucket")}
    assert list(buckets) == [
        *("0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf")
    ]
    for le, value in buckets.items():
        assert value == sum(each <= float(le) for each in took), le
    assert all(one <= next_ for one, next_ in pairwise(buckets.values()))
    (total,) = [s.value for s in found.samples if s.name.endswith("_sum")]
    (count,) = [s.value for s in found.samples if s.name.endswith("_count")]
    assert total == pytest.approx(sum(took), abs=1e-5)
    assert count == len(took) == buckets["+Inf"]


def test_functions_without_a_request_have_their_replicas_alone() -> None:
    found = parsed({"idle.ann": 0, "f.ann": 3}, {"f.ann": {"200": series(1), "500": series(1, 2)}})
    started = found["gateway_function_invocation_started"].samples
    assert [(s.labels["function_name"], s.value) for s in started] == [("f.ann", 3)]
    replicas = found["gateway_service_count"].samples
    assert {s.labels["function_name"]: s.value for s in replicas} == {"f.ann": 3, "idle.ann": 0}
    assert parsed({}, {})["gateway_service_count"].samples == []


def test_what_a_function_answers_makes_few_series() -> None:
    assert {code(status) for status in (200, 404, 499, 503)} == {"200", "404", "499", "503"}
    assert [code(status) for status in (299, 432, 599, 600, 999, 0, -1, 10**9)] == [
        *("200", "400", "500", "500", "500", "500", "500", "500")
    ]
    assert len({code(status) for status in range(-10, 2000)}) < 70


def test_ten_thousand_functions() -> None:
    replicas = {f"f{number}.ann": 1 for number in range(10_000)}
    traffic = {name: {"200": series(0.1), "500": series(1)} for name in replicas}
    begun = time.monotonic()
    text = "".join(exposition(replicas, traffic))
    assert time.monotonic() - begun < 20  # it takes half a second
    assert text.count("\n") == 10_000 * (2 * (len(BUCKETS) + 1 + 2) + 2 + 1 + 1) + 14


# Handing over.


def test_lost_requests_are_counted_apart(store: Store) -> None:
    """They began; how they would have ended, and after what time, nobody knows."""
    tally = Tally("edge")
    tally.add("f.ann", "200", 0.1)
    tally.lose("f.ann", 3)
    tally.hand_over(store)
    assert store.counts() == {"f.ann": 4}
    text = "".join(exposition({"f.ann": 1}, store.traffic(["f.ann"])))
    assert '\nslipway_edge_lost_requests_total{function_name="f.ann"} 3\n' in text
    assert '\ngateway_function_invocation_started{function_name="f.ann"} 4\n' in text
    assert 'gateway_functions_seconds_count{function_name="f.ann",code="200"} 1\n' in text
    assert 'code="lost"' not in text


def test_what_is_handed_over_is_counted_once(store: Store) -> None:
    """Also where the answer to it was lost."""
    tally = Tally("edge")

    class Lossy(Store):
        def _transaction(self, *arguments: object) -> object:
            super()._transaction(*arguments)  # type: ignore[arg-type]  # handed through
            raise RedisConnectionError("the answer was lost")

    lossy = Lossy(store.redis)
    for _ in range(3):
        tally.add("f.ann", "200", 0.2)
    for _ in range(2):
        with pytest.raises(RedisConnectionError):
            tally.hand_over(lossy)
        tally.add("f.ann", "500", 7)
    tally.hand_over(store)
    assert store.counts() == {"f.ann": 5}, "what was left over, and what came since"
    found = store.traffic(["f.ann", "g.ann"])
    assert found == {"f.ann": {"200": series(0.2, 0.2, 0.2), "500": series(7, 7)}}


def test_writers_do_not_hinder_one_another(store: Store) -> None:
    one, two = Tally("edge"), Tally("gateway")
    for tally in (one, two, one):
        tally.add("f.ann", "200", 0.1)
        tally.add(SYSTEM, "200 GET /system/info", 0.1)
        tally.hand_over(store)
    assert store.counts() == {"f.ann": 3}, "requests to /system are no invocations"
    assert store.traffic([SYSTEM])[SYSTEM]["200 GET /system/info"].requests == 3


def test_two_processes_of_a_restart_do_not_stand_in_each_other_s_place(store: Store) -> None:
    old, new = Tally("gateway"), Tally("gateway")
    store.redis.hset(keys.BATCHES, mapping={"gateway": "of-an-earlier-version", "gone": "t 1000"})

    class Lossy(Store):
        def _transaction(self, *arguments: object) -> object:
            super()._transaction(*arguments)  # type: ignore[arg-type]  # handed through
            raise RedisConnectionError("the answer was lost")

    old.add("f.ann", "200", 0.1)
    with pytest.raises(RedisConnectionError):
        old.hand_over(Lossy(store.redis))
    new.add("f.ann", "200", 0.1)
    new.hand_over(store)
    old.hand_over(store)
    assert store.counts() == {"f.ann": 2}
    assert store.redis.hlen(keys.BATCHES) == 2, "others went a day after their last batch"


def test_functions_that_are_gone_leave_nothing(store: Store) -> None:
    tally = Tally("edge")
    for name in ("f.ann", "gone.ann", SYSTEM):
        tally.add(name, "200", 0.1)
    tally.hand_over(store)
    store.forget_traffic({"f.ann", "other.ann"})
    store.forget_traffic({"f.ann", "other.ann"})
    assert store.counts() == {"f.ann": 1}
    assert store.traffic(["f.ann", "gone.ann", SYSTEM]).keys() == {"f.ann", SYSTEM}
    assert store.redis.exists(keys.traffic("gone.ann")) == 0
    tally.add("gone.ann", "500", 0.1)
    tally.hand_over(store)
    assert store.traffic(["gone.ann"]) == {"gone.ann": {"500": series(0.1)}}

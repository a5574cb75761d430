"""Schedules as the API takes and tells them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from core import keys
from core.models import FunctionRecord, FunctionSpec
from core.store import Store
from runtime.schedules import Schedules
from tests.integration.gateway.harness import Gateway, running

NOON = 1_767_268_800
"""2026-01-01T12:00:00Z."""
ZONE = "com.slipway.schedule.timezone"


@pytest.fixture(scope="module")
def images(valkey: str) -> Iterator[Gateway]:
    """A gateway whose runtime takes images."""
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    with running(folder, valkey, SLIPWAY_RUNTIME="docker") as found:
        yield found
    shutil.rmtree(folder, ignore_errors=True)


def deploy(gateway: Gateway, name: str, namespace: str = "", **annotations: str) -> None:
    body = {"service": name, "image": "ghcr.io/me/x:1", "annotations": annotations}
    told = gateway.call("POST", "/system/functions", json={**body, "namespace": namespace})
    assert told.status_code == 202, told.text


def listed(gateway: Gateway, query: str = "") -> list[dict[str, Any]]:
    answer = gateway.call("GET", f"/system/schedules{query}")
    assert answer.ok, answer.text
    found: list[dict[str, Any]] = answer.json()
    return found


def test_what_is_wrong_is_refused_all_at_once(images: Gateway, store: Store) -> None:
    body = {
        "service": "tick",
        "image": "x",
        "annotations": {"topic": "cron-function", "schedule": "* * * * * *", ZONE: "Mars"},
    }
    for method in ("POST", "PUT"):
        told = images.call(method, "/system/functions", json=body)
        assert told.status_code == 400
        first, second = told.text.strip().splitlines()
        assert first.startswith("annotations: schedule: '* * * * * *' has 6 fields")
        assert second.startswith(f"annotations: {ZONE}: 'Mars' is not the name of an IANA time")
    assert store.functions() == {}


def test_schedules_are_told_with_functions_and_listed(images: Gateway, store: Store) -> None:
    store.claim_namespace("ann", "git")
    deploy(images, "late", topic="orders,cron-function", schedule="@daily")
    deploy(
        images,
        "soon",
        "ann",
        topic="cron-function",
        schedule="30 * * * *",
        **{ZONE: "Asia/Kathmandu"},
    )
    deploy(images, "idle", schedule="@daily")
    bad = FunctionSpec(
        name="bad",
        namespace="ann",
        artifact="x",
        annotations={"topic": "cron-function", "schedule": "@every 5m"},
    )
    record = FunctionRecord(spec=bad, release="", replicas=1, created_at="2026-01-01T00:00:00Z")
    store.redis.hset(keys.FUNCTIONS, bad.function, msgspec.json.encode(record))
    assert [each["next"] for each in listed(images)] == [None] * 3, "no controller has looked yet"
    clock = NOON + 1.0
    schedules = Schedules(images.settings, store, lambda: clock)
    schedules.tell(store.functions())
    schedules.look()
    clock = NOON + 3 * 3600.0
    schedules.look()
    found = listed(images)
    assert [each["name"] for each in found] == ["soon", "late", "bad"]
    (call,) = store.redis.xrange(keys.CALLS)
    call_id = call[1][b"id"].decode()
    assert found[0] == {
        "name": "soon",
        "namespace": "ann",
        "schedule": "30 * * * *",
        "timezone": "Asia/Kathmandu",
        "next": "2026-01-01T15:45:00Z",
        "last": {"at": "2026-01-01T15:00:00Z", "callId": call_id},
        "missed": {"count": 3, "since": "2026-01-01T12:45:00Z"},
        "error": None,
    }
    assert (found[1]["next"], found[1]["last"]) == ("2026-01-02T00:00:00Z", None)
    assert found[2]["error"].startswith("schedule: '@every 5m' is none of @hourly")
    assert listed(images, "?namespace=openfaas-fn") == [found[1]]
    assert images.call("GET", "/system/schedules?namespace=A").status_code == 400
    assert images.anonymous("GET", "/system/schedules").status_code == 401
    functions = images.call("GET", "/system/functions").json()
    told = {each["name"]: each.get("schedule") for each in functions}
    for each in found:
        expected = {name: each[name] for name in each if name not in ("name", "namespace")}
        assert told[each["name"]] == expected
        one = images.call("GET", f"/system/function/{each['name']}.{each['namespace']}").json()
        assert one["schedule"] == expected
    assert told["idle"] is None

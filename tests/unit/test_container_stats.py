"""What a container uses, from the engine's own words on either version of control groups."""

from __future__ import annotations

from typing import Any

import pytest

from core.models import Usage
from runtime.providers.docker.stats import usage_of


def stats(**detail: int) -> dict[str, Any]:
    return {
        "preread": "2026-01-31T12:00:00.250000001Z",
        "precpu_stats": {"cpu_usage": {"total_usage": 3_000_000_000}},
        "read": "2026-01-31T12:00:02.250000009Z",
        "cpu_stats": {"cpu_usage": {"total_usage": 3_500_000_000}},
        "memory_stats": {"usage": 9_000_000, "stats": detail},
    }


@pytest.mark.parametrize(
    "detail",
    [{"inactive_file": 1, "total_inactive_file": 1_000_000}, {"inactive_file": 1_000_000}],
    ids=["version 1", "version 2"],
)
def test_half_a_second_in_two_is_a_quarter_of_a_core(detail: dict[str, int]) -> None:
    assert usage_of(stats(**detail)) == Usage(cpu=250.0, total_memory_bytes=8_000_000.0)


def test_what_has_ended_meanwhile_or_is_not_counted_uses_nothing() -> None:
    assert usage_of({}) is None
    assert usage_of({**stats(), "memory_stats": {}}) is None
    never = {**stats(), "preread": "0001-01-01T00:00:00Z"}
    never["precpu_stats"] = {"cpu_usage": {"total_usage": 0}}
    found = usage_of(never)
    assert found
    assert found.cpu < 0.001, "there was no first reading"

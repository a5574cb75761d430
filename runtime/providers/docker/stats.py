"""What the engine says a container uses: ``GET /containers/<id>/stats`` of its API."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from core.models import Usage
from runtime.providers.usage import Reading, between


def usage_of(stats: Mapping[str, Any]) -> Usage | None:
    """None: it does not run any more, or the kernel does not count.

    The fields are those of engines on control groups of either version. Memory is as ``docker
    stats`` shows it.
    """
    memory = stats.get("memory_stats") or {}
    if not memory.get("usage"):
        return None
    detail = memory.get("stats") or {}
    idle = detail.get("total_inactive_file", detail.get("inactive_file", 0))
    used = max(memory["usage"] - idle, 0)
    last = Reading(_time(stats["read"]), _cpu(stats["cpu_stats"]), used)
    first = Reading(_time(stats["preread"]), _cpu(stats["precpu_stats"]), used)
    return between(first, last)


def _cpu(counted: Mapping[str, Any]) -> float:
    return float(counted["cpu_usage"]["total_usage"] / 1e9)


def _time(told: str) -> float:
    """Unix time."""
    return datetime.fromisoformat(told).timestamp()

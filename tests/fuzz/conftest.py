"""Tells what was asked and answered, once all is done."""

from __future__ import annotations

from collections import Counter
from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    told: dict[str, Counter[str]] = {}
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, value in report.user_properties:
            if name == "statuses":
                told[report.nodeid.partition("[")[2][:-1]] = Counter(value)
    if not told:
        return
    terminalreporter.section("requests by operation and status")
    for operation, statuses in told.items():
        counts = ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
        terminalreporter.line(f"{operation:22} {counts}")
    total = sum(each.total() for each in told.values())
    terminalreporter.line(f"{total} requests to {len(told)} operations")

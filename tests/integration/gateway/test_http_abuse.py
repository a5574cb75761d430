"""Requests that two parsers could read differently, asked of the gateway itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.store import Store
from tests.integration.abuse import CASES, Case, Recorder, check, check_headers_of_ours
from tests.integration.gateway.harness import Gateway, deploy


@pytest.fixture
def recorder(store: Store, short_tmp: Path) -> Iterator[Recorder]:
    with Recorder(short_tmp / "r.sock") as recorder:
        deploy(store, "f.abuse", [recorder.endpoint])
        yield recorder


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_function_sees_one_request_or_none(
    gateway: Gateway, recorder: Recorder, case: Case
) -> None:
    check(recorder, gateway.settings.port, case, case.gateway)


def test_headers_of_ours_are_ours(gateway: Gateway, recorder: Recorder) -> None:
    check_headers_of_ours(recorder, gateway.settings.port)

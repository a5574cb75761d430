"""Requests that two parsers could read differently, by way of the edge."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator

import pytest

from core.settings import Settings
from runtime.edge import Route
from tests.integration.abuse import CASES, Case, Recorder, check, check_headers_of_ours
from tests.integration.edge_harness import Proxy

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with tempfile.TemporaryDirectory(prefix="sw-", dir="/tmp") as state:
        proxy = Proxy(Settings.from_env({"SLIPWAY_STATE": state}))
        yield proxy
        proxy.close()


@pytest.fixture
def recorder(proxy: Proxy) -> Iterator[Recorder]:
    # A path of its own: the edge tells replicas apart by that.
    with Recorder(proxy.settings.run / f"{next(NUMBERS)}.sock") as recorder:
        proxy.edge.apply({"f.abuse": Route("r", [recorder.endpoint])})
        yield recorder


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_function_sees_one_request_or_none(proxy: Proxy, recorder: Recorder, case: Case) -> None:
    check(recorder, proxy.port, case, case.edge)


def test_headers_of_ours_are_ours(proxy: Proxy, recorder: Recorder) -> None:
    check_headers_of_ours(recorder, proxy.port)
    assert recorder.seen[0].all("x_own") == ["theirs"], "what names nothing of ours passes"

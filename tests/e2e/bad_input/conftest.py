"""A platform whose bounds are small, so that they are soon reached."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.bad_input.victim import Victim
from tests.e2e.platform import Platform, running


@pytest.fixture(scope="package")
def bounded() -> Iterator[Platform]:
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    with running(
        folder,
        SLIPWAY_MAX_PUSH="5Mi",
        SLIPWAY_MAX_CONTEXT="2Mi",
        SLIPWAY_BUILD_TIMEOUT="10s",
        SLIPWAY_BUILD_MEMORY="256Mi",
        SLIPWAY_BUILD_OUTPUT="64Ki",
        SLIPWAY_HEALTH_TIMEOUT="4s",
        SLIPWAY_DRAIN_TIMEOUT="3s",
        SLIPWAY_FUNCTION_MEMORY="64Mi",
        SLIPWAY_FUNCTION_LOG="256Ki",
    ) as up:
        yield up
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def victim(bounded: Platform, request: pytest.FixtureRequest) -> Victim:
    """A good function of this module's own: whatever is pushed, it is to stay live."""
    module = request.module.__name__.rpartition(".")[2].removeprefix("test_").replace("_", "-")
    return Victim.live(bounded, "vic", module)

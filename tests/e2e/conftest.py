"""One platform for the tests of this folder that only push and call; others start their own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.platform import Platform, running


@pytest.fixture(scope="package")
def platform() -> Iterator[Platform]:
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    with running(folder, SLIPWAY_GITHUB_WEBHOOK_SECRET="hook-secret") as up:
        yield up
    shutil.rmtree(folder, ignore_errors=True)

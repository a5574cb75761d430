from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.gateway.harness import Gateway, running

SECRET = "it is a secret to everybody"


@pytest.fixture(scope="session")
def gateway(valkey: str) -> Iterator[Gateway]:
    """One for all tests of this folder: each uses a namespace of its own."""
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    with running(folder, valkey, SLIPWAY_GITHUB_WEBHOOK_SECRET=SECRET) as found:
        yield found
    shutil.rmtree(folder, ignore_errors=True)

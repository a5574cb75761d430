from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.store import Store
from tests.conftest import empty_store, serving_valkey
from tests.integration.gateway.harness import Gateway, running

SECRET = "it is a secret to everybody"


@pytest.fixture(scope="session")
def gateway() -> Iterator[Gateway]:
    """One for all tests of this folder: each uses a namespace of its own.

    It has a store of its own, as it takes up what it finds there, whoever's test that is of.
    """
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    with (
        serving_valkey() as valkey,
        running(folder, valkey, SLIPWAY_GITHUB_WEBHOOK_SECRET=SECRET) as found,
    ):
        yield found
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def store(request: pytest.FixtureRequest, valkey: str) -> Iterator[Store]:
    """An empty store: the one of the test's gateway, if it asks for that."""
    url = valkey
    if "gateway" in request.fixturenames:
        url = request.getfixturevalue("gateway").settings.redis_url
    with empty_store(url) as found:
        yield found

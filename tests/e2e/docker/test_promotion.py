"""A promotion on Docker: the very same image, with what the target has of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import docker
import pytest

from runtime.providers.docker.document import INSTALLATION, SPEC
from tests.conftest import missing
from tests.e2e.platform import Platform, fresh_folder, running
from tests.e2e.test_environments import ENVIRONMENTS, FILES, artifacts, asked, secret, variables

PROVIDER = "version: 1.0\nprovider: {name: openfaas}\n"

pytestmark = [pytest.mark.root, pytest.mark.network]


@pytest.fixture
def up(engine: object) -> Iterator[Platform]:
    assert engine
    for program in ("dockerd", "docker-registry"):
        if not shutil.which(program, path="/usr/sbin:/usr/bin:/usr/local/bin"):
            missing(program)
    with (
        fresh_folder() as folder,
        running(folder, SLIPWAY_RUNTIME="docker", SLIPWAY_DRAIN_TIMEOUT="1s") as found,
    ):
        port = (found.settings.state / "registry-port").read_text().strip()
        yield found
    with closing(docker.APIClient(found.settings.engine_url, version="auto")) as client:
        names = [name for each in client.images() for name in each["RepoDigests"] or []]
        for name in names:
            if name.startswith(f"127.0.0.1:{port}/ann/"):
                client.remove_image(name)


def containers(up: Platform) -> dict[str, dict[str, Any]]:
    """Namespace → its one container, as the engine tells it."""
    with closing(docker.APIClient(up.settings.engine_url, version="auto")) as engine:
        found = engine.containers(filters={"label": f"{INSTALLATION}={up.settings.mark}"})
    made = {json.loads(each["Labels"][SPEC])["spec"]["namespace"]: each for each in found}
    assert len(made) == len(found), found
    return made


def test_the_image_that_was_tried_in_staging_runs_in_production(up: Platform) -> None:
    for space, where in (("ann", "production"), ("ann--staging", "staging")):
        asked(up, "POST", "/system/namespace/", name=space, labels={"openfaas": "1"})
        variables(up, space, WHERE=where, ARG="1")
        secret(up, space, f"secret of {where}")
    fns = up.repository("ann", "fns")
    pushed = fns.push({"stack.yml": f"{ENVIRONMENTS}{PROVIDER}functions: {{}}\n"})
    assert pushed.last.startswith("slipway: live r"), pushed.text + up.logs()
    pushed = fns.push(FILES, "HEAD:develop")
    assert pushed.last.startswith("slipway: live r"), pushed.text + up.logs()
    assert up.call("tell.ann--staging").text == "v1 staging secret of staging"
    assert up.call("tell.ann").status == 404
    (staged,) = containers(up).values()

    up.slipway("promote", "ann/fns")
    assert up.call("tell.ann").text == "v1 production secret of production"
    assert up.call("tell.ann--staging").text == "v1 staging secret of staging"
    now = containers(up)
    assert now["ann"]["ImageID"] == staged["ImageID"]
    assert now["ann--staging"]["Id"] == staged["Id"], "it goes on"
    digest = artifacts(up, "ann")["tell"]
    assert "/ann/tell@sha256:" in digest
    assert artifacts(up, "ann--staging")["tell"] == digest
    assert up.release("ann", "fns")["functions"][0]["build"] == "reused"

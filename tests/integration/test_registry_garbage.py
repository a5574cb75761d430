"""What no image names any more leaves the registry that we started, while it serves."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import requests

from builder import folders, registrygarbage
from core.errors import Conflict
from core.settings import Settings
from supervisor import registry
from tests.conftest import missing
from tests.waiting import until

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


class Shelf:
    """The registry, spoken to as an engine does (OCI distribution specification 1.1)."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.url = f"http://{settings.registry}/v2/ann/fn"

    def push(self, text: str) -> tuple[str, str]:
        """An image with one layer; returns (digest of the manifest, digest of the layer)."""
        config, layer = self.blob(b"{}"), self.blob(text.encode() * 1000)
        told = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": "application/json", "size": 2, "digest": config},
            "layers": [{"mediaType": "x", "size": len(text) * 1000, "digest": layer}],
        }
        data = json.dumps(told).encode()
        answer = requests.put(
            f"{self.url}/manifests/{text}", data, headers={"Content-Type": MANIFEST}, timeout=10
        )
        assert answer.status_code == 201, answer.text
        return answer.headers["Docker-Content-Digest"], layer

    def blob(self, data: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        begun = requests.post(f"{self.url}/blobs/uploads/", timeout=10)
        place = begun.headers["Location"]
        answer = requests.put(f"{place}&digest={digest}", data, timeout=10)
        assert answer.status_code == 201, answer.text
        return digest

    def forget(self, manifest: str) -> None:
        assert requests.delete(f"{self.url}/manifests/{manifest}", timeout=10).status_code == 202

    def has(self, layer: str) -> bool:
        return requests.get(f"{self.url}/blobs/{layer}", timeout=10).status_code == 200


def has_image() -> bool:
    """Whether the engine has it, or can get it."""
    docker = shutil.which("docker")
    return bool(docker) and any(
        not subprocess.run([docker, *words, registry.IMAGE], check=False, timeout=120).returncode
        for words in (["image", "inspect"], ["pull"])
    )


IN_CONTAINER = pytest.param("container", marks=[pytest.mark.engine, pytest.mark.root])


@pytest.fixture(params=["program", IN_CONTAINER])
def shelf(settings: Settings, request: pytest.FixtureRequest) -> Iterator[Shelf]:
    how = request.param
    if how == "program" and not registry.program(os.environ):
        missing("no docker-registry on PATH")
    if how == "container" and not has_image():
        missing(f"no engine with the image {registry.IMAGE}")
    settings = registry.settle(settings)
    settings.run.mkdir(mode=0o700, parents=True, exist_ok=True)
    env = {"PATH": os.environ["PATH"]} | settings.environment()
    with (settings.state / "log").open("wb") as log:
        process = subprocess.Popen(registry.part(how).argv, env=env, stderr=log, stdout=log)
    try:
        until(lambda: registry.answers(settings), 20)
        yield Shelf(settings)
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(settings.run, ignore_errors=True)


def test_blobs_of_deleted_images_go_while_it_serves_and_nothing_is_pushed(shelf: Shelf) -> None:
    settings = shelf.settings
    (_, kept), (gone, layer) = shelf.push("kept"), shelf.push("gone")
    shelf.forget(gone)
    with folders.using(registrygarbage.lock(settings)):
        assert not registrygarbage.collect(settings), "a push is under way"
    assert shelf.has(layer)
    assert registrygarbage.collect(settings)
    assert not shelf.has(layer)
    assert shelf.has(kept)
    again = shelf.push("gone")
    assert (again, shelf.has(layer)) == ((gone, layer), True), "pushed again, it is whole"
    assert not registrygarbage.collect(settings), "once a day"
    stamp = settings.state / "registry-collected"
    os.utime(stamp, (time.time() - registrygarbage.EVERY_PRESSED - 60,) * 2)
    assert not registrygarbage.collect(settings)
    assert registrygarbage.collect(settings, pressed=True)
    assert shelf.has(layer)


def test_who_is_cancelled_collects_no_further(shelf: Shelf) -> None:
    shelf.push("kept")

    def cancelled() -> None:
        raise Conflict("cancelled")

    with pytest.raises(Conflict):
        registrygarbage.collect(shelf.settings, check=cancelled)
    with folders.alone(registrygarbage.lock(shelf.settings)) as mine:
        assert mine


def test_a_registry_that_is_not_ours_is_left_alone(shelf: Shelf) -> None:
    gone, layer = shelf.push("gone")
    shelf.forget(gone)
    registry.collect(replace(shelf.settings, registry="example.com"), dict(os.environ))
    assert shelf.has(layer)
    (shelf.settings.state / "registry-port").unlink()
    assert not registrygarbage.collect(shelf.settings)

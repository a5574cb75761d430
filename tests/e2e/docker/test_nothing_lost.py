"""No request is lost on Docker either: the same clients, fewer changes. And the way back, by hand
and by itself."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.conftest import missing
from tests.e2e.clients import Scene, acting, taken_back
from tests.e2e.platform import fresh_folder, running

pytestmark = [pytest.mark.root, pytest.mark.network]

DRAIN = 6.0


@pytest.fixture(scope="module")
def scene(engine: object) -> Iterator[Scene]:
    assert engine
    for program in ("dockerd", "docker-registry"):
        if not shutil.which(program, path="/usr/sbin:/usr/bin:/usr/local/bin"):
            missing(program)
    told = {
        "SLIPWAY_RUNTIME": "docker",
        "SLIPWAY_DRAIN_TIMEOUT": f"{DRAIN:.0f}s",
        "SLIPWAY_WATCH": "2s",
        "SLIPWAY_WARM": "60s",
    }
    with (
        fresh_folder() as folder,
        running(folder, **told) as up,
        acting(up, DRAIN) as made,
    ):
        yield made


def test_a_release(scene: Scene) -> None:
    with scene.crowd.unharmed():
        scene.crowd.sees(scene.push())


def test_back_to_what_is_warm_and_to_what_is_cold(scene: Scene) -> None:
    scene.crowd.sees(scene.push())
    before = scene.platform.release("ann", "both")["id"]
    with scene.crowd.unharmed():
        version = scene.push()
        scene.crowd.sees(version)
    with scene.crowd.unharmed():
        done = scene.platform.slipway("rollback", "ann/both")
        assert f"{before} serves again" in done.stdout
        scene.crowd.sees(version - 1)
    oldest = scene.first
    with scene.crowd.unharmed():
        done = scene.platform.slipway("rollback", "ann/both", "--to", oldest)
        assert f"{oldest} serves again" in done.stdout
        scene.crowd.sees(1)
    with scene.crowd.unharmed():
        scene.crowd.sees(scene.push())


def test_a_release_that_does_worse_is_taken_back(scene: Scene) -> None:
    taken_back(scene.platform.repository("kim", "bad"))


def test_more_and_fewer_replicas(scene: Scene) -> None:
    with scene.crowd.unharmed():
        scene.scale(2)
    with scene.crowd.unharmed():
        scene.scale(1)


def test_planned_restarts(scene: Scene) -> None:
    with scene.crowd.unharmed():
        done = scene.platform.slipway("restart", "controller", "gateway", "edge", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with scene.crowd.unharmed():
        scene.crowd.sees(scene.push())

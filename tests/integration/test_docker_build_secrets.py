"""Secrets that a build mounts, and images that were never built: with the real engine, BuildKit,
registry and gateway."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder import jobs
from builder.lease import Lease
from core.errors import InvalidStack
from core.models import State
from core.settings import Settings
from core.store import Store, connect
from engine.client import Engine
from tests.conftest import missing
from tests.integration.docker_builds import Workbench, registry, stack, tidy
from tests.integration.gateway import harness

pytestmark = [pytest.mark.engine, pytest.mark.network]

SESAME = "Open Sesame 7f3a9c"
MOUNT = "RUN --mount=type=secret,id=token "
HEAD = "FROM python:3.11-slim-bookworm\nEXPOSE 8080\n"
SERVE = 'CMD ["python3", "-m", "http.server", "8080"]\n'
PROOF = f"{MOUNT}sha256sum < /run/secrets/token > /proof && cat /run/secrets/token\n"


@pytest.fixture(scope="module")
def settings(valkey: str) -> Iterator[Settings]:
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    (folder / "state").mkdir(mode=0o700)
    if not shutil.which("docker-registry") and not shutil.which("registry"):
        missing("docker-registry, a registry for images")
    with registry(folder / "registry") as place:
        settings = Settings.from_env(
            {
                "SLIPWAY_STATE": str(folder / "state"),
                "SLIPWAY_REDIS_URL": valkey,
                "SLIPWAY_RUNTIME": "docker",
                "SLIPWAY_REGISTRY": place,
                "SLIPWAY_BUILD_TIMEOUT": "90s",
            }
        )
        if not Engine(settings.engine_url).alive():
            missing("a Docker engine")
        yield settings
        tidy(settings)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def bench(settings: Settings, valkey: str) -> Workbench:
    connection = connect(valkey)
    connection.flushall()
    return Workbench(settings, Store(connection))


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = Engine(settings.engine_url)
    yield engine
    engine.close()


def commit(dockerfile: str, given: str, **files: str) -> dict[str, Any]:
    fields = f"  web:\n    lang: dockerfile\n    handler: ./web\n{given}"
    return {"stack.yml": stack(fields), "web/Dockerfile": dockerfile, **files}


def from_file(value: str, dockerfile: str = HEAD + PROOF + SERVE) -> dict[str, Any]:
    return commit(dockerfile, "    build_secrets: {token: keys/token}\n", **{"keys/token": value})


def inside(engine: Engine, image: str, path: str) -> dict[str, bytes]:
    """The files at a path of an image, by their last names."""
    with engine.asking("") as api:
        made = api.create_container(image)
        try:
            stream, _ = api.get_archive(made["Id"], path)
            with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
                files = {each.name: tar.extractfile(each) for each in tar if each.isfile()}
                return {name.rpartition("/")[2]: f.read() for name, f in files.items() if f}
        finally:
            api.remove_container(made["Id"], force=True)


def proof(engine: Engine, image: str) -> str:
    """What the build wrote into the image."""
    return inside(engine, image, "/proof")["proof"].decode().split()[0]


def hashed(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()


def test_a_secret_is_there_for_one_run_and_nowhere_afterwards(
    bench: Workbench, engine: Engine, settings: Settings
) -> None:
    (job,) = bench.build(from_file(SESAME))
    assert proof(engine, job.artifact) == hashed(SESAME)
    assert "Sesame" not in bench.log, "the build printed it"
    assert "****" in bench.log
    assert SESAME not in json.dumps(job.key.inputs)
    with engine.asking("") as api:
        told = json.dumps([api.inspect_image(job.artifact), api.history(job.artifact)])
    assert "Sesame" not in told
    assert not any(inside(engine, job.artifact, "/run/secrets").values()), "where it was mounted"
    assert not any((settings.state / "work").iterdir())
    (again,) = bench.build(from_file(SESAME))
    assert again.reused


def test_another_value_is_another_image_and_nobody_else_gets_it(
    bench: Workbench, engine: Engine, settings: Settings
) -> None:
    (first,) = bench.build(from_file("value one"))
    (second,) = bench.build(from_file("value two"))
    assert first.key.digest != second.key.digest
    assert proof(engine, second.artifact) == hashed("value two"), "not the layer of the first"
    # The same Dockerfile, context and id: BuildKit would take the layer that the other made.
    bob = Workbench(settings, bench.store, "bob")
    (theirs,) = bob.build(from_file("their own"))
    assert proof(engine, theirs.artifact) == hashed("their own")
    with pytest.raises(InvalidStack, match=r"id=token: builds are handed no secrets but those of"):
        bob.build(commit(HEAD + PROOF + SERVE, ""))


def test_where_and_how_a_secret_is_mounted_stays_as_written(
    bench: Workbench, engine: Engine
) -> None:
    lines = (
        "RUN --mount=type=secret,id=token,target=/etc/key,mode=0444 "
        "--mount=type=cache,target=/c test -s /etc/key && sha256sum < /etc/key > /proof\n"
        "RUN test ! -s /etc/key && test ! -e /run/secrets/token\n"
    )
    (job,) = bench.build(from_file(SESAME, HEAD + lines + SERVE))
    assert proof(engine, job.artifact) == hashed(SESAME)


def test_one_that_nothing_mounts_is_warned_of(bench: Workbench) -> None:
    bench.build(from_file(SESAME, HEAD + SERVE))
    assert "warning: no RUN mounts the build secret token" in bench.log


def test_secrets_that_are_wrong_are_told_with_their_lines(bench: Workbench) -> None:
    given = "    build_secrets:\n      a: gone\n      b: web\n      token: Not/There\n"
    with pytest.raises(InvalidStack) as caught:
        bench.build(commit(HEAD + PROOF + SERVE, f"{given}    secrets:\n      - x\n      - y\n"))
    told = [(mistake.line, mistake.text) for mistake in caught.value.mistakes]
    assert [line for line, _ in told] == [7, 8, 9, 11, 12]
    for (_, text), why in zip(
        told, ("secret gone", "is a folder", "has no file", "secret x", "secret y"), strict=True
    ):
        assert why in text


def test_a_secret_by_its_name_and_a_ready_made_image(
    bench: Workbench, engine: Engine, settings: Settings, short_tmp: Path
) -> None:
    """From the store, by way of the gateway; and the image that ``skip_build`` names, by digest."""
    store = bench.store
    (built,) = bench.build(from_file("base"))
    place = f"{settings.registry}/ann/ready:1"
    with engine.asking("") as api:
        api.tag(built.artifact, f"{settings.registry}/ann/ready", "1", force=True)
        api.push(f"{settings.registry}/ann/ready", "1")
        api.remove_image(place)
    docker = {"SLIPWAY_RUNTIME": "docker", "SLIPWAY_REGISTRY": settings.registry}
    with harness.running(short_tmp, settings.redis_url, **docker) as gateway:
        store.claim_namespace("ann", "git")
        store.create_secret(
            store.sealing_key(gateway.settings.secrets_key), "ann", "api-key", SESAME.encode()
        )
        served = Workbench(gateway.settings, store)
        given = "    build_secrets: {token: api-key}\n    secrets: [api-key]\n"
        ready = f"  ready:\n    image: {place}\n    skip_build: true\n    environment: {{A: b}}\n"
        release = served.push(commit(HEAD + PROOF + SERVE, given + ready))
        with Lease(store, release.id) as lease:
            jobs._build(release.id, gateway.settings, store, lease)
        done = store.release(release.id)
        assert done.state is State.STAGING, (done.reason, served.log)
        by_name = {each.name: each for each in store.artifacts(release.id)}
    web, image = by_name["web"], by_name["ready"]
    assert proof(engine, web.artifact) == hashed(SESAME)
    assert web.spec.secrets == ["api-key"]
    assert web.spec.secret_versions == store.secret_versions("ann", ["api-key"])
    assert "Sesame" not in served.log
    digest = built.artifact.partition("@")[2]
    assert image.artifact == f"{settings.registry}/ann/ready@{digest}"
    assert (image.spec.foreign, image.key, image.spec.env_vars) == (True, "", {"A": "b"})
    assert not image.spec.secrets


@pytest.mark.parametrize(
    ("image", "why"),
    [
        ("{registry}/bob/his:1", "is not yours"),
        ("169.254.169.254/x:1", "is not outside"),
        ("{registry}/ann/gone:1", "does not have it"),
        ("Not An Image", "is not the name of an image"),
        ("sha256:" + "0" * 64, "could be anybody's"),
        ("slipway-build:latest", "nobody's to use"),
    ],
)
def test_ready_made_images_that_cannot_be(
    bench: Workbench, settings: Settings, image: str, why: str
) -> None:
    name = image.format(registry=settings.registry)
    text = stack(f"  ready:\n    skip_build: true\n    image: '{name}'\n")
    with pytest.raises(InvalidStack, match=why) as caught:
        bench.build({"stack.yml": text})
    assert [mistake.line for mistake in caught.value.mistakes] == [5]

"""`make base-images`, as far as it is quick; .ci/run proves that it makes them from nothing."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from docker.errors import ImageNotFound

from core.errors import ConfigError, Unavailable
from core.settings import Settings
from engine.client import Engine
from supervisor import base_images, parts

OURS = ("slipway-test-base:python", "slipway-test-base:node")
FAKE = """#!/bin/sh
echo 'I: downloading packages' >&2
{body}
"""


@pytest.fixture
def settings(engine: Engine) -> Iterator[Settings]:
    yield Settings(
        engine=engine.url if "unix" in engine.url else "", python_image=OURS[0], node_image=OURS[1]
    )
    with engine.asking("tidying up") as api:
        for name in reversed(OURS):
            if api.images(name):
                api.remove_image(name, force=True)


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """A mmdebstrap that writes the smallest root file system."""
    with tarfile.open(tmp_path / "root.tar", "w") as tar:
        data = b"made\n"
        member = tarfile.TarInfo("etc/made")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    program = tmp_path / "bin/mmdebstrap"
    program.parent.mkdir()
    program.write_text(FAKE.format(body=f"cat {tmp_path / 'root.tar'}"))
    program.chmod(0o755)
    return program


def make(settings: Settings, fake: Path, *, force: bool = False, **env: str) -> list[str]:
    told: list[str] = []
    path = f"{fake.parent}:/usr/bin:/bin"
    base_images.make(settings, {"PATH": path} | env, told.append, force=force)
    return told


@pytest.mark.engine
@pytest.mark.root
def test_both_are_made_under_the_settings_names_and_once(
    settings: Settings, fake: Path, engine: Engine
) -> None:
    told = "\n".join(make(settings, fake))
    for name in OURS:
        assert f"{name}: " in told
    assert "downloading packages" in told
    with engine.asking("looking") as api:
        python, node = (api.inspect_image(name) for name in OURS)
        assert (
            python["Config"]["Labels"] == node["Config"]["Labels"] == {"com.slipway.base": "debian"}
        )
        assert node["RootFS"]["Layers"][0] == python["RootFS"]["Layers"][0], (
            "one layer on the other"
        )
        assert python["Config"]["Cmd"] == ["python3"]
        assert node["Config"]["Cmd"] == ["node"]
        assert all("CERT" not in each for each in python["Config"]["Env"])
        container = api.create_container(OURS[1])["Id"]
        try:
            pieces, about = api.get_archive(container, "/usr/local/bin/node")
            assert about["mode"] & 0o777 == 0o755
            assert about["size"] > 50e6
            pieces.close()
            _, about = api.get_archive(container, "/usr/local/bin/npm")
            assert about["linkTarget"].endswith("lib/node_modules/npm/bin/npm-cli.js")
        finally:
            api.remove_container(container, force=True)
    assert all("is there already" in line for line in make(settings, fake))
    make(settings, fake, force=True)
    with engine.asking("looking") as api:
        assert api.inspect_image(OURS[0])["Id"] != python["Id"]
        there = {each["Id"] for each in api.images(all=True)}
    assert not there & {python["Id"], node["Id"]}, "what they replaced is gone"


@pytest.mark.engine
@pytest.mark.root
def test_a_private_ca_is_trusted_inside(
    settings: Settings, fake: Path, engine: Engine, tmp_path: Path
) -> None:
    bundle = tmp_path / "our ca.crt"
    bundle.write_text("certificates")
    make(settings, fake, PIP_CERT=str(bundle))
    with engine.asking("looking") as api:
        variables = api.inspect_image(OURS[1])["Config"]["Env"]
    for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"):
        assert f"{name}=/etc/ssl/certs/ca-certificates.crt" in variables
    argv = base_images.bootstrap("mmdebstrap", bundle)
    hook = f"upload '{bundle}' /etc/ssl/certs/ca-certificates.crt"
    assert f"--customize-hook={hook}" in argv
    assert not [each for each in base_images.bootstrap("mmdebstrap", None) if "hook" in each]


def imported(engine: Engine) -> set[str]:
    """The ids of images made from an archive: those that others build meanwhile, on base images
    and so with their labels, are not."""
    ids: set[str] = set()
    with engine.asking("looking") as api:
        for each in api.images(filters={"label": base_images.LABEL}):
            with suppress(ImageNotFound):
                if api.inspect_image(each["Id"])["Comment"].startswith("Imported from"):
                    ids.add(each["Id"])
    return ids


@pytest.mark.engine
@pytest.mark.root
@pytest.mark.parametrize("body", ["exit 7", "head -c 700 {tar}; exit 7"], ids=["none", "half"])
def test_what_mmdebstrap_could_not_finish_is_no_image(
    settings: Settings, fake: Path, engine: Engine, tmp_path: Path, body: str
) -> None:
    body = f"echo 'E: no packages' >&2; {body.format(tar=tmp_path / 'root.tar')}"
    fake.write_text(FAKE.format(body=body))
    before = imported(engine)
    with pytest.raises(Unavailable, match=r"(?s)status 7.*E: no packages"):
        make(settings, fake)
    with engine.asking("looking") as api:
        assert not api.images(OURS[0])
    assert not imported(engine) - before


@pytest.mark.engine
@pytest.mark.root
def test_without_mmdebstrap_it_says_what_to_install(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing: mmdebstrap\. apt-get install -y mmdebstrap"):
        base_images.make(settings, {"PATH": str(tmp_path)}, lambda _: None, force=True)


def test_without_an_engine_it_says_what_to_do(tmp_path: Path) -> None:
    env = parts.passed(os.environ) | {"DOCKER_HOST": f"unix://{tmp_path}/none.sock"}
    done = subprocess.run(
        parts.python("supervisor.base_images"), env=env, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert f"no Docker engine answers at unix://{tmp_path}/none.sock" in done.stderr
    assert "apt-get install -y mmdebstrap docker.io" in done.stderr

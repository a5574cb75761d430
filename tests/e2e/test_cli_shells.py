"""The command line in another shell than that of `make up`, which knows its state folder alone."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator

import docker
import pytest
import trustme

from core.settings import ROOT
from tests.conftest import missing
from tests.e2e.platform import Platform, fresh_folder, handler, running, stack
from tests.integration.certificates import issue

DOMAIN = "localhost"
NAMES = (DOMAIN, f"*.{DOMAIN}", "sue.localhost")
"""Clients take no wildcard for a domain of one label."""


@pytest.fixture(scope="module", params=["process", "docker"])
def platform(request: pytest.FixtureRequest) -> Iterator[Platform]:
    """With TLS, hosts, and a subnet of its own: nothing of it is what a shell would guess."""
    if request.param == "docker":
        _need_an_engine()
    with fresh_folder() as folder:
        authority, cert = trustme.CA(), folder / "cert.pem"
        issue(authority, cert, *NAMES)
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        settings = {
            "SLIPWAY_RUNTIME": request.param,
            "SLIPWAY_TLS_CERT": str(cert),
            "SLIPWAY_DOMAIN": DOMAIN,
            # Below those of the benches, which tests run meanwhile.
            "SLIPWAY_SUBNET": f"10.{random.randrange(64, 109)}.{random.randrange(256)}.0/24",
        }
        with running(folder, **settings) as up:
            yield up


def _need_an_engine() -> None:
    try:
        client = docker.APIClient(version="auto", timeout=20)
        client.inspect_image("python:3.11-slim-bookworm")
        client.close()
    except docker.errors.DockerException as error:
        missing(f"a Docker engine with base images: {error}")


def slipway(platform: Platform, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "--state", str(platform.settings.state), *argv],
        cwd=ROOT,
        env={"PATH": platform.env["PATH"], "HOME": "/nowhere", **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_doctor_and_config_raise_no_false_alarm(platform: Platform) -> None:
    for env in ({}, {"SLIPWAY_PORT": "1", "SLIPWAY_EDGE": "none"}):
        examined = slipway(platform, "doctor", **env)
        assert (examined.returncode, "FAIL" in examined.stdout) == (0, False), examined.stdout
        assert f"for {DOMAIN}, " in examined.stdout
        assert ("SLIPWAY_PORT is 1 in this shell" in examined.stdout) == bool(env)
        config = slipway(platform, "config", **env)
        told = [line.split() for line in config.stdout.splitlines()]
        assert ["SLIPWAY_PORT", str(platform.port)] in told, config.stdout
        assert ["SLIPWAY_EDGE", "haproxy"] in told
        assert "NOT" not in config.stdout or os.geteuid() != 0, config.stdout
        assert ("SLIPWAY_PORT is 1 in this shell" in config.stderr) == bool(env)


def test_list_tells_urls_that_users_can_use(platform: Platform) -> None:
    repository = platform.repository("sue", "fns")
    repository.commit({"stack.yml": stack("hi"), "hi/handler.py": handler("hi there")})
    remote = f"https://admin:{platform.password}@{DOMAIN}:{platform.port}/git/sue/fns.git"
    trusted = f"http.sslCAInfo={platform.folder / 'ca.pem'}"
    pushed = repository.git("-c", trusted, "push", remote, "HEAD:main", check=False)
    assert "slipway: live" in pushed.stderr, pushed.stderr + platform.logs()
    url = f"https://sue.{DOMAIN}:{platform.port}/hi"
    for env in ({}, {"SLIPWAY_PORT": "1"}):
        listed = slipway(platform, "list", **env)
        assert listed.stdout.splitlines()[1].split()[-1] == url, listed.stdout + listed.stderr

"""docker-compose.yml: what must hold of it whatever runs it. That it runs: tests/e2e/compose."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.settings import PREFIX, ROOT, Settings

TEXT = (ROOT / "docker-compose.yml").read_text()
FILE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
OURS = ("gateway", "builder", "queue", "reporter", "runtime")
NOT_PASSED = {"edge", "unsafe_no_sandbox", "ca_file", "owner_token_file"}
"""There is an edge, functions are containers, and the last two are for commands."""


def test_the_services() -> None:
    assert set(SERVICES) == {*OURS, "edge", "redis", "registry"}
    assert "version" not in FILE, "compose v2 warns of it"
    for name in OURS:
        assert SERVICES[name]["image"] == "slipway"
        assert SERVICES[name]["build"] == "."


@pytest.mark.parametrize("name", SERVICES)
def test_each_is_fenced_in_and_looked_after(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert service["restart"] == "unless-stopped"
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert service["healthcheck"]["test"]
    added = ["NET_ADMIN", "CHOWN"] if name == "runtime" else []
    assert service.get("cap_add", []) == added
    assert "privileged" not in service
    assert "container_name" not in service, "it could not be scaled"


def test_who_has_what() -> None:
    def having(target: str) -> set[str]:
        return {
            name
            for name, service in SERVICES.items()
            if any(target in volume for volume in service["volumes"])
        }

    assert having(":/var/run/docker.sock") == {"runtime", "builder"}
    assert having("/run/secrets") == {"runtime"}
    assert having("/run/edge") == {"runtime", "edge"}
    assert having("/run/gateway") == {"gateway", "edge"}
    assert having("/run/store") == {*OURS, "redis"}
    assert having("/calls") == {"gateway", "queue"}
    assert having("/proc/sys") == {"runtime"}
    assert having(":/forges") == {"gateway", "reporter"}
    read_only = {
        name: [volume for volume in service["volumes"] if volume.endswith(":ro")]
        for name, service in SERVICES.items()
    }
    assert any(volume.startswith("git:") for volume in read_only["builder"])
    assert any(volume.startswith("logs:") for volume in read_only["gateway"])
    assert any(volume.startswith("gateway:") for volume in read_only["reporter"])
    assert {name for name, each in SERVICES.items() if each.get("ports")} == {"registry"}
    assert SERVICES["registry"]["ports"][0].startswith("127.0.0.1:")
    secrets = {name: each.get("secrets", []) for name, each in SERVICES.items()}
    assert secrets["builder"] == ["builder_token"], "no password and no key where builds are made"
    assert {name for name, each in secrets.items() if each} == {"gateway", "builder", "runtime"}


@pytest.mark.parametrize("service", OURS)
def test_every_setting_arrives(service: str) -> None:
    environment = SERVICES[service]["environment"]
    known = {PREFIX + each.name.upper() for each in fields(Settings)}
    assert {name for name in environment if name.startswith(PREFIX)} <= known
    missing = {name.removeprefix(PREFIX).lower() for name in known - set(environment)}
    forges = {name.removeprefix(PREFIX).lower() for name in FILE["x-forges"]}
    own = {
        "gateway": {"registry_password_file"},
        "builder": {*forges, "secrets_key_file"},
        "queue": {*forges, "registry_password_file", "secrets_key_file"},
        "reporter": {"registry_password_file", "secrets_key_file"},
        "runtime": forges,
    }
    assert missing == NOT_PASSED | own[service]


def test_its_own_values_are_settings_and_agree() -> None:
    """The defaults of what stands in the file more than once."""
    environment = {
        name: re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", str(value))
        for name, value in SERVICES["runtime"]["environment"].items()
    }
    settings = Settings.from_env(environment)
    assert settings.runtime == "docker"
    assert str(settings.run).startswith("/var/lib/slipway/"), "sockets lie in the volumes"
    state = "${SLIPWAY_STATE:-/var/lib/slipway}"
    assert f"{state}/run/edge/haproxy.cfg" in SERVICES["edge"]["command"]
    assert str(settings.edge_folder) == "/var/lib/slipway/run/edge"
    assert f"{state}/run/store/redis.sock" in SERVICES["redis"]["command"]
    assert str(settings.store_socket) == "/var/lib/slipway/run/store/redis.sock"
    assert str(settings.gateway_socket.parent) == "/var/lib/slipway/run/gateway"
    assert settings.registry == "127.0.0.1:5000"


def test_secrets_are_made_once_and_closed_to_others(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)

    def make() -> dict[str, str]:
        subprocess.run(
            ["make", "compose-secrets"], cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, check=True
        )
        return {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}

    made = make()
    assert set(made) == {Path(each["file"]).name for each in FILE["secrets"].values()}
    assert len(set(made.values())) == 3
    for text in made.values():
        assert re.fullmatch(r"[A-Za-z0-9_-]{43}=\n", text)
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "secrets").iterdir()} == {0o444}
    assert make() == made
    assert "/secrets/" in (ROOT / ".gitignore").read_text().splitlines()

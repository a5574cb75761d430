"""A whole Slipway of a test's own by docker-compose, with names, ports and volumes of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from docker.errors import NotFound

from core.settings import ROOT, Settings
from engine.client import Engine
from tests.e2e.platform import Platform, free_port

SERVICES = ("gateway", "builder", "queue", "reporter", "runtime", "edge", "redis", "registry")


class Compose(Platform):
    """Its handles. What a test asks of a platform goes by the edge, as with ``slipway up``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.project = f"slipwaytest{secrets.token_hex(3)}"
        self.registry_port = free_port()
        self.state = f"/var/lib/{self.project}"
        self.secrets = folder / "secrets"
        self.engine = Engine("unix:///var/run/docker.sock")
        self.secrets.mkdir(mode=0o700)
        for name in ("admin-password", "builder-token", "secrets-key"):
            (self.secrets / name).write_text(secrets.token_urlsafe(32) + "\n")
            (self.secrets / name).chmod(0o444)
        self.variables = {
            "SLIPWAY_STATE": self.state,
            "SLIPWAY_PORT": str(self.port),
            "SLIPWAY_REGISTRY": f"127.0.0.1:{self.registry_port}",
            "SLIPWAY_DRAIN_TIMEOUT": "3s",
            "REGISTRY_PORT": str(self.registry_port),
            "SECRETS": str(self.secrets),
        }
        text = "".join(f"{name}={value}\n" for name, value in self.variables.items())
        (folder / "env").write_text(text)

    @property
    def settings(self) -> Settings:
        names = ("SLIPWAY_STATE", "SLIPWAY_PORT", "SLIPWAY_REGISTRY")
        told = {name: self.variables[name] for name in names}
        password = str(self.secrets / "admin-password")
        return Settings.from_env(
            {**told, "SLIPWAY_RUNTIME": "docker", "SLIPWAY_ADMIN_PASSWORD_FILE": password}
        )

    def compose(self, *argv: str, seconds: float = 300) -> str:
        """Runs docker-compose; returns what it said."""
        done = subprocess.run(
            [
                "docker-compose",
                *("--env-file", str(self.folder / "env")),
                *("--project-directory", str(ROOT), "-f", str(ROOT / "docker-compose.yml")),
                *("-p", self.project),
                *argv,
            ],
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder), "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, f"{argv}: {done.stdout}\n{self.logs()}"
        return done.stdout

    def containers(self, service: str = "", *, all: bool = False) -> list[dict[str, Any]]:
        """Inspected containers of the project."""
        labels = [f"com.docker.compose.project={self.project}", "com.docker.compose.oneoff=False"]
        labels += [f"com.docker.compose.service={service}"] if service else []
        with self.engine.asking("the containers") as api:
            found = api.containers(all=all, filters={"label": labels})
            return [dict(api.inspect_container(each["Id"])) for each in found]

    def functions(self) -> dict[str, str]:
        """Containers of functions: id → state."""
        label = f"com.slipway.installation={self.settings.mark}"
        with self.engine.asking("the functions") as api:
            found = api.containers(all=True, filters={"label": label})
        return {each["Id"]: each["State"] for each in found}

    def up(self, *argv: str) -> None:
        """``up -d``, until every container is healthy and the whole says so."""
        self.compose("up", "-d", *argv)
        eventually(self.healthy, 90, lambda: f"{self.states()}\n{self.logs()}")

    def healthy(self) -> bool:
        states = self.states()
        good = set(states) == set(SERVICES) and set(states.values()) == {"healthy"}
        try:
            return good and self.request("/healthz", timeout=5).status == 200
        except OSError:
            return False

    def states(self) -> dict[str, str]:
        """Service → the worst health among its containers."""
        told: dict[str, str] = {}
        for each in self.containers(all=True):
            name = each["Config"]["Labels"]["com.docker.compose.service"]
            state = each["State"]
            health = state.get("Health", {}).get("Status", state["Status"])
            told[name] = health if told.get(name, "healthy") == "healthy" else told[name]
        return told

    def logs(self) -> str:
        told = []
        for each in self.containers(all=True):
            with self.engine.asking("the logs") as api:
                last = api.logs(each["Id"], tail=25).decode(errors="replace")
            told.append(f"== {each['Name']} {each['State']['Status']}\n{last}")
        return "\n".join(told)

    def remove(self) -> None:
        """What an operator does to be rid of it, and what he leaves to the engine: its images."""
        self.compose("stop", "runtime", "builder")
        self.compose(
            "run", "--rm", "--no-deps", "runtime", "python", "-m", "runtime.compose", "--remove"
        )
        self.compose("down", "-v", "--remove-orphans")

    def clear(self) -> None:
        """Leaves nothing, whatever state it is in."""
        with self.engine.asking("tidying up") as api:
            for label in (
                f"com.docker.compose.project={self.project}",
                f"com.slipway.installation={self.settings.mark}",
            ):
                for each in api.containers(all=True, filters={"label": label}):
                    api.remove_container(each["Id"], force=True, v=True)
                for each in api.networks(filters={"label": label}):
                    api.remove_network(each["Id"])
            mine = {"label": f"com.docker.compose.project={self.project}"}
            for each in api.volumes(filters=mine)["Volumes"] or []:
                api.remove_volume(each["Name"], force=True)
            for each in api.images():
                for name in [*(each["RepoTags"] or []), *(each["RepoDigests"] or [])]:
                    if name.startswith(self.variables["SLIPWAY_REGISTRY"]):
                        with contextlib.suppress(NotFound):  # went with another name
                            api.remove_image(name, force=True)
        self.engine.close()


def usable() -> str:
    """Why compose cannot run here; '' if it can."""
    if os.getuid() != 0:
        return "needs to run as root"
    if not shutil.which("docker-compose"):
        return "docker-compose is not installed (apt-get install docker-compose)"
    engine = Engine("unix:///var/run/docker.sock")
    if not engine.alive():
        return "no Docker engine answers at /var/run/docker.sock"
    with engine.asking("the base image") as api:
        there = api.images(name="python:3.11-slim-bookworm")
    engine.close()
    return "" if there else "python:3.11-slim-bookworm is not there: make base-images"


def eventually(
    condition: Callable[[], object], seconds: float, told: Callable[[], str] = lambda: ""
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {seconds} s: {told()}"
        time.sleep(0.2)

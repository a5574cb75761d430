"""What the benches of the Docker runtime share: the engine, functions by hand, what they weigh."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from docker import APIClient

from bench import harness, processes
from bench.byhand import TEMPLATE
from bench.harness import BenchError, Platform
from bench.repository import write_handler
from builder.engines import buildkit
from builder.engines.imagebuild import registries_file
from core.settings import Settings
from engine.client import Engine
from runtime.providers import Provider
from runtime.providers.registry import make_provider

DOCKER = {"SLIPWAY_RUNTIME": "docker"}


@contextlib.contextmanager
def engine(settings: Settings) -> Iterator[APIClient]:
    """The engine that runs functions; BenchError where it does not answer."""
    found = Engine(settings.engine_url)
    if not found.alive():
        raise BenchError(f"no Docker engine answers at {settings.engine_url}: start dockerd")
    try:
        with found.asking("the bench") as api:
            yield api
    finally:
        found.close()


@contextlib.contextmanager
def running(folder: Path, env: dict[str, str] | None = None) -> Iterator[Platform]:
    """A platform on Docker; the images of its functions go with it."""
    with contextlib.ExitStack() as after, harness.running(folder, DOCKER | (env or {})) as platform:
        after.callback(_discard, platform.settings, registry(platform))
        yield platform


def _discard(settings: Settings, registry: str) -> None:
    """Takes their names from a registry's images: one may be another platform's as well."""
    with engine(settings) as api:
        for image in api.images():
            for name in (*(image["RepoTags"] or ()), *(image["RepoDigests"] or ())):
                if name.startswith(f"{registry}/"):
                    api.remove_image(name)


@contextlib.contextmanager
def provider(settings: Settings) -> Iterator[Provider]:
    """A provider without a platform, its network made and removed."""
    from supervisor.chores import network_down, network_up

    settings.state.mkdir(parents=True, mode=0o700)
    settings.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    network_up(settings, settings.run / "network.json")
    made = make_provider(settings, b"the key of this bench")
    try:
        yield made
    finally:
        made.close()
        network_down(settings)


def registry(platform: Platform) -> str:
    """The registry that the platform started, as the engine names it."""
    port = (platform.state / "registry-port").read_text().strip()
    return f"127.0.0.1:{port}"


class Container:
    """One function put up by hand: `docker build`, `push`, `run`, and a poll until it answers."""

    def __init__(self, folder: Path, settings: Settings, registry: str = "") -> None:
        """``registry``: where it is pushed; empty: the one that ``settings`` say was started."""
        self.context = folder
        self.name = f"slipway-bench-{uuid.uuid4().hex[:8]}"
        self.registry = registry
        self.image = f"{registry + '/' if registry else ''}by-hand/{self.name}:latest"
        self.port = harness.free_port()
        self._settings = settings
        self._cli = buildkit.find(settings, os.environ.get("PATH", "")).program
        self._env = harness.clean_environment(folder.parent / "home") | {
            "DOCKER_BUILDKIT": "1",
            "DOCKER_HOST": settings.engine_url,
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def write(self, text: str) -> None:
        """The template with the handler's new code inside: the image's context."""
        shutil.copytree(TEMPLATE, self.context, dirs_exist_ok=True)
        write_handler(self.context / "function", text)
        self.require("")

    def require(self, line: str) -> None:
        """Writes requirements where the Dockerfile looks: the template's, and one of its own."""
        folder = self.context / ".dependencies"
        folder.mkdir(exist_ok=True)
        own = (TEMPLATE / "requirements.txt").read_text()
        (folder / "requirements.txt").write_text(f"{own}{line}\n")

    def release(self) -> None:
        """Build, push, run: the old one is gone before the new one starts."""
        self.build()
        if self.registry:
            self._docker("push", "--quiet", self.image)
        self.start()

    def build(self) -> None:
        options = [f"--build-arg=BASE_IMAGE={self._settings.python_image}"]
        options.append(f"--build-arg=UV_VERSION={importlib.metadata.version('uv')}")
        with tempfile.TemporaryDirectory() as folder:
            secrets = registries_file(Path(folder))
            options += [f"--secret=id={name},src={path}" for name, path in secrets.items()]
            self._docker("build", "--quiet", *options, "--tag", self.image, str(self.context))

    def start(self) -> None:
        self.remove()
        publish = f"127.0.0.1:{self.port}:8080"
        self._docker("run", "--detach", "--name", self.name, "--publish", publish, self.image)

    def create(self, image: str) -> None:
        """`docker create` of another image; nothing runs yet."""
        publish = f"127.0.0.1:{self.port}:8080"
        self._docker("create", "--name", self.name, "--publish", publish, image)

    def start_again(self) -> None:
        """`docker start` of what was created or stopped."""
        self._docker("start", self.name)

    def stop(self) -> None:
        """`docker stop`: the container stays."""
        self._docker("stop", self.name)

    def id(self) -> str:
        return self._docker("container", "inspect", "--format", "{{.Id}}", self.name)

    def image_id(self) -> str:
        return self._docker("image", "inspect", "--format", "{{.Id}}", self.image)

    def remove(self) -> None:
        """Removes the container, if there is one."""
        with contextlib.suppress(BenchError):
            self._docker("rm", "--force", self.name)

    def clear(self) -> None:
        """Removes container and image."""
        self.remove()
        with contextlib.suppress(BenchError):
            self._docker("rmi", "--force", self.image)

    def _docker(self, *arguments: str) -> str:
        done = subprocess.run(
            [str(self._cli), *arguments], env=self._env, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise BenchError(f"docker {arguments[0]} failed: {done.stderr[-2000:]}")
        return done.stdout.strip()


@contextlib.contextmanager
def by_hand(folder: Path, settings: Settings) -> Iterator[Container]:
    """A small function built and run by hand, which answers."""
    hand = Container(folder / "by-hand", settings)
    try:
        hand.write("by hand")
        hand.build()
        hand.start()
        harness.await_answer(hand.url, "/", "by hand")
        yield hand
    finally:
        hand.clear()


def of_functions(settings: Settings) -> list[Any]:
    """The containers of this installation that are not gone, as the engine lists them."""
    label = f"com.slipway.installation={settings.mark}"
    with engine(settings) as api:
        return list(api.containers(filters={"label": label}))


def memory_of_functions(settings: Settings) -> list[int]:
    """Bytes that the control group of each function's container is charged, less idle cache."""
    return [memory_of(settings, each["Id"]) for each in of_functions(settings)]


def memory_of(settings: Settings, name: str) -> int:
    """The same of one container."""
    with engine(settings) as api:
        return _used(api.stats(name, stream=False, one_shot=True))


def engine_processes(settings: Settings) -> list[int]:
    """dockerd and containerd of the engine that runs functions, without the shims."""
    with engine(settings) as api:
        root = str(api.info()["DockerRootDir"])
    ours = str(settings.build_engine_folder)
    found = []
    for pid in processes.named("dockerd") + processes.named("containerd"):
        if ours not in " ".join(processes.arguments(pid)) and not _is_build_engine(pid, settings):
            found.append(pid)
    if not found:
        raise BenchError(f"no dockerd was found for {root}")
    return found


def shim_memory(ids: Iterable[str]) -> list[int]:
    """Bytes (PSS) of the shim that the engine keeps beside each of these containers.

    Raises:
        BenchError: one has none: another engine than Docker's own.
    """
    shims = [(pid, processes.arguments(pid)) for pid in processes.named("containerd-shim")]
    found = []
    for id_ in ids:
        own = [pid for pid, argv in shims if id_ in argv]
        if not own:
            raise BenchError(f"no containerd-shim was found for the container {id_}")
        found.append(sum(map(processes.pss, own)))
    return found


def _is_build_engine(pid: int, settings: Settings) -> bool:
    return str(settings.run) in " ".join(processes.arguments(pid))


def _used(stats: Any) -> int:
    """As `docker stats` counts: usage less what of the page cache is inactive."""
    memory = stats["memory_stats"]
    detail = memory["stats"]
    return int(memory["usage"]) - int(
        detail.get("inactive_file", detail.get("total_inactive_file", 0))
    )

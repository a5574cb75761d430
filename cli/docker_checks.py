"""What can be wrong with what the docker runtime stands on, looked at one by one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

from cli.findings import FAIL, OK, WARN, Finding
from core import disk
from core.cgroup import ENGINE
from core.errors import ConfigError, NotFound, SlipwayError
from core.settings import Settings
from supervisor import build_engine

BUILDS_UNBOUNDED = "time and output are bounded; memory, CPU and network are not"


def examine(settings: Settings, *, runs: bool) -> Iterator[Finding]:
    """``runs``: the installation is up, so that what it started has to answer. ``settings``: as
    that run came to use them."""
    from engine.client import Engine

    engine = Engine(settings.engine_url, timeout=10)
    try:
        begun = time.monotonic()
        with engine.asking("no engine") as api:
            about = api.info()
        took = (time.monotonic() - begun) * 1000
        told = (
            f"Docker {about['ServerVersion']} at {settings.engine_url}, answered in {took:.0f} ms"
        )
        yield Finding("engine", OK, told)
        yield from _cli(settings)
        yield from _images(settings, engine)
        yield from _disk(settings, about)
        yield from _root(settings)
    except SlipwayError as error:
        advice = "start it (systemctl start docker), or name it with SLIPWAY_ENGINE or DOCKER_HOST"
        yield Finding("engine", FAIL, str(error), advice)
    finally:
        engine.close()
    if runs:
        yield from _registry(settings)
        yield from _build_engine(settings)
        yield from _fence(settings)


def builds_bounded_by(settings: Settings) -> str:
    """What holds a Dockerfile's RUN, for people."""
    if not build_engine.ours(settings):
        return f"the engine {settings.build_engine_url}: {BUILDS_UNBOUNDED}"
    count = settings.workers
    return (
        f"an engine of our own: {settings.build_memory * count / 2**20:.0f} MiB, "
        f"{settings.build_cpus * count:g} CPUs and {build_engine.PIDS * count} processes for all "
        f"builds together, {ENGINE:g} of one process' share of the CPU (control group), all "
        "cores but one; the outside world only (nftables)"
    )


def _cli(settings: Settings) -> Iterator[Finding]:
    from builder.engines import buildkit

    try:
        found = buildkit.find(settings, os.environ.get("PATH", ""))
        yield Finding("docker cli", OK, f"{found.program}, with BuildKit")
    except ConfigError as error:
        what, _, advice = str(error).partition(". ")
        yield Finding("docker cli", FAIL, what, advice)


def _images(settings: Settings, engine: Any) -> Iterator[Finding]:
    for name in (settings.python_image, settings.node_image):
        try:
            with engine.asking(f"the image {name}") as api:
                size = api.inspect_image(name)["Size"]
            yield Finding("base image", OK, f"{name}, {size / 1e6:.0f} MB")
        except NotFound:
            advice = "'make base-images' makes it; where a hub is reached, it is pulled when needed"
            yield Finding("base image", WARN, f"{name} is not there", advice)


def _disk(settings: Settings, about: dict[str, Any]) -> Iterator[Finding]:
    root = Path(about["DockerRootDir"])
    if not settings.engine_url.startswith("unix://") or not root.exists():
        return  # it lies on another machine
    left = disk.free(root)
    state = WARN if left < disk.IMAGES_LOW else OK
    advice = "remove images that nobody needs, or make room" if state == WARN else ""
    yield Finding("images' disk", state, f"{left / 2**30:.1f} GiB free at {root}", advice)


def _root(settings: Settings) -> Iterator[Finding]:
    if settings.allow_root:
        told = "images that the admin deploys by API run as root where they say so"
        yield Finding("root", WARN, told, "unset SLIPWAY_ALLOW_ROOT where none of them needs it")


def _registry(settings: Settings) -> Iterator[Finding]:
    from engine.references import registry_url

    if not settings.registry:
        yield Finding("registry", OK, "none: images are kept by id in the engine")
        return
    url = f"{registry_url(settings)}/v2/"
    try:
        with requests.Session() as session:
            session.trust_env = "127.0.0.1" not in url
            status = session.get(url, timeout=5).status_code
        good = status in (200, 401)  # it may ask who we are
        told = f"{settings.registry} answered {status}"
    except requests.RequestException as error:
        good, told = False, f"{settings.registry} does not answer ({type(error).__name__})"
    advice = "" if good else f"see {settings.state / 'log/registry.log'}, if it is Slipway's own"
    yield Finding("registry", OK if good else FAIL, told, advice)


def _build_engine(settings: Settings) -> Iterator[Finding]:
    from engine.client import Engine

    told = builds_bounded_by(settings)
    if not Engine(settings.build_engine_url).alive():
        advice = f"see {settings.state / 'log/build-engine.log'}"
        yield Finding("builds", FAIL, f"{settings.build_engine_url} does not answer", advice)
    elif build_engine.ours(settings):
        yield Finding("builds", OK, told)
    else:
        advice = "run Slipway as root with dockerd on PATH, or set SLIPWAY_BUILD_ENGINE to an "
        yield Finding("builds", WARN, told, advice + "engine that you bound")


def _fence(settings: Settings) -> Iterator[Finding]:
    from core.sandbox.network import Network

    networks = {"network": Network.from_settings(settings)}
    if build_engine.ours(settings):
        networks["builds' net"] = Network.for_builds(settings)
    for name, network in networks.items():
        if os.geteuid() != 0:
            yield Finding(name, WARN, "not fenced", "run Slipway as root")
        elif network.available():
            told = f"bridge {network.bridge}, {network.subnet}, fenced by nftables"
            yield Finding(name, OK, told)
        else:
            advice = "it is made anew within seconds; if not, the controller's log says why"
            yield Finding(name, FAIL, "its bridge or fence is missing", advice)

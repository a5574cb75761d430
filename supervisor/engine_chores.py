"""Short jobs on Docker engines, each in a process of its own: the SDK takes more memory than the
supervisor may keep.

``python -m supervisor.engine_chores look N``  what there is to run functions on; lines of JSON:
                                              ``{"doing": "…"}`` meanwhile, a ``Look`` at the end;
                                              an engine that is away is waited for N seconds
``python -m supervisor.engine_chores renew``   has the build engine forget its base images
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from builder.engines import buildkit
from core.errors import ConfigError, Conflict, NotFound, SlipwayError
from core.settings import Settings
from engine.client import Engine
from supervisor import registry

ASK_EVERY = 0.5
PULL_SILENCE = 15.0
"""Seconds without a word in which a hub that is reached would have said one."""
_BRIDGE = "com.docker.network.bridge.name"


def look(settings: Settings, patience: float = 0.0) -> Iterator[dict[str, Any]]:
    """What is missing, and what to do about it; or what there is."""
    engine = Engine(settings.engine_url, timeout=10)
    deadline, waiting = time.monotonic() + patience, False
    while not engine.alive():
        if time.monotonic() >= deadline:
            yield {
                "missing": f"no Docker engine answers at {settings.engine_url}",
                "advice": "start it, or name it with SLIPWAY_ENGINE or DOCKER_HOST",
            }
            return
        if not waiting:
            yield {"doing": f"waiting for the Docker engine at {settings.engine_url}"}
        waiting = True
        time.sleep(ASK_EVERY)
    with engine.asking("the engine does not tell what it is") as api:
        version, info, networks = api.version()["Version"], api.info(), api.networks()
    if why := elsewhere(info, networks):
        yield {
            "missing": f"the engine at {settings.engine_url} {why}, so that functions' addresses "
            "are not reached from here",
            "advice": "run Slipway where an engine runs as root, and name its socket with "
            "SLIPWAY_ENGINE=unix://…",
        }
        return
    try:
        buildkit.find(settings, os.environ.get("PATH", ""))
    except ConfigError as error:
        what, _, advice = str(error).partition(". ")
        yield {"missing": what, "advice": advice}
        return
    bases = (settings.python_image, settings.node_image)
    for name in bases:
        if not _there(engine, name):
            yield {"doing": f"pulling {name}"}
            if told := _pull(engine, name):
                yield {
                    "missing": f"the base image {name} is not there and cannot be pulled ({told})",
                    "advice": "'make base-images' makes it from Debian packages; or name others "
                    "with SLIPWAY_PYTHON_IMAGE and SLIPWAY_NODE_IMAGE",
                }
                return
    how = yield from _registry(settings, engine)
    images = [_there(engine, name) for name in bases]
    root = info["DockerRootDir"]
    yield {"version": version, "registry": how, "images": images, "root": root}
    engine.close()


def elsewhere(info: Mapping[str, Any], networks: Sequence[Mapping[str, Any]]) -> str:
    """Why the engine's bridges are not on this machine, by what it says of itself; or ''.

    A socket alone says nothing: it may be forwarded, mounted into a container, or lead into a
    virtual machine.
    """
    if any("name=rootless" in each for each in info.get("SecurityOptions") or ()):
        return "is rootless: its network is its own"
    if info.get("OperatingSystem") == "Docker Desktop":
        return "is Docker Desktop's: it runs in a virtual machine"
    bridges = [
        (each.get("Options") or {}).get(_BRIDGE) or f"br-{each['Id'][:12]}"
        for each in networks
        if each.get("Driver") == "bridge"
    ]
    if bridges and not any(Path("/sys/class/net", each).exists() for each in bridges):
        return f"has no network interface here (looked for {', '.join(sorted(bridges)[:3])})"
    return ""


def _registry(settings: Settings, engine: Engine) -> Generator[dict[str, Any], None, str]:
    """How the registry is started: ``program``, ``container``, or '' where it is not."""
    if settings.registry or not settings.engine_url.startswith("unix://"):
        return ""
    # Of a run that was killed: the one holds the port, the other may still delete.
    for name in (registry.container_name(settings), registry.collector_name(settings)):
        what = f"the container {name} cannot be removed"
        # Conflict: it is being removed already.
        with suppress(NotFound, Conflict), engine.asking(what) as api:
            api.remove_container(name, force=True)
    if registry.program(os.environ):
        return "program"
    if not _there(engine, registry.IMAGE):
        yield {"doing": f"pulling {registry.IMAGE}"}
        if _pull(engine, registry.IMAGE):
            return ""
    return "container"


def _there(engine: Engine, name: str) -> str:
    """Its id; '' where the engine has none of that name."""
    try:
        with engine.asking(f"the image {name}") as api:
            return str(api.inspect_image(name)["Id"])
    except NotFound:
        return ""


def _pull(engine: Engine, name: str) -> str:
    """Why it cannot be had, or ''. Gives up on a hub that says nothing; a thread that waits for it
    ends with this process."""
    told: queue.Queue[str | None] = queue.Queue()

    def pull() -> None:
        try:
            with engine.asking("the pull failed") as api:
                for line in api.pull(name, stream=True, decode=True):
                    told.put(str(line.get("error", "")))
            told.put(None)
        except SlipwayError as error:
            told.put(str(error))
            told.put(None)

    threading.Thread(target=pull, daemon=True).start()
    why = ""
    try:
        while (line := told.get(timeout=PULL_SILENCE)) is not None:
            why = line or why
    except queue.Empty:
        return f"no hub answered within {PULL_SILENCE:.0f} s"
    return why.strip()[:200]


def renew_images(settings: Settings) -> None:
    """Takes the base images' names from what the build engine has under them: they were made anew
    since, and the next build that needs one copies it."""
    target = Engine(settings.build_engine_url)
    for name in (settings.python_image, settings.node_image):
        with suppress(NotFound), target.asking(f"{name} cannot be renewed") as api:
            api.remove_image(name, force=True)
    target.close()


def main() -> int:
    settings = Settings.from_env(os.environ)
    match sys.argv[1:]:
        case ["look", patience]:
            for told in look(settings, float(patience)):
                print(json.dumps(told), flush=True)
            sys.stdout.flush()
            os._exit(0)  # a pull that hangs is not waited for
        case ["renew"]:
            renew_images(settings)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SlipwayError as error:
        print(error, file=sys.stderr)
        sys.exit(1)

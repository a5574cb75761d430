"""What functions run on: a Docker engine, or the sandbox. Decided before anything starts.

SLIPWAY_RUNTIME=docker insists. ``auto`` takes docker where an engine, a docker command with
BuildKit and the base images are there, and says why where it does not. An installation keeps to
what it ran on, because what is live was built for that: ``<state>/runtime`` remembers it. One that
ran on Docker waits for an engine that is slow at boot, and rather stops than falls back.
"""

from __future__ import annotations

import json
import selectors
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from core.errors import ConfigError, SlipwayError
from core.settings import PREFIX, ROOT, Settings
from supervisor import build_engine, parts, registry
from supervisor.screen import Screen

LOOK_SECONDS = 1800.0
"""A base image on a slow line takes its time; silence is noticed earlier."""
ENGINE_SECONDS = 60.0
"""How long an installation that ran on Docker waits for its engine."""

_USED = ("RUNTIME", "ENGINE", "BUILD_ENGINE", "REGISTRY", "REGISTRY_URL")


@dataclass(frozen=True)
class Choice:
    """What all parts are told."""

    settings: Settings
    """``runtime`` is ``process`` or ``docker``; with docker, ``engine``, ``build_engine`` and
    ``registry`` are as they will be."""
    images: str = ""
    """The ids of the base images."""
    disks: Sequence[Path] = ()
    """Folders that images and state lie in."""
    registry: str = ""
    """How ours is started: ``program``, ``container``, or not."""
    changed: bool = False
    """Whether what is live was built for the other runtime."""


def choose(settings: Settings, env: Mapping[str, str], screen: Screen) -> Choice:
    """Decides, and tells the user.

    Raises:
        ConfigError: something is missing, and docker is insisted on or what is live was built for
            it; or the registry's port is another's by now.
    """
    before = remembered(settings)
    if settings.runtime == "auto" and before == "process":
        screen.say(
            "slipway: functions run as sandboxed processes, as before (SLIPWAY_RUNTIME=docker "
            "changes to a Docker engine)"
        )
        return Choice(replace(settings, runtime="process"))
    if settings.runtime == "process":
        return _process(settings, before, screen)
    settings = with_engine(settings, env)
    patience = ENGINE_SECONDS if before == "docker" else 0.0
    seen = _unusable(settings) or _look(settings, env, screen, patience)
    if missing := seen.get("missing"):
        if settings.runtime == "docker":
            raise ConfigError(f"SLIPWAY_RUNTIME=docker, but {missing}: {seen['advice']}")
        if before == "docker":
            raise ConfigError(
                f"this installation's functions run on Docker, but {missing}: {seen['advice']}; or "
                "set SLIPWAY_RUNTIME=process, and release everything again (slipway redeploy "
                "<namespace>/<repository>)"
            )
        screen.say(
            f"slipway: functions run as sandboxed processes, not on Docker: {missing}\n"
            f"slipway: for Docker: {seen['advice']}"
        )
        return _process(settings, before, screen)
    return _docker(settings, env, before, seen, screen)


def with_engine(settings: Settings, env: Mapping[str, str]) -> Settings:
    """DOCKER_HOST counts where SLIPWAY_ENGINE is unset."""
    if settings.engine or not env.get("DOCKER_HOST"):
        return settings
    return replace(settings, engine=env["DOCKER_HOST"])


def write_down(settings: Settings) -> None:
    """What a run came to use, for ``slipway doctor`` and ``config``."""
    told = settings.environment()
    used = {f"{PREFIX}{name}": told.get(f"{PREFIX}{name}", "") for name in _USED}
    _used_file(settings).write_text(json.dumps(used))


def in_use(settings: Settings, env: Mapping[str, str], *, runs: bool) -> Settings:
    """The settings as the installation uses them, or would by what is known of it."""
    if runs:
        with suppress(OSError, ValueError, SlipwayError):
            used = json.loads(_used_file(settings).read_text())
            return Settings.from_env(settings.environment() | used)
    settings = with_engine(settings, env)
    if settings.runtime == "auto":
        settings = replace(settings, runtime=remembered(settings) or "auto")
    if settings.runtime == "docker" and build_engine.applies(settings, env):
        settings = replace(settings, build_engine=build_engine.url(settings))
    return settings


def _used_file(settings: Settings) -> Path:
    return settings.run / "used.json"


def _unusable(settings: Settings) -> dict[str, Any]:
    """What is wrong with the engine's URL, as the look would tell it."""
    if urlsplit(settings.engine_url).scheme == "unix":
        return {}
    return {
        "missing": f"the engine named by SLIPWAY_ENGINE or DOCKER_HOST={settings.engine} is not "
        "on this machine, as far as can be told: functions' addresses are not reached from here",
        "advice": "run Slipway where the engine runs, and name its socket with "
        "SLIPWAY_ENGINE=unix://…",
    }


def remembered(settings: Settings) -> str:
    """What the installation ran on before; '' for a new one."""
    try:
        told = (settings.state / "runtime").read_text().strip()
    except OSError:
        # One from before this was written down has run processes.
        return "process" if settings.bundles.is_dir() else ""
    return told if told in ("process", "docker") else ""


def _process(settings: Settings, before: str, screen: Screen) -> Choice:
    changed = before == "docker"
    if changed:
        _tell_change(before, screen)
    _remember(settings, "process")
    return Choice(replace(settings, runtime="process"), changed=changed)


def _docker(
    settings: Settings, env: Mapping[str, str], before: str, seen: Mapping[str, Any], screen: Screen
) -> Choice:
    how = str(seen["registry"])
    settings = replace(settings, runtime="docker", engine=settings.engine_url)
    if how:
        settings = registry.settle(settings)
    if build_engine.applies(settings, env):
        settings = replace(settings, build_engine=build_engine.url(settings))
    screen.say(f"slipway: functions run on Docker {seen['version']} at {settings.engine}")
    if not settings.registry:
        screen.say(
            "slipway: there is no registry: images are kept by id in the engine "
            "(apt-get install -y docker-registry, or SLIPWAY_REGISTRY)"
        )
    changed = before == "process"
    if changed:
        _tell_change(before, screen)
    _remember(settings, "docker")
    images = " ".join(seen["images"])
    disks = [settings.state]
    if settings.engine.startswith("unix://"):
        disks.append(Path(seen["root"]))
    return Choice(settings, registry=how, images=images, disks=disks, changed=changed)


def _tell_change(before: str, screen: Screen) -> None:
    screen.say(
        f"slipway: functions that were built for {before} have to be released again: push, or "
        "slipway redeploy <namespace>/<repository>"
    )


def _remember(settings: Settings, runtime: str) -> None:
    (settings.state / "runtime").write_text(f"{runtime}\n")


def _look(
    settings: Settings, env: Mapping[str, str], screen: Screen, patience: float
) -> dict[str, Any]:
    """Looks for what docker needs, in a process of its own; shows what is being done."""
    screen.doing("looking for a Docker engine")
    argv = parts.python("supervisor.engine_chores", "look", str(patience))
    seen: dict[str, Any] = {}
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=parts.environment(env, settings),
        cwd=ROOT,
        text=True,
    ) as process:
        try:
            for line in _lines(process, screen):
                seen = json.loads(line)
                screen.doing(seen.get("doing", ""))
        except BaseException:
            process.kill()
            raise
        assert process.stderr  # a pipe
        words = process.stderr.read().strip()
    if "missing" not in seen and "version" not in seen:
        seen = {"missing": "the engine could not be looked at", "advice": words[-500:]}
    screen.doing("")
    return seen


def _lines(process: subprocess.Popen[str], screen: Screen) -> Iterator[str]:
    """Lines as they come, while the screen shows that time passes."""
    assert process.stdout  # a pipe
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            while not selector.select(0.2):
                screen.tick()
            if not (line := process.stdout.readline()):
                return
            yield line

"""The registry that `slipway up` starts where none is named: on loopback, kept in the state folder.

    python -m supervisor.registry program    removes what nobody needs, at most daily → becomes
                                             Debian's docker-registry, or one of its relatives
    python -m supervisor.registry container  the same with the image registry:2 on the engine
    python -m supervisor.registry collect    removes what nobody needs while it serves: whoever
                                             runs this sees to it that nothing is pushed meanwhile

Its port is chosen once: the names of all images contain it. Only beside a local engine, which
trusts plain HTTP on loopback alone; elsewhere images are kept by id in the engine.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from core import http
from core.errors import ConfigError, SlipwayError, Unavailable
from core.settings import Settings
from supervisor import parts
from supervisor.parts import Part

NAME = "registry"
IMAGE = "registry:2"
PROGRAMS = ("docker-registry", "registry")
FIRST_PORT, PORTS = 20_000, 10_000
"""Below those that the kernel gives to outgoing connections."""
CONTAINER_MEMORY = "256m"
_INSIDE = Path("/var/lib/registry")
_CONFIG = "/etc/docker/registry/config.yml"
"""Where the image's own configuration is, which has a cache; ours takes its place."""
_COLLECT_EVERY = 24 * 3600.0
_COLLECT_SECONDS = 60.0
"""How long a start may wait for the removal of what nobody needs; it goes on the next day."""
_REMOVE_SECONDS = 30.0


def program(env: Mapping[str, str]) -> str:
    """'' where there is none on PATH."""
    found = (shutil.which(each, path=env.get("PATH")) for each in PROGRAMS)
    return next((each for each in found if each), "")


def settle(settings: Settings) -> Settings:
    """The settings with our registry in them; its port is chosen, or as it was.

    Raises:
        ConfigError: another program has that port by now.
    """
    file = settings.state / "registry-port"
    try:
        port = int(file.read_text())
    except (OSError, ValueError):
        port = next(each for each in _ports(settings) if each != settings.port and _free(each))
        file.write_text(f"{port}\n")
    if not _free(port):
        raise ConfigError(
            f"another program listens on 127.0.0.1:{port}, where this installation's images are "
            f"named: end it (ss -ltnp shows it); or remove {file}, and release all functions "
            "again ('slipway redeploy')"
        )
    return replace(settings, registry=f"127.0.0.1:{port}", registry_url="")


def part(how: str) -> Part:
    """``how``: ``program`` or ``container``."""
    return Part(name=NAME, argv=parts.python("supervisor.registry", how))


def answers(settings: Settings) -> bool:
    try:
        return http.request(settings.registry, "GET", "/v2/", timeout=0.5)[0] == 200
    except OSError:
        return False


def configuration(settings: Settings, folder: Path) -> str:
    """Its file, as JSON, which is YAML too; it keeps everything in ``folder``.

    Without a cache of what it has: that would go on telling of what was collected beside it, and
    whoever pushes would leave those layers out.
    """
    told = {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(folder)},
            "delete": {"enabled": True},
        },
        "http": {"addr": settings.registry, "secret": secrets.token_hex(16)},
    }
    return json.dumps(told)


def container_name(settings: Settings) -> str:
    return f"slipway-registry-{settings.mark}"


def collector_name(settings: Settings) -> str:
    return f"{container_name(settings)}-collector"


def container_argv(settings: Settings, docker: str, *command: str) -> list[str]:
    """The docker command that runs the registry's image; ``command``: instead of serving.

    It serves in the host's network, on loopback alone. On the engine's bridge every container there
    could read and delete all owners' images: it asks nobody who they are.
    """
    serving = ["--network", "host", "--name", container_name(settings)]
    collecting = ["--network", "none", "--name", collector_name(settings)]
    return [
        *(docker, "--host", settings.engine_url, "run", "--rm"),
        *("--label", f"com.slipway.installation={settings.mark}.registry"),
        *("--memory", CONTAINER_MEMORY, "--pids-limit", "256"),
        *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
        *("--volume", f"{settings.registry_folder}:{_INSIDE}"),
        *("--volume", f"{_container_config(settings)}:{_CONFIG}:ro"),
        *(collecting if command else serving),
        *(IMAGE, *command),
    ]


def due(settings: Settings, now: float) -> bool:
    """Whether it is time to remove blobs that no manifest names any more, and says so but once.

    Only before it serves, or while nothing is pushed: a push could lose a layer. Manifests without
    a tag stay, for functions are deployed by digest; whoever keeps house deletes those that nobody
    needs.
    """
    if not (settings.registry_folder / "docker/registry/v2/repositories").is_dir():
        return False  # nothing was pushed yet
    stamp = settings.state / "registry-collected"
    with suppress(FileNotFoundError):
        if now - stamp.stat().st_mtime < _COLLECT_EVERY:
            return False
    stamp.touch()
    os.utime(stamp, (now, now))
    return True


def _collect(settings: Settings, argv: Sequence[str], env: Mapping[str, str]) -> None:
    if not due(settings, time.time()):
        return
    try:
        _run(argv, env)
    except subprocess.TimeoutExpired:
        told = f"removing old images takes over {_COLLECT_SECONDS:.0f} s: tomorrow again"
        print(told, flush=True)  # this process becomes another program


def collect(settings: Settings, env: Mapping[str, str]) -> None:
    """Removes blobs while it serves; does nothing where it is not ours."""
    try:
        ours = f"127.0.0.1:{(settings.state / 'registry-port').read_text().strip()}"
    except OSError:
        return
    if settings.registry != ours:
        return
    (settings.state / "registry-collected").touch()
    config = settings.run / "registry.json"
    if config.exists() and (found := program(env)):
        _run([found, "garbage-collect", str(config)], env)
    else:
        docker, env = _docker(settings, env)
        with _collector(settings, docker, env) as argv:
            _run(argv, env)


def _run(argv: Sequence[str], env: Mapping[str, str]) -> None:
    """Raises subprocess.TimeoutExpired."""
    subprocess.run(argv, env=env, check=False, timeout=_COLLECT_SECONDS, stdout=subprocess.DEVNULL)


@contextmanager
def _collector(settings: Settings, docker: str, env: Mapping[str, str]) -> Iterator[list[str]]:
    """Gives the command that collects in a container of its own, which does not outlive this,
    whatever becomes of the command. Raises as ``remove``."""
    remove(settings, docker, collector_name(settings), env)  # of a run that was killed
    try:
        yield container_argv(settings, docker, "garbage-collect", _CONFIG)
    finally:
        remove(settings, docker, collector_name(settings), env)


def _docker(settings: Settings, env: Mapping[str, str]) -> tuple[str, Mapping[str, str]]:
    """The docker command, and its environment: without it, it takes logins and proxies of the user
    who runs us."""
    docker = shutil.which("docker", path=env.get("PATH")) or "docker"
    return docker, {**env, "DOCKER_CONFIG": str(settings.run / "registry-docker")}


def _container_config(settings: Settings) -> Path:
    """Beside the folder that the container gets: what the engine finds there it finds here."""
    return settings.state / "registry.json"


def _write(config: Path, text: str) -> None:
    config.touch(mode=0o600)
    config.write_text(text)


def _serve_program(settings: Settings, env: Mapping[str, str]) -> None:
    config = settings.run / "registry.json"
    _write(config, configuration(settings, settings.registry_folder))
    found = program(env)
    _collect(settings, [found, "garbage-collect", str(config)], env)
    os.execve(found, [found, "serve", str(config)], dict(env))


def _serve_container(settings: Settings, env: Mapping[str, str]) -> None:
    """Becomes the docker command in the foreground, which hands signals on to the container."""
    docker, env = _docker(settings, env)
    _write(_container_config(settings), configuration(settings, _INSIDE))
    # Of a run that was killed: it has the name and the port.
    remove(settings, docker, container_name(settings), env)
    with _collector(settings, docker, env) as argv:
        _collect(settings, argv, env)
    argv = container_argv(settings, docker)
    os.execve(docker, argv, env)


def remove(settings: Settings, docker: str, name: str, env: Mapping[str, str]) -> None:
    """Ends and removes a container; there need not be one.

    Raises:
        Unavailable: it may still run.
    """
    deadline = time.monotonic() + _REMOVE_SECONDS
    while True:
        argv = [docker, "--host", settings.engine_url, "rm", "--force", name]
        try:
            done = subprocess.run(
                argv, env=env, check=False, timeout=_REMOVE_SECONDS, capture_output=True, text=True
            )
            told = done.stderr.strip()
        except subprocess.TimeoutExpired:
            told = f"no answer in {_REMOVE_SECONDS:.0f} s"
        else:
            if done.returncode == 0 or "no such container" in told.lower():
                return
        if time.monotonic() > deadline:
            raise Unavailable(f"the container {name} cannot be removed: {told}")
        time.sleep(0.5)  # it is being removed already, perhaps


def _ports(settings: Settings) -> Iterator[int]:
    """Drawn by the state folder, as its subnets are: of two installations that do not run at the
    same time, one would find its port taken otherwise."""
    drawn = int(settings.mark, 16) % PORTS
    for number in range(PORTS):
        yield FIRST_PORT + (drawn + number) % PORTS


def _free(port: int) -> bool:
    """Whether somebody could listen there: connections of an earlier run do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def main() -> int:
    settings = Settings.from_env(os.environ)
    env = parts.daemon(os.environ)
    settings.registry_folder.mkdir(mode=0o700, exist_ok=True)
    match sys.argv[1:]:
        case ["program"]:
            _serve_program(settings, env)
        case ["container"]:
            _serve_container(settings, env)
        case ["collect"]:
            # Who asks for it and then ends us wants nothing to go on.
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
            collect(settings, env)
            return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (SlipwayError, subprocess.TimeoutExpired) as error:
        print(error, file=sys.stderr)
        sys.exit(1)

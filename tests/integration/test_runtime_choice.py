"""What `slipway up` takes to run functions on, and what it says of it."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from core.errors import ConfigError
from core.settings import Settings
from engine.client import Engine
from supervisor import build_engine, engine_chores, registry, runtime_choice
from supervisor.runtime_choice import Choice, choose
from supervisor.screen import Screen
from tests.conftest import missing

NOWHERE = "unix:///nonexistent/docker.sock"


@pytest.fixture
def fresh(short_tmp: Path) -> Settings:
    state = short_tmp / "state"
    state.mkdir()
    return Settings.from_env({"SLIPWAY_STATE": str(state)})


@pytest.fixture
def with_docker(fresh: Settings) -> Settings:
    engine = Engine(fresh.engine_url)
    if not engine.alive():
        missing("a Docker engine")
    with engine.asking("images") as api:
        lacking = [n for n in (fresh.python_image, fresh.node_image) if not api.images(n)]
    engine.close()
    if lacking:
        missing(f"{lacking}: make base-images")
    return fresh


def chosen(settings: Settings, **env: str) -> tuple[Choice, str]:
    """The choice, and what was said."""
    out = io.StringIO()
    told = {"PATH": os.environ["PATH"]} | env
    return choose(settings, told, Screen(out)), out.getvalue()


def insisting(settings: Settings, **changed: str) -> Settings:
    return replace(settings, runtime="docker", **changed)  # type: ignore[arg-type]  # texts only


def test_without_an_engine_it_says_that_it_falls_back_and_why(fresh: Settings) -> None:
    choice, told = chosen(replace(fresh, engine=NOWHERE))
    assert choice.settings.runtime == "process"
    assert f"not on Docker: no Docker engine answers at {NOWHERE}" in told
    assert "SLIPWAY_ENGINE" in told
    assert len(told.splitlines()) <= 3
    assert (fresh.state / "runtime").read_text() == "process\n"


def test_who_insists_on_docker_gets_an_error_that_says_what_to_do(fresh: Settings) -> None:
    with pytest.raises(ConfigError, match=r"no Docker engine answers.*start it, or name it"):
        chosen(insisting(fresh, engine=NOWHERE))
    assert not (fresh.state / "runtime").exists()


def test_an_engine_that_hangs_is_not_waited_for(fresh: Settings, short_tmp: Path) -> None:
    path = short_tmp / "hung.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        begun = time.monotonic()
        choice, told = chosen(replace(fresh, engine=f"unix://{path}"))
    assert choice.settings.runtime == "process"
    assert "no Docker engine answers" in told
    assert time.monotonic() - begun < 15


def test_docker_host_counts_where_no_engine_is_set(fresh: Settings) -> None:
    _, told = chosen(fresh, DOCKER_HOST=NOWHERE)
    assert f"no Docker engine answers at {NOWHERE}" in told
    other = "unix:///nonexistent/other.sock"
    _, told = chosen(replace(fresh, engine=other, state=fresh.state / ".."), DOCKER_HOST=NOWHERE)
    assert f"no Docker engine answers at {other}" in told


def test_a_docker_host_that_nobody_can_use_is_told(fresh: Settings) -> None:
    choice, told = chosen(fresh, DOCKER_HOST="ssh://somewhere")
    assert choice.settings.runtime == "process"
    assert "DOCKER_HOST=ssh://somewhere" in told
    assert "SLIPWAY_ENGINE" in told


@pytest.mark.engine
def test_base_images_that_are_not_there_are_pulled_or_missed(with_docker: Settings) -> None:
    lacking = replace(with_docker, python_image="127.0.0.1:9/slipway-nothing:1")
    choice, told = chosen(lacking)
    assert choice.settings.runtime == "process"
    assert "pulling 127.0.0.1:9/slipway-nothing:1" in told
    assert "is not there and cannot be pulled" in told
    assert "make base-images" in told
    with pytest.raises(ConfigError, match="make base-images"):
        chosen(replace(lacking, runtime="docker"))


@pytest.mark.engine
def test_docker_is_taken_where_everything_is_there(with_docker: Settings) -> None:
    choice, told = chosen(with_docker)
    settings = choice.settings
    assert settings.runtime == "docker"
    assert "functions run on Docker" in told
    assert settings.engine == with_docker.engine_url
    assert Settings.from_env(settings.environment()) == settings, "parts read the same"
    assert not choice.changed
    if shutil.which("docker-registry"):
        assert choice.registry == "program"
        assert settings.registry.startswith("127.0.0.1:")
    if os.geteuid() == 0 and shutil.which("dockerd"):
        assert settings.build_engine == build_engine.url(settings)


@pytest.mark.engine
def test_a_docker_command_without_buildkit_that_comes_first_is_passed_over(
    with_docker: Settings, short_tmp: Path
) -> None:
    fake = short_tmp / "docker"
    fake.write_text(
        "#!/bin/sh\n[ $1 = --version ] && echo 'Docker version 28.0.0, build x' && exit 0\nexit 1\n"
    )
    fake.chmod(0o755)
    choice, told = chosen(with_docker, PATH=f"{short_tmp}:{os.environ['PATH']}")
    assert choice.settings.runtime == "docker", told


@pytest.mark.engine
def test_an_installation_keeps_to_what_it_ran_on(with_docker: Settings) -> None:
    choice, _ = chosen(replace(with_docker, runtime="process"))
    assert choice.settings.runtime == "process"
    choice, told = chosen(with_docker)
    assert choice.settings.runtime == "process"
    assert "as before" in told
    assert "SLIPWAY_RUNTIME=docker" in told

    choice, told = chosen(insisting(with_docker))
    assert (choice.settings.runtime, choice.changed) == ("docker", True)
    assert "built for process have to be released again" in told
    assert "slipway redeploy" in told
    choice, told = chosen(with_docker)
    assert (choice.settings.runtime, choice.changed) == ("docker", False)

    choice, told = chosen(replace(with_docker, runtime="process"))
    assert (choice.settings.runtime, choice.changed) == ("process", True)
    assert "built for docker have to be released again" in told


def ran_on_docker(fresh: Settings) -> Settings:
    (fresh.state / "runtime").write_text("docker\n")
    return fresh


@pytest.mark.parametrize("runtime", ["auto", "docker"])
def test_what_ran_on_docker_stops_rather_than_fall_back(
    fresh: Settings, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    """What is live would be down, and what is pushed would be built for the other runtime."""
    monkeypatch.setattr(runtime_choice, "ENGINE_SECONDS", 2.0)
    out, begun = io.StringIO(), time.monotonic()
    settings = replace(ran_on_docker(fresh), runtime=runtime, engine=NOWHERE)
    with pytest.raises(ConfigError, match=f"no Docker engine answers at {NOWHERE}") as caught:
        choose(settings, {"PATH": os.environ["PATH"]}, Screen(out))
    assert time.monotonic() - begun > 2
    assert out.getvalue().count(f"waiting for the Docker engine at {NOWHERE}") == 1
    assert "start it" in str(caught.value)
    if runtime == "auto":
        assert "SLIPWAY_RUNTIME=process, and release everything again" in str(caught.value)
    assert runtime_choice.remembered(fresh) == "docker"


@pytest.mark.engine
def test_an_engine_that_is_slow_at_boot_is_waited_for(
    with_docker: Settings, short_tmp: Path
) -> None:
    late = short_tmp / "late.sock"
    real = with_docker.engine_url.removeprefix("unix://")
    timer = threading.Timer(3, late.symlink_to, (real,))
    timer.start()
    choice, told = chosen(replace(ran_on_docker(with_docker), engine=f"unix://{late}"))
    timer.join()
    assert choice.settings.runtime == "docker"
    assert "waiting for the Docker engine" in told


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:2375", "https://10.0.0.1:2376"])
def test_an_engine_across_a_network_is_not_taken(fresh: Settings, url: str) -> None:
    choice, told = chosen(replace(fresh, engine=url))
    assert choice.settings.runtime == "process"
    assert "not on this machine" in told
    assert "SLIPWAY_ENGINE=unix://" in told
    with pytest.raises(ConfigError, match="not on this machine"):
        chosen(insisting(fresh, engine=url))


@pytest.mark.engine
@pytest.mark.root
def test_an_engine_whose_bridge_is_elsewhere_is_not_taken(
    with_docker: Settings, short_tmp: Path
) -> None:
    """In a network namespace of its own, as in a virtual machine; only its socket is here."""
    if not shutil.which("dockerd"):
        missing("dockerd")
    with dockerd_in_its_own_network(short_tmp) as url:
        with pytest.raises(ConfigError, match=r"has no network interface here.*not reached"):
            chosen(insisting(with_docker, engine=url))
        assert not (with_docker.state / "runtime").exists()
        choice, told = chosen(replace(with_docker, engine=url))
    assert choice.settings.runtime == "process"
    assert "has no network interface here" in told
    assert (with_docker.state / "runtime").read_text() == "process\n"


@contextlib.contextmanager
def dockerd_in_its_own_network(folder: Path) -> Iterator[str]:
    """Its bridge has a name that no other engine's has."""
    (folder / "config.json").write_text("{}")
    bridge = f"swe{os.getpid() % 0xFFFF:x}"
    dockerd = [
        *("dockerd", f"--config-file={folder}/config.json", f"--host=unix://{folder}/b.sock"),
        *(f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--pidfile={folder}/pid"),
        *(f"--bridge={bridge}", "--iptables=false", "--ip6tables=false", "--ip-forward=false"),
        *("--ip-masq=false", "--userland-proxy=false", "--shutdown-timeout=3"),
    ]
    prepared = (
        f"ip link add {bridge} type bridge && ip addr add 172.30.9.1/24 dev {bridge} && "
        f'ip link set {bridge} up && exec "$@"'
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", prepared, "sh", *dockerd],
            stdout=log,
            stderr=log,
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
        )
    try:
        engine, deadline = Engine(f"unix://{folder}/b.sock"), time.monotonic() + 60
        while not engine.alive():
            told = (folder / "log").read_text()[-2000:]
            assert process.poll() is None, told
            assert time.monotonic() < deadline, told
            time.sleep(0.05)
        yield engine.url
    finally:
        process.terminate()
        process.wait(60)


def test_a_rootless_engine_and_docker_desktop_are_not_on_this_machine() -> None:
    """What ``docker info`` says there."""
    rootless = {"SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless"]}
    assert "rootless" in engine_chores.elsewhere(rootless, [])
    assert "Desktop" in engine_chores.elsewhere({"OperatingSystem": "Docker Desktop"}, [])
    assert engine_chores.elsewhere({"OperatingSystem": "Debian GNU/Linux 12"}, []) == ""


def test_an_installation_from_before_the_choice_ran_processes(fresh: Settings) -> None:
    fresh.bundles.mkdir()
    assert runtime_choice.remembered(fresh) == "process"
    (fresh.state / "runtime").write_text("docker\n")
    assert runtime_choice.remembered(fresh) == "docker"


def test_the_registry_s_port_is_chosen_once(fresh: Settings) -> None:
    first = registry.settle(fresh).registry
    assert registry.settle(fresh).registry == first
    host, _, port = first.partition(":")
    with socket.create_server((host, int(port))):
        with pytest.raises(ConfigError, match=f"another program listens on {first}"):
            registry.settle(fresh)
        (fresh.state / "registry-port").unlink()
        assert registry.settle(fresh).registry != first
    assert registry.settle(replace(fresh, port=int(port))).registry != first


def test_a_registry_of_one_s_own_is_left_alone(with_docker: Settings) -> None:
    choice, _ = chosen(insisting(with_docker, registry="registry.example.com/acme"))
    assert choice.settings.registry == "registry.example.com/acme"
    assert choice.registry == ""


def test_old_images_are_collected_once_a_day(fresh: Settings) -> None:
    now = time.time()
    assert not registry.due(fresh, now), "nothing was pushed yet"
    (fresh.registry_folder / "docker/registry/v2/repositories").mkdir(parents=True)
    assert registry.due(fresh, now)
    assert not registry.due(fresh, now + 3600)
    assert registry.due(fresh, now + 25 * 3600)

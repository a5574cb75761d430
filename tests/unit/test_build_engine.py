"""How the engine for builds and the registry are started: their command lines and files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from core.settings import Settings
from supervisor import build_engine, registry

SETTINGS = Settings(state=Path("/srv/slipway"), registry="127.0.0.1:5003")


def options(nameservers: tuple[str, ...] = ()) -> list[str]:
    return build_engine.command(SETTINGS, "/usr/sbin/dockerd", "slipway12b", 1400, nameservers)


def test_the_engine_is_bounded_fenced_and_leaves_the_host_alone() -> None:
    told = options()
    mark = SETTINGS.mark
    assert told[0] == "/usr/sbin/dockerd"
    for each in (
        "--bridge=slipway12b",
        "--mtu=1400",
        f"--cgroup-parent=/slipway-{mark}b/all",
        "--exec-opt=native.cgroupdriver=cgroupfs",
        "--iptables=false",
        "--ip6tables=false",
        "--ip-forward=false",
        "--ip-masq=false",
        "--group=root",
        "--data-root=/srv/slipway/build-engine",
        f"--containerd-namespace=slipway-{mark}",
    ):
        assert each in told


def test_it_asks_the_resolvers_that_the_fence_opens() -> None:
    assert [each for each in options() if "dns" in each] == []
    assert options(("10.0.0.53", "9.9.9.9"))[-2:] == ["--dns=10.0.0.53", "--dns=9.9.9.9"]


def test_sockets_of_its_own_containerd_have_paths_that_the_kernel_takes() -> None:
    deep = replace(SETTINGS, state=Path("/" + "x" * 55))
    run = deep.run
    assert len(str(run)) <= 60
    exec_root = next(
        each.removeprefix("--exec-root=")
        for each in build_engine.command(deep, "dockerd", "b", 1500, ())
        if each.startswith("--exec-root=")
    )
    longest = f"{exec_root}/containerd/containerd.sock.ttrpc"
    assert len(longest) < 108


def test_of_the_host_s_configuration_it_takes_how_images_are_fetched(tmp_path: Path) -> None:
    host = tmp_path / "daemon.json"
    host.write_text(
        json.dumps({"registry-mirrors": ["https://m"], "hosts": ["tcp://0.0.0.0"], "bip": "x"})
    )
    told = build_engine.configuration(host)
    assert told["registry-mirrors"] == ["https://m"]
    assert not {"hosts", "bip"} & told.keys()
    entitlements = told["builder"]["entitlements"]
    assert entitlements == {"network-host": False, "security-insecure": False}


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_a_broken_configuration_of_the_host_is_left_out(tmp_path: Path, text: str) -> None:
    (tmp_path / "daemon.json").write_text(text)
    assert build_engine.configuration(tmp_path / "daemon.json").keys() == {"builder"}
    assert build_engine.configuration(tmp_path / "none").keys() == {"builder"}


def test_it_is_for_local_engines_only_and_not_where_one_is_named() -> None:
    env = {"PATH": "/nonexistent"}
    assert not build_engine.applies(replace(SETTINGS, engine="tcp://10.0.0.1:2376"), env)
    assert not build_engine.applies(replace(SETTINGS, build_engine="unix:///b.sock"), env)


def test_the_registry_listens_on_loopback_and_may_be_told_to_delete() -> None:
    told = json.loads(registry.configuration(SETTINGS, SETTINGS.registry_folder))
    assert told["http"]["addr"] == "127.0.0.1:5003"
    assert told["storage"]["delete"] == {"enabled": True}
    filesystem = {"rootdirectory": "/srv/slipway/registry"}
    own = {"delete": {"enabled": True}, "filesystem": filesystem}
    assert told["storage"] == own, "a cache would tell of layers that were collected"


def test_the_registry_s_container_is_reached_from_this_host_only() -> None:
    told = registry.container_argv(SETTINGS, "/usr/bin/docker")
    assert told[told.index("--network") + 1] == "host"
    assert "--publish" not in told
    assert told[told.index("--volume") + 1] == "/srv/slipway/registry:/var/lib/registry"
    config = "/srv/slipway/registry.json:/etc/docker/registry/config.yml:ro"
    assert config in told, "the image's own has a cache, and listens everywhere"
    assert f"com.slipway.installation={SETTINGS.mark}.registry" in told
    assert "--memory" in told
    assert told[-1] == registry.IMAGE
    collecting = registry.container_argv(SETTINGS, "docker", "garbage-collect", "x")
    assert collecting[collecting.index("--network") + 1] == "none"
    assert collecting[collecting.index("--name") + 1] == registry.collector_name(SETTINGS)
    assert config in collecting
    assert "--memory" in collecting
    assert collecting[-3:] == [registry.IMAGE, "garbage-collect", "x"]

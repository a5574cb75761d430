"""The docker provider on a real engine: what is ours and what is not, and what heals."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from core import cgroup
from core.cgroup import CONTAINERS
from core.errors import InvalidRequest, NotFound, Unavailable
from core.models import Resources
from core.sandbox import nft
from core.settings import Settings
from engine.client import Engine
from runtime.providers import Phase
from runtime.providers.docker import DockerProvider
from runtime.providers.docker import document as documents
from runtime.providers.docker.network import NAME
from runtime.stopping import stop_all
from tests import containers
from tests.conftest import missing
from tests.contracts.test_provider import (
    House,
    ask,
    exited,
    find,
    host_processes,
    make_house,
    texts,
    until,
)

pytestmark = pytest.mark.engine

CHECKOUT = Path(__file__).resolve().parents[2]

# Dies, as by kill -9, at the moment that its first argument names.
STARTER = """
import json, os, sys
from core.models import FunctionSpec
from core.settings import Settings
from runtime.providers.docker import DockerProvider
when, artifact = sys.argv[1:]
provider = DockerProvider(Settings.from_env(os.environ), b"the key of these tests")
def die(*_, **__): os._exit(9)
if when == "before create": provider._create = die
if when == "before start": provider._run = die
provider.start(FunctionSpec(name="cut", namespace="demo", artifact=artifact))
die()
"""


@pytest.fixture
def house(engine: Engine, tmp_path: Path) -> Iterator[House]:
    assert engine
    yield from make_house("docker", tmp_path)


@pytest.fixture
def strangers(engine: Engine) -> Iterator[Strangers]:
    made = Strangers(engine)
    yield made
    made.close()


class Strangers:
    """Containers and networks that are none of ours."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._made: list[str] = []
        self._networks: list[str] = []

    def container(self, name: str = "", **config: Any) -> str:
        with self._engine.asking("the stranger is not started") as api:
            wanted = {"Image": Settings().python_image, "Cmd": ["sleep", "600"], **config}
            made = str(api.create_container_from_config(wanted, name or None)["Id"])
            self._made.append(made)
            api.start(made)
            return made

    def network(self, name: str) -> str:
        with self._engine.asking("the stranger's network is not made") as api:
            made = str(api.create_network(name)["Id"])
            self._networks.append(made)
            return made

    def close(self) -> None:
        with self._engine.asking("strangers are not removed") as api:
            for each in self._made:
                with contextlib.suppress(Exception):
                    api.remove_container(each, v=True, force=True)
            for each in self._networks:
                with contextlib.suppress(Exception):
                    api.remove_network(each)


def inspect(engine: Engine, container: str) -> dict[str, Any]:
    with engine.asking("") as api:
        found: dict[str, Any] = api.inspect_container(container)
        return found


def running(engine: Engine, container: str) -> bool:
    return bool(inspect(engine, container)["State"]["Running"])


def volumes(engine: Engine) -> set[str]:
    with engine.asking("") as api:
        return {each["Name"] for each in api.volumes()["Volumes"] or ()}


def kernel_says(pid: int, field: str) -> list[str]:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return line.split()[1:]
    return []


# What a container may.


def test_container_is_held_as_the_manual_says(house: House, engine: Engine) -> None:
    provider = house.provider()
    instance = provider.start(house.spec("held", limits=Resources(memory="1Mi", cpu="100m")))
    found = inspect(engine, instance.id)
    host, config = found["HostConfig"], found["Config"]
    assert host["Memory"] == host["MemorySwap"] == 6 * 2**20, "the engine's least"
    assert host["CpuQuota"] / host["CpuPeriod"] == 0.1
    assert isinstance(provider, DockerProvider)
    if os.geteuid() == 0 and provider._about()["CgroupDriver"] == "cgroupfs":
        groups = cgroup.of_containers(house.settings.mark, top=True)
        shared = [each.folder for each in groups.hierarchies if "cpu" in each.controllers]
        assert shared
        for folder in shared:
            assert (folder / found["Id"] / "cgroup.procs").read_text().split()
            for name, share in (("cpu.shares", 1024), ("cpu.weight", 100)):
                if (folder / name).exists():
                    assert int((folder / name).read_text()) == share * CONTAINERS
    assert host["PidsLimit"] == house.settings.function_pids
    assert host["RestartPolicy"]["Name"] == "no"
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert not host["PortBindings"]
    assert not host["Privileged"]
    assert not host["OomKillDisable"]
    assert config["Hostname"] == "held"
    assert config["Healthcheck"]["Test"] == ["NONE"]
    provider.remove(instance)

    instance = provider.start(house.spec())
    me = ask(instance, "/me")
    pid = inspect(engine, instance.id)["State"]["Pid"]
    assert kernel_says(pid, "Uid") == [str(me["uid"])] * 4
    assert kernel_says(pid, "Gid") == [str(me["uid"])] * 4
    assert kernel_says(pid, "Groups") == [str(me["uid"])]
    for each in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(kernel_says(pid, each)[0], 16) == 0, each
    assert kernel_says(pid, "NoNewPrivs") == ["1"]
    assert kernel_says(pid, "Seccomp") == ["2"]
    assert Path(f"/proc/{pid}/root/proc/sys/net/ipv6/conf/all/disable_ipv6").exists()
    assert provider.enforced()["memory"].startswith("cgroup v")
    assert "firewall" in provider.enforced()["network"]


def test_names_may_be_as_long_as_they_can_be(house: House) -> None:
    provider = house.provider()
    instance = provider.start(msgspec.structs.replace(house.spec("n" * 63), namespace="o" * 63))
    assert ask(instance, "/me")["host"] == "n" * 63
    assert ask(instance, "/say?text=long") == "said"
    until(lambda: "long" in texts(provider, f"{'n' * 63}.{'o' * 63}"))


def test_volumes_of_an_image_are_memory_and_its_health_checks_are_off(
    house: House, engine: Engine
) -> None:
    before = volumes(engine)
    more = 'VOLUME ["/data", "/home/app/cache", "/tmp"]\nHEALTHCHECK --interval=1s CMD true'
    artifact = containers.image(
        house.settings,
        {
            "f.py": "import os, time\n"
            "open('/data/x', 'wb').write(bytes(2**20))\n"
            "print(os.listdir('/data'))\n"
            "try: open('/data/y', 'wb').write(bytes(2**26)); print('unbounded')\n"
            "except OSError as error: print(error.strerror)\n"
            "time.sleep(60)"
        },
        ["python3", "f.py"],
        more=more,
        wrapped=False,
    )  # fmt: skip
    provider = house.provider()
    instance = provider.start(
        msgspec.structs.replace(
            house.spec("vols", limits=Resources(memory="256Mi")), artifact=artifact
        )
    )
    until(lambda: len(texts(provider, "vols.demo")) >= 2)
    assert texts(provider, "vols.demo") == ["['x']", "No space left on device"]
    assert volumes(engine) == before
    assert "Health" not in inspect(engine, instance.id)["State"]


def test_without_a_way_out_nothing_is_reached(house: House) -> None:
    provider = house.provider()
    reach = (
        "import socket, sys\\n"
        "for host, port in (('{bridge}', {port}), ('1.1.1.1', 53), ('{other}', 8080)):\\n"
        "    try: socket.create_connection((host, port), 3); print('reached', host)\\n"
        "    except OSError as error: print('not', host)\\n"
        "try: socket.getaddrinfo('example.com', 80); print('resolved')\\n"
        "except OSError: print('no names')\\n"
        "import os; print('told', 'OPENFAAS_URL' in os.environ)\\n"
        "import time; time.sleep(60)"
    )
    other = provider.start(house.spec())
    assert ask(other) == "hello"
    network = provider._network.fence  # type: ignore[attr-defined]  # the docker provider's
    code = reach.format(
        bridge=network.address, port=house.settings.port, other=other.address.split(":")[0]
    ).replace("\\n", "\n")
    listener = socket.create_server((str(network.address), house.settings.port))
    try:
        for name, annotations in (("quiet", {"com.slipway.egress": "false"}), ("open", {})):
            provider.start(
                house.spec(name, annotations=annotations, env_process=f'python3 -c "{code}"')
            )
        provider._is_quiet = lambda namespace: namespace == "demo"  # type: ignore[attr-defined]  # as by a policy that changed
        provider.start(house.spec("kept", env_process=f'python3 -c "{code}"'))
        quiet = until(lambda: (t := texts(provider, "quiet.demo"))[4:] and t, 30)
        free = until(lambda: (t := texts(provider, "open.demo"))[4:] and t, 30)
        kept = until(lambda: (t := texts(provider, "kept.demo"))[4:] and t, 30)
    finally:
        listener.close()
    host = other.address.split(":")[0]
    assert quiet == [f"not {network.address}", "not 1.1.1.1", f"not {host}", "no names",
                     "told False"]  # fmt: skip
    assert kept == quiet
    assert free[0] == f"reached {network.address}"
    assert free[2] == f"not {host}", "containers do not see one another"
    assert free[4] == "told True"


# Ours, and others'.


def test_labels_of_an_image_and_copies_of_ours_mean_nothing(
    house: House, engine: Engine, strangers: Strangers
) -> None:
    provider = house.provider()
    ours = provider.start(house.spec())
    carried = inspect(engine, ours.id)["Config"]["Labels"]
    assert carried[documents.SPEC]
    copied = strangers.container(Labels=carried)
    altered = strangers.container(
        f"{ours.id}x",
        Labels=carried | {documents.SPEC: carried[documents.SPEC].replace(ours.id, f"{ours.id}x")},
    )
    lines = "".join(
        f"LABEL {name}={json.dumps(text)}\n" for name, text in carried.items()
        if name.startswith("com.slipway.") and name != documents.TEMPLATE
    )  # fmt: skip
    forged = containers.image(
        house.settings, {"server.py": "import time; time.sleep(600)"}, ["python3", "server.py"],
        more=lines + 'LABEL traefik.http.routers.x.rule="Host(`b`)" com.docker.compose.project=x',
        wrapped=False,
    )  # fmt: skip
    from_image = strangers.container(Image=forged)
    second = provider.start(msgspec.structs.replace(house.spec("second"), artifact=forged))
    label = inspect(engine, second.id)["Config"]["Labels"]
    assert label[documents.SPEC] != carried[documents.SPEC], "ours replace those of the image"
    assert label["com.docker.compose.project"] == "", "others read orders in labels"
    assert not [text for name, text in label.items() if name.startswith("traefik") and text]

    fresh = house.provider()
    for each in (provider, fresh):
        assert {found.id for found in each.instances()} == {ours.id, second.id}
    stop_all(house.provider(), 0.0)
    for stranger in (copied, altered, from_image):
        assert running(engine, stranger)
    with pytest.raises(NotFound):
        inspect(engine, ours.id)


def test_what_is_renamed_is_not_ours_any_more(house: House, engine: Engine) -> None:
    provider = house.provider()
    instance = provider.start(house.spec())
    with engine.asking("") as api:
        api.rename(instance.id, f"{instance.id}-mine")
    until(lambda: find(provider, instance.id) is None)
    provider.remove(instance)
    assert running(engine, f"{instance.id}-mine")


def test_two_installations_share_an_engine(
    house: House, engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    others = make_house("docker", tmp_path_factory.mktemp("other"))
    other = next(others)
    try:
        one, two = house.provider(), other.provider()
        first, second = one.start(house.spec()), two.start(other.spec())
        assert ask(first) == ask(second) == "hello"
        assert [each.id for each in one.instances()] == [first.id]
        assert [each.id for each in two.instances()] == [second.id]
        one.remove(second)
        two.remove(first)
        assert ask(first) == ask(second) == "hello"
        with engine.asking("") as api:
            names = {
                api.inspect_network(each._network.ready())["Name"]  # type: ignore[attr-defined]  # the docker provider's
                for each in (one, two)
            }
        assert len(names) == 2
        stop_all(other.provider(), 0.0)
        assert ask(first) == "hello"
    finally:
        for _ in others:
            pass


def test_a_foreign_network_of_our_name_is_left_alone(
    house: House, engine: Engine, strangers: Strangers
) -> None:
    taken = strangers.network(NAME)
    provider = house.provider()
    instance = provider.start(house.spec())
    assert ask(instance) == "hello"
    with engine.asking("") as api:
        assert instance.id not in json.dumps(api.inspect_network(taken))


# Starts.


@pytest.mark.parametrize("when", ["before create", "before start", "after start"])
def test_start_that_was_cut_off_is_found_or_ended(house: House, engine: Engine, when: str) -> None:
    argv = [sys.executable, "-c", STARTER, when, house.artifact]
    environment = {"PYTHONPATH": str(CHECKOUT), "PATH": "/usr/bin:/bin"}
    starter = subprocess.run(
        argv, env={**environment, **house.settings.environment()}, check=False, timeout=60
    )
    assert starter.returncode == 9
    provider = house.provider()
    found = list(provider.instances())
    assert [each.phase for each in found] == (["running"] if when == "after start" else [])
    for each in found:
        assert ask(each) == "hello"
        provider.remove(each)
    with engine.asking("") as api:
        label = documents.ours(house.settings.mark)
        assert not api.containers(all=True, filters={"label": label})


def test_a_look_at_all_leaves_a_start_under_way_alone(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = house.provider()
    assert isinstance(provider, DockerProvider)
    run, created, go = provider._run, threading.Event(), threading.Event()

    def slow(known: Any) -> None:
        created.set()
        go.wait(20)
        run(known)

    monkeypatch.setattr(provider, "_run", slow)
    with ThreadPoolExecutor() as pool:
        started = pool.submit(provider.start, house.spec())
        created.wait(20)
        provider._containers._look()
        assert provider.instances() == []
        closing = pool.submit(provider.close)
        go.set()
        instance = started.result()
        closing.result()
    with pytest.raises(Unavailable, match="is stopping"):
        provider.start(house.spec())
    assert ask(instance) == "hello", "the end of the controller waits for starts"


def test_an_address_that_others_took_is_left_to_them(
    house: House, monkeypatch: pytest.MonkeyPatch, strangers: Strangers
) -> None:
    provider = house.provider()
    assert isinstance(provider, DockerProvider)
    network = provider._network.ready()
    theirs = str(provider._network.fence.subnet[9])
    strangers.container(
        HostConfig={"NetworkMode": network},
        NetworkingConfig={"EndpointsConfig": {network: {"IPAMConfig": {"IPv4Address": theirs}}}},
    )
    draw, drawn = provider._addresses.draw, []

    def first_theirs(taken: Any, *, quiet: bool) -> str:
        drawn.append(draw(taken, quiet=quiet) if drawn else theirs)
        return drawn[-1]

    monkeypatch.setattr(provider._addresses, "draw", first_theirs)
    instance = provider.start(house.spec())
    assert ask(instance) == "hello"
    assert len(drawn) == 2
    assert [each.id for each in provider.instances()] == [instance.id]


@pytest.mark.parametrize(
    ("more", "process", "told"),
    [
        ("ENTRYPOINT []", [], "No command"),
        ("WORKDIR /proc/none", ["sleep", "60"], "none"),
    ],
)
def test_images_that_cannot_start_are_told_and_leave_nothing(
    house: House, engine: Engine, more: str, process: list[str], told: str
) -> None:
    artifact = containers.image(house.settings, {"x": ""}, process, more=more, wrapped=False)
    provider = house.provider()
    with pytest.raises(InvalidRequest, match=told):
        provider.start(msgspec.structs.replace(house.spec("broken"), artifact=artifact))
    assert provider.instances() == []
    with engine.asking("") as api:
        label = documents.ours(house.settings.mark)
        assert not api.containers(all=True, filters={"label": label})


def test_no_registry_and_no_image_are_told_apart(house: House) -> None:
    provider = house.provider()
    spec = house.spec("absent")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    digest = "sha256:" + "0" * 64
    with pytest.raises(Unavailable, match="registry"):
        provider.start(
            msgspec.structs.replace(spec, artifact=f"127.0.0.1:{port}/demo/absent@{digest}")
        )
    with pytest.raises(InvalidRequest, match="another runtime"):
        provider.start(msgspec.structs.replace(spec, artifact="bundle:" + digest))


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """Address of an empty registry."""
    program = shutil.which("docker-registry")
    if program is None:
        missing("no docker-registry on PATH")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    config = tmp_path / "registry.json"
    told = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
        "http": {"addr": address},
    }
    config.write_text(json.dumps(told))  # JSON is YAML
    process = subprocess.Popen(
        [str(program), "serve", str(config)], stderr=subprocess.DEVNULL, env={"PATH": "/usr/bin"}
    )
    try:
        until(lambda: _connects(address))
        yield address
    finally:
        process.kill()
        process.wait()


def _connects(address: str) -> bool:
    host, _, port = address.partition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
        return True
    return False


def test_an_image_that_is_not_here_is_pulled_by_its_digest(
    house: House, engine: Engine, registry: str
) -> None:
    empty = dataclasses.replace(house.settings, python_image="scratch")  # quick to push
    made = containers.image(empty, {"x": registry}, ["/x"], wrapped=False)
    name = f"{registry}/demo/pulled"
    with engine.asking("") as api:
        api.tag(made, name, tag="x")
        digest = ""
        for told in api.push(name, tag="x", stream=True, decode=True):
            assert "error" not in told, told
            digest = (told.get("aux") or {}).get("Digest", digest)
        api.remove_image(made, force=True)
    provider = house.provider()
    spec = msgspec.structs.replace(house.spec("pulled"), artifact=f"{name}@{digest}")
    instance = provider.start(spec)
    assert exited(provider, instance).exit_reason == "exited with status 127"
    provider.discard("demo", spec.artifact)
    with engine.asking("what is there needs its image") as api:
        api.inspect_image(spec.artifact)
    provider.remove(instance)
    provider.discard("demo", spec.artifact)
    provider.discard("demo", spec.artifact)
    with pytest.raises(NotFound), engine.asking("") as api:
        api.inspect_image(spec.artifact)
    with pytest.raises(NotFound, match="neither"):
        provider.start(msgspec.structs.replace(spec, artifact=f"{name}@sha256:{'0' * 64}"))


@pytest.mark.root
def test_without_root_functions_run_and_the_missing_fence_is_told(
    house: House, engine: Engine
) -> None:
    """In a process that gives up root: what it may then is the engine's socket alone."""
    code = (
        "import os, sys\n"
        "from core.models import FunctionSpec\n"
        "from core.settings import Settings\n"
        "from runtime.providers.docker import DockerProvider\n"
        "os.chown(os.environ['SLIPWAY_STATE'], 65534, -1)\n"
        "group = os.stat('/var/run/docker.sock').st_gid\n"
        "os.setgroups([group]); os.setgid(65534); os.setuid(65534)\n"
        "provider = DockerProvider(Settings.from_env(os.environ), b'the key of these tests')\n"
        "made = provider.start(FunctionSpec(name='echo', namespace='demo', artifact=sys.argv[1]))\n"
        "provider.mend()\n"
        "print(provider.enforced()['network'], made.id)\n"
        "provider.close()\n"
    )
    state = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    settings = dataclasses.replace(house.settings, state=state)
    argv = [sys.executable, "-c", code, house.artifact]
    environment = {"PYTHONPATH": str(CHECKOUT), "PATH": "/usr/bin:/bin", **settings.environment()}
    try:
        result = subprocess.run(
            argv, env=environment, check=False, timeout=60, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith("NOT fenced: only root")
        assert "NO FENCE" in result.stderr
        assert running(engine, result.stdout.split()[-1])
    finally:
        containers.remove_network(settings)
        shutil.rmtree(state)


# Others end it, or take its network away.


@pytest.mark.parametrize(
    ("verb", "reason"),
    [
        ("stop", "exited with status 0"),
        ("kill", "killed by SIGKILL"),
        ("restart", "exited with status 0"),
        ("remove", ""),
    ],
)
def test_what_others_ended_is_noticed_at_once(
    house: House, engine: Engine, verb: str, reason: str
) -> None:
    provider = house.provider()
    instance = provider.start(house.spec())
    assert ask(instance) == "hello"
    provider.wait(0)

    def act() -> None:
        with engine.asking("") as api:
            if verb == "remove":
                api.remove_container(instance.id, force=True)
            else:
                getattr(api, verb)(instance.id)

    with ThreadPoolExecutor() as pool:
        acting = pool.submit(act)
        begun = time.monotonic()
        provider.wait(20)
        assert time.monotonic() - begun < 15
        acting.result()
    if reason:
        assert exited(provider, instance).exit_reason == reason
    else:
        until(lambda: find(provider, instance.id) is None)
    provider.remove(instance)
    assert provider.instances() == []
    assert not host_processes(instance.id)


def test_paused_ones_can_be_ended(house: House, engine: Engine) -> None:
    provider = house.provider()
    instance = provider.start(house.spec())
    with engine.asking("") as api:
        api.pause(instance.id)
    until(lambda: provider.instances()[0].phase is Phase.PAUSED, 5, "paused by hand")
    provider.remove(instance)
    with pytest.raises(NotFound):
        inspect(engine, instance.id)


def test_one_is_paused_and_goes_on_where_it_was(house: House, engine: Engine) -> None:
    provider = house.provider()
    instance = provider.start(house.spec())
    until(lambda: ask(instance), 10, "it answers")
    for _ in range(2):  # repeating either changes nothing
        provider.pause(instance)
    assert [each.phase for each in provider.instances()] == [Phase.PAUSED]
    assert inspect(engine, instance.id)["State"]["Paused"]
    later = house.provider()
    assert [each.phase for each in later.instances()] == [Phase.PAUSED], "the next one sees it"
    for _ in range(2):
        later.resume(instance)
    assert [each.phase for each in later.instances()] == [Phase.RUNNING]
    assert ask(instance)
    until(lambda: provider.instances()[0].phase is Phase.RUNNING, 5, "told by the engine")
    provider.pause(instance)
    provider.terminate(instance)
    until(lambda: provider.instances()[0].phase is Phase.EXITED, 15, "asked to end, it goes on")
    with pytest.raises(Unavailable):
        provider.resume(instance)
    provider.remove(instance)


def test_what_is_ended_is_not_held_back_by_its_bound_on_the_cpu(
    house: House, engine: Engine
) -> None:
    provider = house.provider()
    instance = provider.start(house.spec())
    many = "for i in $(seq 40); do (while :; do :; done) & done"
    with engine.asking("") as api:
        api.exec_start(api.exec_create(instance.id, ["sh", "-c", many]))
        api.update_container(instance.id, cpu_quota=1000)
    time.sleep(0.5)
    begun = time.monotonic()
    provider.remove(instance)
    assert time.monotonic() - begun < 40, "the engine waits 12 s itself"
    with pytest.raises(NotFound):
        inspect(engine, instance.id)


def test_a_container_without_its_network_counts_as_ended(house: House, engine: Engine) -> None:
    provider = house.provider()
    assert isinstance(provider, DockerProvider)
    instance = provider.start(house.spec())
    network = provider._network.ready()
    with engine.asking("") as api:
        api.disconnect_container_from_network(instance.id, network, force=True)
    assert "network" in exited(provider, instance).exit_reason
    provider.remove(instance)
    with engine.asking("") as api:
        api.remove_network(network)
    provider.mend()
    assert ask(provider.start(house.spec())) == "hello"
    assert provider._network.ready() != network


@pytest.mark.root
def test_a_bridge_or_a_fence_that_was_taken_away_is_made_anew(house: House) -> None:
    provider = house.provider()
    assert isinstance(provider, DockerProvider)
    instance = provider.start(house.spec())
    assert ask(instance) == "hello"
    fence = provider._network.fence
    with nft.Firewall() as firewall:
        for table in firewall.tables():
            if table.startswith(f"slipway_{fence.mark}_"):
                firewall.delete_table(table)
    assert not fence.available()
    provider.mend()
    assert fence.available()
    assert find(provider, instance.id) == instance, "who runs stays"
    assert ask(instance) == "hello"

    subprocess.run(["ip", "link", "del", fence.bridge], check=True)
    provider.mend()
    assert "network" in exited(provider, instance).exit_reason
    provider.remove(instance)
    assert ask(provider.start(house.spec())) == "hello"


# Across restarts of ours.


def test_being_told_to_end_outlives_us(house: House) -> None:
    old = house.provider()
    instance = old.start(house.spec())
    assert ask(instance) == "hello"
    slow = threading.Thread(target=ask, args=(instance, "/slow?seconds=3"))
    slow.start()
    time.sleep(0.3)
    old.terminate(instance)
    old.close()
    house._open.remove(old)
    new = house.provider()
    (found,) = new.instances()
    assert found.phase is Phase.STOPPING
    slow.join()
    exited(new, instance)
    new.remove(found)
    assert list((house.settings.run / "stopping").iterdir()) == []


def test_notes_of_what_went_while_nobody_was_here_go_too(house: House) -> None:
    old = house.provider()
    stays, goes = old.start(house.spec()), old.start(house.spec())
    for instance in (stays, goes):
        ask(instance)
        old.terminate(instance)
    old.close()
    house._open.remove(old)
    notes = house.settings.run / "stopping"
    with contextlib.closing(Engine(house.settings.engine_url)) as engine, engine.asking("") as api:
        api.remove_container(goes.id, force=True)
    assert {note.name for note in notes.iterdir()} == {stays.id, goes.id}
    house.provider()
    until(lambda: not (notes / goes.id).exists())
    assert [note.name for note in notes.iterdir()] == [stays.id]


def test_no_line_is_lost_or_doubled_by_our_restarts(house: House) -> None:
    provider = house.provider()
    instance = provider.start(house.spec())
    for number in range(4):
        assert ask(instance, f"/say?text=a{number}&times=50") == "said"
        provider.close()
        house._open.remove(provider)
        assert ask(instance, f"/say?text=b{number}&times=50") == "said"
        provider = house.provider()
    until(lambda: texts(provider).count("b3") == 50)
    expected = [f"{kind}{number}" for number in range(4) for kind in "ab" for _ in range(50)]
    assert [text for text in texts(provider) if text != "serving"] == expected


def test_idle_containers_cost_next_to_nothing(house: House) -> None:
    provider = house.provider()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: provider.start(house.spec(env_process="sleep 600")), range(10)))
    time.sleep(1.5)
    before = time.process_time()
    for _ in range(50):
        assert len(provider.instances()) == 10
        provider.wait(0.04)
    assert time.process_time() - before < 0.5  # of at least two

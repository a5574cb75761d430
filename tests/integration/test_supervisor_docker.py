"""The registry and the engine for builds, kept by the supervisor's own machinery.

A small program runs just these two parts, as ``slipway up`` does: begun, waited for, kept, stopped.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import docker
import psutil
import pytest
import requests

from builder.engines.images import transfer
from core import http
from core.sandbox import nft
from core.sandbox.network import Network
from core.settings import Settings
from engine.client import Engine
from supervisor import build_engine, parts, registry
from supervisor.leftovers import Leftovers
from tests import images
from tests.conftest import missing
from tests.integration.followed import Followed
from tests.waiting import until

pytestmark = [pytest.mark.engine, pytest.mark.root]

HARNESS = """
import os
import socket
from core.settings import ROOT, Settings
from supervisor import claims, parts, runtime_choice
from supervisor.docker_parts import DockerParts
from supervisor.keeper import Interrupted, Keeper
from supervisor.leftovers import Leftovers
from supervisor.logfiles import LogFiles
from supervisor.screen import Screen

settings, screen = Settings.from_env(os.environ), Screen()
lock = claims.claim_state(settings)
claims.make_run_folder(settings.run, *settings.run_folders)
leftovers, logs = Leftovers(settings.state / "parts"), LogFiles(settings.state / "log")
screen.say(f"ended {leftovers.end()}")
choice = runtime_choice.choose(settings, os.environ, screen)
env = parts.environment(os.environ, choice.settings)
keeper = Keeper(env, ROOT, logs, leftovers, tell=screen.say)
docker = DockerParts(choice, os.environ, keeper, logs, screen)
with keeper:
    try:
        docker.begin()
        used = docker.settle()
        screen.say(f"stands {used.registry} {used.build_engine}")
        bell, rope = socket.socketpair()  # nobody rings
        keeper.stand_by(bell)
    except Interrupted:
        pass
    finally:
        docker.stop()
screen.say("stopped")
"""


class Standing(Followed):
    """The two parts, running."""

    def __init__(self, settings: Settings, **changed: str) -> None:
        super().__init__(settings, [sys.executable, "-P", "-c", HARNESS], **changed)

    def used(self) -> Settings:
        _, name, *engine = self.await_line("stands").split()
        return replace(self.settings, registry=name, build_engine="".join(engine))

    def pid(self, name: str) -> int:
        living = Leftovers(self.settings.state / "parts").read()
        return next(each.pid for each in living if each.name == name)

    def kill(self, name: str) -> None:
        """Kills a part and waits for its successor to say so."""
        told = f"the {name} was ended by SIGKILL"
        os.kill(self.pid(name), signal.SIGKILL)
        until(lambda: told in self.output)


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    """One state folder for all: the base image is copied once."""
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    yield checked(folder)
    shutil.rmtree(folder)  # which nothing mounted may hinder


def checked(folder: Path) -> Settings:
    made = Settings.from_env(
        {
            "SLIPWAY_STATE": str(folder / "s"),
            "SLIPWAY_RUNTIME": "docker",
            "SLIPWAY_WORKERS": "1",
            "SLIPWAY_BUILD_MEMORY": "200Mi",
            "SLIPWAY_BUILD_CPUS": "0.5",
        }
    )
    engine = Engine(made.engine_url)
    if not engine.alive():
        missing("a Docker engine")
    for name in (made.python_image, made.node_image):
        with engine.asking(name) as api:
            if not api.images(name):
                missing(f"the image {name}: make base-images")
    engine.close()
    for program in ("dockerd", "docker-registry"):
        if not shutil.which(program):
            missing(program)
    return made


@pytest.fixture
def started(settings: Settings) -> Iterator[list[Standing]]:
    """Put what you start in here: whatever is left of it is ended."""
    all_: list[Standing] = []
    yield all_
    for each in all_:
        if each.process.poll() is None:
            each.end()
        each._reader.join(10)
    Leftovers(settings.state / "parts").end()
    if left_over(settings):
        build_engine.clear(settings)
        Network.for_builds(settings).teardown()


def stand(started: list[Standing], settings: Settings, **changed: str) -> Standing:
    started.append(Standing(settings, **changed))
    used = started[-1].used()
    if used.build_engine:
        engines = Engine(used.engine_url), Engine(used.build_engine)
        with engines[1].asking("images") as api:
            if not api.images(settings.python_image):
                transfer(*engines, settings.python_image, lambda: False)
        for each in engines:
            each.close()
    return started[-1]


def left_over(settings: Settings) -> list[str]:
    """Traces of the engine for builds in the kernel."""
    found = [str(each) for each in Path("/sys/fs/cgroup").glob(f"*/slipway-{settings.mark}b")]
    bridge = Path("/sys/class/net", Network.for_builds(settings).bridge)
    found += [str(bridge)] if bridge.exists() else []
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [line for line in mounts if str(settings.state) in line]
    with nft.Firewall() as firewall:
        found += [name for name in firewall.tables() if f"slipway_{settings.mark}b" in name]
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = " ".join(process.cmdline())
            if str(settings.state) in words and process.pid != os.getpid():
                found.append(words)
    return found


class Build:
    """``docker build`` of these lines on the engine for builds, in the background."""

    def __init__(self, used: Settings, folder: Path, *lines: str) -> None:
        folder.mkdir(exist_ok=True)
        text = "\n".join([f"FROM {used.python_image}", *lines])
        (folder / "Dockerfile").write_text(text)
        self.process = subprocess.Popen(
            [
                *("/usr/bin/docker", "--host", used.build_engine, "build", "--no-cache"),
                *("--progress=plain", str(folder)),
            ],
            env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "DOCKER_BUILDKIT": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def await_line(self, part: str) -> str:
        assert self.process.stdout
        read = ""
        for line in self.process.stdout:
            read += line
            if part in line and "RUN" not in line:
                return line
        pytest.fail(f"no {part!r} in:\n{read}")

    def result(self, seconds: float = 60) -> str:
        output, _ = self.process.communicate(timeout=seconds)
        return output


def run_docker(used: Settings, home: Path, *words: str) -> None:
    """Runs the docker command at the engine for builds."""
    subprocess.run(
        ["/usr/bin/docker", "--host", used.build_engine, *words],
        env={"PATH": "/usr/bin:/bin", "HOME": str(home), "DOCKER_BUILDKIT": "1"},
        check=True,
        capture_output=True,
        timeout=60,
    )


def run_python(code: str) -> str:
    """A RUN line of a program; JSON, so that the shell has nothing to read."""
    return f"RUN {json.dumps(['python3', '-c', code])}"


REACH = """
import socket
def reach(host, port):
    with socket.socket() as connection:
        connection.settimeout(3)
        try:
            connection.connect((host, port))
            return "reached"
        except OSError:
            return "refused"
"""


def test_a_run_is_fenced_and_bounded(
    settings: Settings, started: list[Standing], short_tmp: Path
) -> None:
    used = stand(started, settings).used()
    network = Network.for_builds(settings)
    with requests.get(f"http://{used.registry}/v2/", timeout=5) as answer:
        assert answer.ok
    port = used.registry.rpartition(":")[2]
    host = next(
        each.address
        for name, each_link in psutil.net_if_addrs().items()
        for each in each_link
        if each.family.name == "AF_INET" and name.startswith(("eth", "en"))
    )
    inside = ["127.0.0.1", str(network.address), "172.17.0.1", host, "169.254.169.254"]
    inside += ["10.0.0.1", "192.168.0.1", "172.16.0.1", "100.64.0.1"]
    asked = "".join(f"print('{each}', reach('{each}', {port}))\n" for each in inside)
    told = Build(used, short_tmp / "b", run_python(REACH + asked)).result()
    for each in inside:
        assert f"{each} refused" in told, told

    fits, fills = "x = bytearray(150 << 20); print('fits')", "x = bytearray(400 << 20)"
    told = Build(used, short_tmp / "b", run_python(fits), run_python(fills)).result()
    assert " fits" in told, told
    assert "exit code: 137" in told, told

    told = Build(
        used,
        short_tmp / "b",
        run_python(
            "import os, time\n"
            "other = os.fork()\n"
            "end = time.time() + 2\n"
            "while time.time() < end: pass\n"
            "print('cpu', time.process_time(), flush=True)\n"
            "if other: os.wait()\n"
        ),
    ).result()
    spent = [float(line.rpartition("cpu ")[2]) for line in told.splitlines() if " cpu " in line]
    assert len(spent) == 2, told
    assert sum(spent) < 1.4, "0.5 CPUs for 2 s, and a little"

    told = Build(
        used,
        short_tmp / "b",
        run_python(
            "import os, time\n"
            "count = 0\n"
            "try:\n"
            "    while count < 5000:\n"
            "        if os.fork() == 0: time.sleep(2); os._exit(0)\n"
            "        count += 1\n"
            "except OSError: print('forks', count)\n"
        ),
    ).result()
    forks = [int(line.rpartition("forks ")[2]) for line in told.splitlines() if "forks " in line]
    assert forks, told
    assert forks[-1] < build_engine.PIDS


@pytest.mark.network
def test_a_run_reaches_the_outside_world_by_name(
    settings: Settings, started: list[Standing], short_tmp: Path
) -> None:
    used = stand(started, settings).used()
    told = Build(used, short_tmp / "b", "RUN pip download --no-deps -d /tmp six==1.17.0").result()
    assert "Successfully downloaded six" in told, told


def test_two_builds_do_not_see_each_other(
    settings: Settings, started: list[Standing], short_tmp: Path
) -> None:
    used = stand(started, settings).used()
    listening = Build(
        used,
        short_tmp / "a",
        run_python(
            "import socket, time\n"
            "probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
            "probe.connect(('1.1.1.1', 53))\n"
            "listener = socket.create_server(('0.0.0.0', 7777))\n"
            "with socket.create_connection((probe.getsockname()[0], 7777)): pass\n"
            "print('address', probe.getsockname()[0], flush=True)\n"
            "time.sleep(30)\n"
        ),
    )
    address = listening.await_line(" address ").split()[-1]
    told = Build(
        used, short_tmp / "b", run_python(REACH + f"print('other', reach('{address}', 7777))")
    ).result()
    listening.process.kill()
    listening.result()
    assert "other refused" in told, told


def test_no_run_gets_the_host_s_network(
    settings: Settings, started: list[Standing], short_tmp: Path
) -> None:
    used = stand(started, settings).used()
    (short_tmp / "b").mkdir()
    (short_tmp / "b/Dockerfile").write_text(f"FROM {used.python_image}\nRUN true\n")
    argv = ["/usr/bin/docker", "--host", used.build_engine, "build", "--network=host", "."]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(short_tmp), "DOCKER_BUILDKIT": "1"}

    def refused() -> str | None:
        """None: this client waits for ever now and then when a build is refused as it begins."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                argv,
                cwd=short_tmp / "b",
                env=environment,
                capture_output=True,
                text=True,
                timeout=15,
            )
            assert done.returncode != 0
            return done.stderr
        return None

    assert "network.host is not allowed" in until(refused, 30)


def test_what_is_killed_comes_back_and_keeps_what_it_had(
    settings: Settings, started: list[Standing], short_tmp: Path
) -> None:
    made = stand(started, settings)
    used = made.used()
    pushed = f"{used.registry}/ann/hello:1"
    tiny_image(used, short_tmp, pushed)
    made.kill("registry")
    until(lambda: registry.answers(used))
    url = f"http://{used.registry}/v2/ann/hello/manifests/1"
    assert requests.head(url, timeout=5).status_code == 200

    sleeping = Build(
        used,
        short_tmp / "b",
        run_python("print('sleeps', flush=True)\nimport time; time.sleep(99)"),
    )
    sleeping.await_line(" sleeps")
    assert len(group(settings)) >= 1, "what runs is in the group with the bounds"
    before = group(settings)
    made.kill("build-engine")
    until(lambda: answers(used.build_engine))
    sleeping.result()
    until(lambda: gone(before))
    limit = Path(f"/sys/fs/cgroup/memory/slipway-{settings.mark}b/all/memory.limit_in_bytes")
    if limit.exists():
        assert int(limit.read_text()) == 200 << 20
    inside = Path("/proc", str(made.pid("build-engine")), "cgroup").read_text()
    assert f"/slipway-{settings.mark}b/engine\n" in inside, "BuildKit's own work gives way as well"
    told = Build(used, short_tmp / "b", "RUN echo works again | rev").result()
    assert "niaga skrow" in told, told


@pytest.mark.parametrize("everything", [False, True], ids=["supervisor alone", "everything"])
def test_kill_9_leaves_nothing_that_stands_in_the_way(
    settings: Settings, started: list[Standing], short_tmp: Path, everything: bool
) -> None:
    made = stand(started, settings)
    used = made.used()
    sleeping = Build(
        used,
        short_tmp / "b",
        run_python("print('sleeps', flush=True)\nimport time; time.sleep(99)"),
    )
    sleeping.await_line(" sleeps")
    before = {*group(settings), made.pid("build-engine"), made.pid("registry")}
    made.process.kill()
    made.process.wait()
    if everything:
        for name in ("build-engine", "registry"):
            os.kill(made.pid(name), signal.SIGKILL)
    again = stand(started, settings)
    sleeping.result()
    assert again.used() == used, "the registry's port is in the names of all images"
    assert ("build-engine" in again.await_line("ended")) is not everything
    until(lambda: gone(before))
    told = Build(used, short_tmp / "b", "RUN echo works again | rev").result()
    assert "niaga skrow" in told, told
    assert again.end() == 0, again.output
    assert left_over(settings) == []


def test_ctrl_c_in_mid_build_leaves_nothing(
    settings: Settings, started: list[Standing], short_tmp: Path
) -> None:
    made = stand(started, settings)
    sleeping = Build(
        made.used(),
        short_tmp / "b",
        run_python("print('sleeps', flush=True)\nimport time; time.sleep(99)"),
    )
    sleeping.await_line(" sleeps")
    assert made.end() == 0, made.output
    sleeping.result()
    assert left_over(settings) == []
    assert "took over" not in made.output


def test_an_engine_for_builds_that_does_not_start_is_told(
    settings: Settings, started: list[Standing], short_tmp: Path
) -> None:
    (short_tmp / "bin").mkdir()
    broken = short_tmp / "bin/dockerd"
    broken.write_text("#!/bin/sh\necho this kernel is too old >&2\nexit 1\n")
    broken.chmod(0o755)
    made = stand(started, settings, PATH=f"{short_tmp / 'bin'}:{os.environ['PATH']}")
    assert made.used().build_engine == ""
    assert "this kernel is too old" in made.output
    assert "memory, CPU and network are not" in made.output
    assert registry.answers(made.used())
    used = json.loads((settings.run / "used.json").read_text())
    assert (used["SLIPWAY_BUILD_ENGINE"], used["SLIPWAY_RUNTIME"]) == ("", "docker")
    assert left_over_of_engine(settings) == []
    assert made.end() == 0


def gone(pids: set[int]) -> bool:
    return not any(psutil.pid_exists(pid) for pid in pids)


def answers(engine: str) -> bool:
    try:
        return (
            http.request(engine.replace("unix://", "unix@"), "GET", "/_ping", timeout=1)[0] == 200
        )
    except OSError:
        return False


def test_without_a_program_the_registry_is_a_container(
    settings: Settings, started: list[Standing], short_tmp: Path
) -> None:
    with contextlib.closing(Engine(settings.engine_url)) as making:
        images.make(making)
    engine = docker.APIClient(version="auto", timeout=20)
    name = registry.container_name(settings)
    (short_tmp / "bin").mkdir()
    for program in ("docker", "containerd"):
        (short_tmp / "bin" / program).symlink_to(f"/usr/bin/{program}")
    made = stand(started, settings, PATH=str(short_tmp / "bin"))
    used = made.used()
    about = engine.inspect_container(name)
    assert about["HostConfig"]["Memory"] == 256 << 20
    assert about["Config"]["Labels"]["com.slipway.installation"] == f"{settings.mark}.registry"
    assert about["HostConfig"]["NetworkMode"] == "host"
    assert reached_from_the_bridge(engine, settings, used.registry, about) == []
    pushed = f"{used.registry}/ann/kept:1"
    tiny_image(used, short_tmp, pushed)
    url = f"http://{used.registry}/v2/ann/kept/manifests/1"
    assert requests.head(url, timeout=5).status_code == 200

    engine.remove_container(name, force=True)
    until(lambda: registry.answers(used))
    assert requests.head(url, timeout=5).status_code == 200

    made.process.kill()  # the container lives on
    made.process.wait()
    again = stand(started, settings, PATH=str(short_tmp / "bin"))
    assert again.used() == used
    assert requests.head(url, timeout=5).status_code == 200
    assert again.end() == 0
    assert engine.containers(all=True, filters={"name": name}) == []
    engine.close()


def reached_from_the_bridge(
    engine: docker.APIClient, settings: Settings, place: str, about: dict[str, Any]
) -> list[str]:
    """At which addresses a container beside it, as a RUN line's, reaches the registry."""
    pool = engine.inspect_network("bridge")["IPAM"]["Config"][0]["Subnet"]
    near = [str(IPv4Network(pool, strict=False)[1]), about["NetworkSettings"]["IPAddress"]]
    ports = int(place.rpartition(":")[2]), 5000
    asking = "".join(
        f"print('{each}', reach('{each}', {port}))\n" for each in near if each for port in ports
    )
    made = engine.create_container(settings.python_image, ["python3", "-c", REACH + asking])["Id"]
    try:
        engine.start(made)
        assert engine.wait(made, timeout=90)["StatusCode"] == 0
        told = engine.logs(made).decode()
    finally:
        engine.remove_container(made, force=True)
    return [line for line in told.splitlines() if "reached" in line]


SERVING = """
import os, sys
from core.settings import Settings
from supervisor import registry
registry.IMAGE, registry._COLLECT_SECONDS = sys.argv[1], 2.0
registry._serve_container(Settings.from_env(os.environ), {"PATH": "/usr/bin:/bin"})
"""


COLLECTING = """
import sys
from supervisor import registry
registry.IMAGE, registry._COLLECT_SECONDS = sys.argv[1], float(sys.argv[2])
sys.argv[1:] = ["collect"]
sys.exit(registry.main())
"""


def test_no_collector_runs_beside_the_registry(settings: Settings, short_tmp: Path) -> None:
    """It deletes what nobody names: of an upload meanwhile it would take the layers."""
    (short_tmp / "registry/docker/registry/v2/repositories").mkdir(parents=True)
    slow = replace(settings, state=short_tmp, registry="127.0.0.1:5003")
    slow.run.mkdir(parents=True, exist_ok=True)
    engine = docker.APIClient(version="auto", timeout=20)
    made = f"slipway-test-slow-{slow.mark}"
    text = f'FROM {settings.python_image}\nENTRYPOINT ["sh", "-c", "exec sleep 600"]\nCMD []\n'
    for _ in engine.build(fileobj=io.BytesIO(text.encode()), tag=made, rm=True):
        pass
    # Of a supervisor that was killed meanwhile.
    left = engine.create_container(made, name=registry.collector_name(slow))["Id"]
    engine.start(left)
    ours = {"label": f"com.slipway.installation={slow.mark}.registry"}
    env = parts.passed(os.environ) | slow.environment()
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", SERVING, made],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    )

    def names() -> list[str]:
        return sorted(n for c in engine.containers(filters=ours) for n in c["Names"])

    try:
        until(lambda: names() == [f"/{registry.collector_name(slow)}"])
        assert not engine.containers(all=True, filters={"id": left})
        until(lambda: f"/{registry.container_name(slow)}" in names())
        assert names() == [f"/{registry.container_name(slow)}"]
        # While it serves: the collector's time is over, or whoever asked for it ends it.
        (slow.state / "registry-port").write_text("5003\n")
        for seconds in ("1.0", "60.0"):
            collecting = subprocess.Popen(
                [sys.executable, "-P", "-c", COLLECTING, made, seconds], env=env
            )
            until(lambda: f"/{registry.collector_name(slow)}" in names())
            if seconds == "60.0":
                collecting.terminate()
            assert collecting.wait(60) == 1
            assert names() == [f"/{registry.container_name(slow)}"]
    finally:
        process.kill()
        said, _ = process.communicate()
        for each in engine.containers(all=True, filters={"ancestor": made}):
            engine.remove_container(each["Id"], force=True)
        engine.remove_image(made, force=True)
        engine.close()
    assert "tomorrow again" in said


def tiny_image(used: Settings, folder: Path, name: str) -> None:
    """Builds and pushes one."""
    (folder / "tiny").mkdir()
    (folder / "tiny/Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    for words in (["build", "-t", name, str(folder / "tiny")], ["push", name]):
        run_docker(used, folder, *words)


def left_over_of_engine(settings: Settings) -> list[str]:
    return [each for each in left_over(settings) if "registry" not in each and "-c" not in each]


def group(settings: Settings) -> set[int]:
    """What runs in the group of all builds."""
    top = f"slipway-{settings.mark}b"
    files = [*Path("/sys/fs/cgroup").glob(f"pids/{top}/**/cgroup.procs")]
    files += Path("/sys/fs/cgroup").glob(f"{top}/**/cgroup.procs")
    return {int(pid) for file in files for pid in file.read_text().split()}

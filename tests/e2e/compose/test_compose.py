"""The whole platform by docker-compose: up, a push, workers that come and go, down and up again.

One installation for all tests, which stand in the order of its life.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from core.sandbox.network import Network
from tests import images
from tests.conftest import missing
from tests.e2e.compose.installation import SERVICES, Compose, eventually, usable
from tests.e2e.platform import Pushed, Repository, fresh_folder, handler, stack

pytestmark = [pytest.mark.engine, pytest.mark.root, pytest.mark.timeout(420)]

SLOW_TESTS = """
import time
def test_slowly():
    time.sleep(6)
"""


@pytest.fixture(scope="module")
def platform() -> Iterator[Compose]:
    if reason := usable():
        missing(reason)
    with fresh_folder() as folder:
        compose = Compose(folder)
        try:
            images.make(compose.engine)
            compose.compose("build", "gateway", seconds=400)
            compose.up()
            yield compose
        finally:
            compose.clear()


@pytest.fixture(scope="module")
def fns(platform: Compose) -> Repository:
    """A repository with one live function."""
    repository = platform.repository("ann", "fns")
    pushed = repository.push({"stack.yml": stack("hello"), "hello/handler.py": handler("one")})
    assert pushed.last.startswith("slipway: live"), pushed.text + platform.logs()
    return repository


def listed(platform: Compose) -> dict[str, tuple[str, int]]:
    """Function → image and how many answer."""
    found = platform.request("/system/functions", admin=True).json()
    return {
        f"{each['name']}.{each['namespace']}": (each["image"], each["availableReplicas"])
        for each in found
    }


def test_every_container_is_fenced_in(platform: Compose) -> None:
    assert set(platform.states()) == set(SERVICES)
    for each in platform.containers():
        host = each["HostConfig"]
        name = each["Config"]["Labels"]["com.docker.compose.service"]
        assert host["CapDrop"] == ["ALL"], name
        added = ["CHOWN", "NET_ADMIN"] if name == "runtime" else []
        assert sorted(host["CapAdd"] or []) == added, name
        assert "no-new-privileges:true" in host["SecurityOpt"], name
        assert host["ReadonlyRootfs"], name
        assert not host["Privileged"], name
        assert host["Memory"], name
        assert host["PidsLimit"], name
        targets = {mount["Destination"] for mount in each["Mounts"]}
        assert ("/var/run/docker.sock" in targets) == (name in ("runtime", "builder")), name
        assert (f"{platform.state}/run/edge" in targets) == (name in ("runtime", "edge")), name


@pytest.mark.usefixtures("fns")
def test_a_push_goes_live(platform: Compose) -> None:
    answer = platform.call("hello.ann")
    assert (answer.status, answer.text) == (200, "one")
    (found,) = listed(platform).items()
    assert found[0] == "hello.ann"
    assert found[1][0].startswith(platform.variables["SLIPWAY_REGISTRY"] + "/ann/hello@sha256:")
    assert found[1][1] == 1
    eventually(
        lambda: platform.request("/system/functions", admin=True).json()[0]["invocationCount"] == 1,
        15,
    )


@pytest.mark.usefixtures("fns")
def test_functions_reach_functions_and_nothing_else_of_ours(platform: Compose) -> None:
    asking = """
import json, os, socket, urllib.request
def handle(event, context):
    edge = os.environ["OPENFAAS_URL"]
    with urllib.request.urlopen(edge + "/function/hello.ann", timeout=5) as answer:
        told = {"hello": answer.read().decode()}
    for name, port in json.loads(event.body):
        try:
            socket.create_connection((name, port), 2).close()
            told[f"{name}:{port}"] = "connected"
        except OSError as error:
            told[f"{name}:{port}"] = type(error).__name__
    return told
"""
    repository = platform.repository("eve", "spy")
    pushed = repository.push({"stack.yml": stack("spy"), "spy/handler.py": asking})
    assert pushed.last.startswith("slipway: live"), pushed.text + platform.logs()
    bridge = str(Network.from_settings(platform.settings).address)
    asked = [[bridge, platform.registry_port], ["172.17.0.1", platform.registry_port]]
    asked.append([bridge, 22])
    told = platform.call("spy.eve", json.dumps(asked).encode()).json()
    assert told.pop("hello") == "one"
    assert len(told) == 3
    assert "connected" not in told.values()


def test_logs_of_a_function_and_of_a_release(platform: Compose, fns: Repository) -> None:
    text = "def handle(event, context):\n    print('written', flush=True)\n    return 'two'\n"
    pushed = fns.push({"hello/handler.py": text})
    assert pushed.last.startswith("slipway: live"), pushed.text + platform.logs()
    assert platform.call("hello.ann").text == "two"
    path = "/system/logs?name=hello&namespace=ann&follow=false"
    eventually(lambda: b"written" in platform.request(path, admin=True).body, 10)


def test_builders_are_scaled_and_one_is_killed_in_mid_build(
    platform: Compose, fns: Repository
) -> None:
    platform.up("--scale", "builder=4")
    assert len(platform.containers("builder")) == 4
    files = {"hello/handler.py": handler("three"), "hello/handler_test.py": SLOW_TESTS}
    fns.commit(files)
    told: list[Pushed] = []
    pushing = threading.Thread(target=lambda: told.append(fns.push({})))
    pushing.start()
    eventually(lambda: platform.release("ann", "fns")["state"] == "testing", 60, platform.logs)
    victim = _builder_at_work(platform)
    with platform.engine.asking("the kill") as api:
        api.kill(victim)
    pushing.join(120)
    assert told, platform.logs()
    assert told[0].last.startswith("slipway: live"), told[0].text + platform.logs()
    assert platform.call("hello.ann").text == "three"
    with platform.engine.asking("what became of it") as api:
        assert not api.inspect_container(victim)["State"]["Running"]


def _builder_at_work(platform: Compose) -> str:
    """The builder that has the release: it has the job's process, or a docker program."""
    for each in platform.containers("builder"):
        with platform.engine.asking("its processes") as api:
            processes = api.top(each["Id"])["Processes"]
        if len(processes) > 4:
            return str(each["Id"])
    raise AssertionError(f"nobody builds:\n{platform.logs()}")


def test_a_worker_on_another_machine(platform: Compose, fns: Repository) -> None:
    """It shares nothing but the engine and the store's socket, which stands for a Redis on the
    network: the commit comes from the git remote."""
    platform.compose("stop", "builder")
    token = platform.secrets / "builder-token"
    environment = {
        "SLIPWAY_STATE": "/tmp/state",
        "SLIPWAY_RUNTIME": "docker",
        "SLIPWAY_REGISTRY": platform.variables["SLIPWAY_REGISTRY"],
        "SLIPWAY_REDIS_URL": "unix:///store/redis.sock",
        "SLIPWAY_GATEWAY_URL": platform.url,
        "SLIPWAY_BUILDER_TOKEN_FILE": "/token",
    }
    with platform.engine.asking("the worker") as api:
        host = api.create_host_config(
            network_mode="host",
            cap_drop=["ALL"],
            binds=[
                f"{platform.project}_store-socket:/store",
                f"{token}:/token:ro",
                "/var/run/docker.sock:/var/run/docker.sock",
            ],
        )
        made = api.create_container(
            "slipway",
            ["python", "-m", "builder.worker"],
            environment=environment,
            host_config=host,
            labels={"com.docker.compose.project": platform.project},
        )
        api.start(made["Id"])
    try:
        pushed = fns.push({"hello/handler.py": handler("four"), "hello/handler_test.py": "\n"})
        with platform.engine.asking("its log") as api:
            log = api.logs(made["Id"]).decode()
        assert pushed.last.startswith("slipway: live"), pushed.text + log + platform.logs()
        assert platform.call("hello.ann").text == "four"
        assert token.read_text().strip() not in log
    finally:
        with platform.engine.asking("its end") as api:
            api.remove_container(made["Id"], force=True, v=True)
    platform.up()


def test_down_and_up_again(platform: Compose, fns: Repository) -> None:
    before, running = listed(platform), platform.functions()
    assert set(before) == {"hello.ann", "spy.eve"}
    platform.compose("down")
    assert platform.containers(all=True) == []
    assert platform.functions() == running, "functions outlive what drives them"
    platform.up()
    eventually(lambda: listed(platform) == before, 20, lambda: str(listed(platform)))
    assert platform.call("hello.ann").text == "four"
    assert platform.functions() == running, "they were taken over"
    pushed = fns.push({"hello/handler.py": handler("five")})
    assert pushed.last.startswith("slipway: live"), pushed.text + platform.logs()
    assert platform.call("hello.ann").text == "five"


@pytest.mark.usefixtures("fns")
def test_parts_that_are_killed_come_back(platform: Compose) -> None:
    """Not by the engine's word, which would be the operator's: the process inside dies."""
    for service in ("edge", "gateway", "runtime", "redis"):
        (each,) = platform.containers(service)
        os.kill(each["State"]["Pid"], signal.SIGKILL)
        eventually(platform.healthy, 60, lambda: f"{platform.states()}\n{platform.logs()}")
        eventually(lambda: platform.call("hello.ann").text == "five", 15, platform.logs)


READS = """
from pathlib import Path

def handle(event, context):
    return Path("/var/openfaas/secrets/api-key").read_text()
"""


def test_secrets_reach_functions_and_no_builder(platform: Compose, fns: Repository) -> None:
    def put(value: str) -> int:
        body = json.dumps({"name": "api-key", "namespace": fns.owner, "value": value})
        method = "POST" if value == "one" else "PUT"
        return platform.request(
            "/system/secrets", data=body.encode(), method=method, admin=True
        ).status

    assert put("one") == 201
    files = {"stack.yml": stack("reads", secrets="[api-key]"), "reads/handler.py": READS}
    pushed = platform.repository(fns.owner, "secrets").push(files)
    assert pushed.last.startswith("slipway: live"), pushed.text + platform.logs()
    assert platform.call("reads.ann").text == "one"
    # What the controller laid out stays where it is when its own container goes.
    platform.compose("restart", "-t", "5", "runtime")
    eventually(platform.healthy, 60, platform.logs)
    assert platform.call("reads.ann").text == "one"
    assert put("two") == 200
    again = platform.repository(fns.owner, "secrets").push({"note": "2"})
    assert again.last.startswith("slipway: live"), again.text + platform.logs()
    assert platform.call("reads.ann").text == "two"
    (builder,) = platform.containers("builder")
    told = json.dumps(builder)
    assert "secrets_key" not in told
    assert "/run/secrets/secrets_key" in json.dumps(platform.containers("gateway"))


def test_no_secret_is_in_what_the_engine_tells(platform: Compose) -> None:
    told = str(platform.containers())
    for path in platform.secrets.iterdir():
        assert path.read_text().strip() not in told


def test_nothing_is_left(platform: Compose) -> None:
    platform.remove()
    assert platform.containers(all=True) == []
    assert platform.functions() == {}
    with platform.engine.asking("what is left") as api:
        label = f"com.docker.compose.project={platform.project}"
        assert not api.volumes(filters={"label": label})["Volumes"]
        ours = f"com.slipway.installation={platform.settings.mark}"
        for each in (label, ours):
            assert not api.networks(filters={"label": each})

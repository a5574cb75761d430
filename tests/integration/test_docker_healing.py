"""Controller, edge and engine together: what ends is back in seconds, and an engine that is away or
hangs takes nothing away."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from core.errors import Unavailable
from core.http import request
from core.models import State
from core.settings import Settings
from core.store import Store, connect
from engine.client import Engine
from runtime import replicas
from runtime.controller import Controller
from runtime.edge import Route
from runtime.providers import Phase
from runtime.providers.docker import DockerProvider, provider
from tests import containers
from tests.contracts.test_provider import House, ask, find, make_house
from tests.engines import PrivateEngine, private_engine
from tests.integration.edge_harness import Proxy
from tests.integration.test_controller import KEY, SERVER, World
from tests.waiting import until

pytestmark = pytest.mark.engine

CHECKOUT = Path(__file__).resolve().parents[2]


class Docker(World):
    """A world whose functions are containers, and whose controller runs."""

    def __init__(self, settings: Settings) -> None:
        self._threads: list[threading.Thread] = []
        # A connection that stays open: a controller listens on it for some seconds after its end.
        super().__init__(settings, Store(connect(settings.store_url)))
        self.artifact = containers.image(settings, {"server.py": SERVER}, ["python3", "server.py"])

    def controller(self) -> Controller:
        made = Controller(
            self.settings, self.store, DockerProvider(self.settings, KEY), self.edge, None
        )
        self.made.append(made)
        thread = threading.Thread(target=made.run)
        thread.start()
        self._threads.append(thread)
        return made

    def live(self, controller: Controller) -> str:
        """Releases f.ann; returns where it is routed to."""
        release = self.stage("ann", ["f"], TEXT="v1")
        controller.wake()
        until(lambda: self.state(release) is State.LIVE, 20)
        return self.endpoint()

    def endpoint(self) -> str:
        route = self.edge.table.get("f.ann")
        return route.endpoints[0] if route and route.endpoints else ""

    def healed(self, before: str, seconds: float) -> str:
        """Waits until another replica is routed to, and answers; returns its address."""

        def elsewhere() -> bool:
            return self.endpoint() not in ("", before) and answers(self.endpoint())

        until(elsewhere, seconds)
        return self.endpoint()

    def close(self) -> None:
        for controller, thread in zip(self.made, self._threads, strict=True):
            controller.stop()
            thread.join()
        containers.remove_network(self.settings)


def answers(address: str) -> bool:
    with contextlib.suppress(OSError):
        return request(address, "GET", "/", timeout=2) == (200, b"v1")
    return False


def settings_for(state: Path, valkey: str, **more: str) -> Settings:
    state.mkdir()
    named = {f"SLIPWAY_{name.upper()}": text for name, text in more.items()}
    return Settings.from_env(
        {
            "SLIPWAY_STATE": str(state),
            "SLIPWAY_REDIS_URL": valkey,
            "SLIPWAY_RUNTIME": "docker",
            "SLIPWAY_SUBNET": f"10.{200 + os.getpid() % 50}.{time.time_ns() // 1000 % 256}.0/24",
            **named,
        }
    )


@pytest.fixture
def docker(engine: Engine, short_tmp: Path, valkey: str, store: Store) -> Iterator[Docker]:
    assert not store.functions()
    made = Docker(settings_for(short_tmp / "state", valkey, engine=engine.url))
    yield made
    made.close()


@pytest.fixture(scope="module")
def own_engine(engine: Engine) -> Iterator[PrivateEngine]:
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    with private_engine(folder) as made:
        made.take_image(Settings().python_image, engine)
        yield made


@pytest.fixture
def private(own_engine: PrivateEngine) -> PrivateEngine:
    own_engine.ensure()
    return own_engine


@pytest.fixture
def alone(private: PrivateEngine, short_tmp: Path, valkey: str, store: Store) -> Iterator[Docker]:
    """A world on an engine of its own."""
    assert not store.functions()
    made = Docker(settings_for(short_tmp / "state", valkey, engine=private.url))
    yield made
    made.close()


def test_what_others_end_is_back_within_seconds(docker: Docker, engine: Engine) -> None:
    controller = docker.controller()
    endpoint = docker.live(controller)
    for verb in ("kill", "stop", "remove"):
        (instance,) = controller.provider.instances()
        begun = time.monotonic()
        with engine.asking("") as api:
            if verb == "remove":
                api.remove_container(instance.id, force=True)
            else:
                getattr(api, verb)(instance.id)
        endpoint = docker.healed(endpoint, 10)
        assert time.monotonic() - begun < 10, verb
        until(lambda: len(controller.provider.instances()) == 1, 5)


def test_one_that_is_paused_goes_on_and_one_that_is_unplugged_is_replaced(
    docker: Docker, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "PROBE_EVERY", 0.5)
    monkeypatch.setattr(replicas, "PROBE_SECONDS", 0.5)
    controller = docker.controller()
    endpoint = docker.live(controller)
    (instance,) = controller.provider.instances()
    with engine.asking("") as api:
        api.pause(instance.id)
    until(lambda: controller.provider.instances()[0].phase is Phase.PAUSED, 5)
    controller.wake()
    until(lambda: controller.provider.instances()[0].phase is Phase.RUNNING, 15)
    until(lambda: docker.endpoint() == endpoint and answers(endpoint), 15)
    assert [each.id for each in controller.provider.instances()] == [instance.id]
    with engine.asking("") as api:
        network = next(iter(api.inspect_container(instance.id)["NetworkSettings"]["Networks"]))
        api.disconnect_container_from_network(instance.id, network, force=True)
    docker.healed(endpoint, 8)


def test_an_engine_that_is_away_takes_no_route_away(alone: Docker, private: PrivateEngine) -> None:
    controller = alone.controller()
    endpoint = alone.live(controller)
    with structlog.testing.capture_logs() as told:
        private.kill()
        until(lambda: not _known(controller), 5)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            assert alone.endpoint() == endpoint
            assert answers(endpoint), "containers live on without their engine"
            controller.wake()
            time.sleep(0.1)
    events = [each["event"] for each in told]
    assert events.count("engine_unavailable") == 1
    assert "pass_failed" not in events
    assert events.count("not_mended") <= 1
    private.start()
    endpoint = alone.healed(endpoint, 15)
    until(lambda: len(controller.provider.instances()) == 1, 10)

    private.stop()
    private.start()
    alone.healed(endpoint, 15)


def test_a_controller_waits_for_its_engine(alone: Docker, private: PrivateEngine) -> None:
    private.stop()
    with structlog.testing.capture_logs() as told:
        controller = alone.controller()
        time.sleep(3)
    assert [each["event"] for each in told].count("engine_unavailable") == 1
    private.start()
    alone.live(controller)


def test_an_engine_that_hangs_is_noticed_and_lost_nothing(
    private: PrivateEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "_QUICK", 1)
    settings = settings_for(tmp_path / "s", "unix:///none", engine=private.url)
    artifact = containers.image(settings, {"server.py": SERVER}, ["python3", "server.py"])
    made = DockerProvider(settings, KEY)
    try:
        spec = House(settings, lambda _: made).spec(env_vars={"TEXT": "v1"})
        spec = spec.__class__(**{**_fields(spec), "artifact": artifact})
        instance = made.start(spec)
        until(lambda: answers(instance.address), 10)
        private.hang()
        for verb in (made.terminate, made.remove):
            begun = time.monotonic()
            with pytest.raises(Unavailable, match=r"does not answer|not known"):
                verb(instance)
            assert time.monotonic() - begun < 15
        with pytest.raises(Unavailable, match="not known"):
            made.instances()
        private.go_on()
        until(lambda: _lists(made), 10)
        (found,) = made.instances()
        assert found.id == instance.id
        assert found.phase in (Phase.RUNNING, Phase.EXITED)  # the engine may have heard the signal
        made.remove(found)
        assert made.instances() == []
    finally:
        private.go_on()
        made.close()
        containers.remove_network(settings)


def _fields(spec: Any) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in spec.__struct_fields__}


def _lists(made: DockerProvider) -> bool:
    with contextlib.suppress(Unavailable):
        made.instances()
        return True
    return False


def _known(controller: Controller) -> bool:
    assert isinstance(controller.provider, DockerProvider)
    return _lists(controller.provider)


# The edge.


@pytest.fixture
def house(engine: Engine, short_tmp: Path) -> Iterator[House]:
    assert engine
    (short_tmp / "s").mkdir()
    yield from make_house("docker", short_tmp / "s")


def test_the_edge_reaches_containers_and_loses_no_request_with_one(
    house: House, engine: Engine
) -> None:
    made = house.provider()
    first, second = made.start(house.spec()), made.start(house.spec())
    for each in (first, second):
        assert ask(each) == "hello"
    proxy = Proxy(house.settings)
    try:
        both = {"echo.demo": Route("r", [first.address, second.address])}
        proxy.edge.apply(both)
        answered: list[int] = []
        stop = threading.Event()

        def call() -> None:
            while not stop.is_set():
                client = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=3)
                try:
                    client.request("GET", "/function/echo.demo")
                    with client.getresponse() as response:
                        response.read()
                        answered.append(response.status)
                except OSError:
                    answered.append(0)
                client.close()

        callers = [threading.Thread(target=call) for _ in range(2)]
        for caller in callers:
            caller.start()
        time.sleep(0.5)
        network = made._network.ready()  # type: ignore[attr-defined]  # the docker provider's
        with engine.asking("") as api:  # nothing says goodbye
            api.disconnect_container_from_network(first.id, network, force=True)
        time.sleep(4)
        proxy.edge.mark_down(first.address)
        proxy.edge.apply({"echo.demo": Route("r", [second.address])})
        made.remove(first)
        time.sleep(0.5)
        stop.set()
        for caller in callers:
            caller.join()
        assert len(answered) > 50
        # What was with the one that vanished cannot be saved, everything else is.
        assert sum(status != 200 for status in answered) <= len(callers)
        assert set(answered[-20:]) == {200}
        until(lambda: proxy.edge.tick() or proxy.edge.released(first.address), 10)
    finally:
        proxy.close()


# make up


def chore(settings: Settings, *words: str) -> int:
    environment = {"PYTHONPATH": str(CHECKOUT), "PATH": "/usr/bin:/bin", **settings.environment()}
    argv = [sys.executable, "-m", "supervisor.chores", *words]
    return subprocess.run(argv, env=environment, check=False, timeout=60).returncode


def test_chores_make_and_remove_the_network(house: House, engine: Engine) -> None:
    settings, out = house.settings, house.settings.state / "told"
    assert chore(settings, "network-up", str(out)) == 0
    told = json.loads(out.read_text())
    made = house.provider()
    assert isinstance(made, DockerProvider)
    assert told == {"address": str(made._network.fence.address)}
    instance = made.start(house.spec())
    assert ask(instance) == "hello"
    network = made._network.ready()
    assert chore(settings, "network-down") == 0
    assert find(made, instance.id) == instance
    assert ask(instance) == "hello", "a network with a container on it stays, with its fence"
    assert made._network.fence.available()
    made.remove(instance)
    assert chore(settings, "network-down") == 0
    with engine.asking("") as api:
        assert not [each for each in api.networks() if each["Id"] == network]
    assert not made._network.fence.available()
    gone = settings.__class__(**{**vars(settings), "engine": "unix:///nowhere.sock"})
    assert chore(gone, "network-up", str(out)) == 0
    assert "does not answer" in json.loads(out.read_text())["missing"]

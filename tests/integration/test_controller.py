"""The controller with a real store and real processes: what a restart or a revert must not do."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from core.bundle import PREFIX, Bundle
from core.http import request
from core.models import Artifact, FunctionSpec, Repository, State
from core.settings import Settings
from core.store import Store
from runtime.controller import Controller
from runtime.edge import NoEdge, Route
from runtime.providers import Phase
from runtime.providers.process import ProcessProvider

KEY = b"the key of these tests"
BUILDER = (State.QUEUED, State.BUILDING, State.TESTING)
SERVER = """
import http.server, os, signal, socket, threading, time

class Handler(http.server.BaseHTTPRequestHandler):
    def address_string(self): return "-"
    def log_message(self, *_): pass
    def do_GET(self):
        if self.path == "/_/health":
            time.sleep(float(os.environ.get("SICK", "0")))
        if self.path == "/slow":
            time.sleep(3)
        body = os.environ["TEXT"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False
    def server_bind(self): pass
    def get_request(self):
        return super().get_request()[0], ("-", 0)

server = Server("-", Handler, bind_and_activate=False)
server.socket = socket.socket(fileno=3)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
"""


class BusyEdge(NoEdge):
    """An edge on which every endpoint still has a request, until it is said to be free."""

    def __init__(self) -> None:
        self.table: dict[str, Route] = {}
        self.busy = True

    def apply(self, routes: Mapping[str, Route]) -> None:
        self.table = dict(routes)

    def released(self, endpoint: str) -> bool:
        return bool(endpoint) and not self.busy


class World:
    """A store, a provider and controllers of one installation."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self.edge = BusyEdge()
        self.made: list[Controller] = []
        digest = hashlib.sha256(SERVER.encode()).hexdigest()
        for owner in ("ann", "bob"):
            folder = settings.bundles / owner / digest
            (folder / "app").mkdir(parents=True)
            (folder / "app" / "server.py").write_text(SERVER)
            bundle = Bundle(template="test", process=["python3", "server.py"])
            (folder / "bundle.json").write_bytes(msgspec.json.encode(bundle))
        self.artifact = PREFIX + digest

    def controller(self) -> Controller:
        provider = ProcessProvider(self.settings, KEY)
        made = Controller(self.settings, self.store, provider, self.edge, None)
        self.made.append(made)
        made._adopt()
        return made

    def stage(self, owner: str, names: list[str], **env: str) -> str:
        """A release of these functions in state ``staging``; returns its id."""
        repository = Repository(namespace=owner, name="fns", source="git", deploy_branch="main")
        self.store.save_repository(repository)
        number = len(self.store.releases())
        release = self.store.create_release(repository, f"{number:040x}", "main", again=True)
        self.store.take_turn(repository.key)
        self.store.move(release.id, BUILDER, State.BUILDING)
        specs = [
            FunctionSpec(
                name=name,
                namespace=owner,
                artifact=self.artifact,
                repository="fns",
                env_vars={"TEXT": "x", **env},
            )
            for name in names
        ]
        artifacts = [Artifact(name=s.name, key="", artifact=s.artifact, spec=s) for s in specs]
        self.store.put_artifacts(release.id, release.commit, artifacts)
        return release.id

    def state(self, id_: str) -> State:
        return self.store.release(id_).state

    def until(self, check: Callable[[], bool], controller: Controller, seconds: float) -> bool:
        """Passes until it holds; False if it does not in time."""
        deadline = time.monotonic() + seconds
        while not check():
            if time.monotonic() > deadline:
                return False
            controller.pass_()
            time.sleep(0.02)
        return True

    def close(self) -> None:
        for controller in self.made:
            controller.replicas.close()
        provider = self.made[-1].provider
        for instance in provider.instances():
            provider.remove(instance)
        for controller in self.made:
            controller.provider.close()


@pytest.fixture
def world(short_tmp: Path, valkey: str, store: Store) -> Iterator[World]:
    (short_tmp / "state").mkdir()
    made = World(
        Settings.from_env(
            {
                "SLIPWAY_STATE": str(short_tmp / "state"),
                "SLIPWAY_REDIS_URL": valkey,
                "SLIPWAY_HEALTH_TIMEOUT": "4s",
                "SLIPWAY_EGRESS": "0",
            }
        ),
        store,
    )
    yield made
    made.close()


def test_a_restart_while_staging_makes_nothing_unhealthy_live(world: World) -> None:
    first = world.stage("ann", ["f"], TEXT="v1")
    one = world.controller()
    assert world.until(lambda: world.state(first) is State.LIVE, one, 10)
    good = world.edge.table["f.ann"]
    sick = world.stage("ann", ["f"], TEXT="v2", SICK="60")
    assert world.until(lambda: len(one.provider.instances()) == 2, one, 5)
    one.replicas.close()
    two = world.controller()  # the first one died
    for _ in range(5):
        two.pass_()
        assert world.edge.table["f.ann"] == good
    assert world.until(lambda: world.state(sick) is State.FAILED, two, 15)
    assert "f " in world.store.release(sick).reason
    assert world.edge.table["f.ann"] == good


def test_a_revert_to_what_is_still_draining_starts_it_anew(world: World) -> None:
    controller = world.controller()
    first = world.stage("ann", ["f"], TEXT="v1")
    assert world.until(lambda: world.state(first) is State.LIVE, controller, 10)
    before = world.edge.table["f.ann"].endpoints
    second = world.stage("ann", ["f"], TEXT="v2")
    assert world.until(lambda: world.state(second) is State.LIVE, controller, 10)
    third = world.stage("ann", ["f"], TEXT="v1")  # the old replica still has a request
    assert world.until(lambda: world.state(third) is State.LIVE, controller, 10)
    after = world.edge.table["f.ann"].endpoints
    assert after
    assert after != before
    assert request(after[0], "GET", "/", timeout=5)[1] == b"v1"
    world.edge.busy = False
    assert world.until(
        lambda: [i.address for i in controller.provider.instances()] == list(after), controller, 10
    )


def test_functions_that_hang_hold_up_nobody_else(world: World) -> None:
    controller = world.controller()
    hanging = world.stage("ann", [f"h{n}" for n in range(12)], SICK="60")
    controller.pass_()
    time.sleep(0.5)
    other = world.stage("bob", ["f"])
    assert world.until(lambda: world.state(other) is State.LIVE, controller, 3)
    assert world.until(lambda: world.state(hanging) is State.FAILED, controller, 15)
    world.edge.busy = False
    assert world.until(
        lambda: {i.function for i in controller.provider.instances()} == {"f.bob"}, controller, 15
    )


def test_a_switched_release_is_replaced_not_superseded(world: World) -> None:
    controller = world.controller()
    first = world.stage("ann", ["f"], TEXT="v1")
    assert (
        world.until(
            lambda: (
                all(i.phase is Phase.RUNNING for i in controller.provider.instances())
                and bool(controller.replicas.ready())
            ),
            controller,
            10,
        )
        or world.state(first) is State.LIVE
    )
    if world.state(first) is State.STAGING:  # as while the edge is away
        world.store.switch(first, lambda _: 1)
    second = world.stage("ann", ["f"], TEXT="v2")
    assert world.state(first) in (State.STAGING, State.LIVE), "it is the desired state"
    assert world.until(lambda: world.state(second) is State.LIVE, controller, 10)
    assert world.state(first) is State.REPLACED


def test_a_health_path_that_drips_ends_at_its_deadline(short_tmp: Path) -> None:
    import socket

    path = short_tmp / "drip.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def drip() -> None:
        client, _ = listener.accept()
        with client:
            try:
                while True:
                    client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                    time.sleep(0.1)
            except OSError:
                return

    thread = threading.Thread(target=drip)
    thread.start()
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match="no whole answer"):
        request(f"unix@{path}", "GET", "/", timeout=1)
    assert time.monotonic() - begun < 3
    thread.join()
    listener.close()

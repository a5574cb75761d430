"""The controller with a real store and real processes: what a restart or a revert must not do."""

from __future__ import annotations

import hashlib
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from core import keys, policydocument
from core.bundle import PREFIX, Bundle
from core.errors import Unavailable
from core.http import request
from core.models import Artifact, FunctionRow, FunctionSpec, Release, RollbackState, State, Usage
from core.policy import Held
from core.repositories import Repository
from core.settings import Settings
from core.store import Store
from runtime.controller import Controller
from runtime.edge import NoEdge, Route
from runtime.providers import Instance, Phase
from runtime.providers.process import ProcessProvider
from tests.conftest import missing
from tests.waiting import until

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
        if self.path == "/burn":
            threading.Thread(target=burn, daemon=True).start()
        body = os.environ["TEXT"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

def burn():
    while True: pass

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
        self.away = False

    def apply(self, routes: Mapping[str, Route]) -> None:
        if self.away:
            raise Unavailable("away")
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

    def stage(
        self, owner: str, names: list[str], *, only: str = "", scale: str = "1", **env: str
    ) -> str:
        """A release of these functions in state ``staging``; returns its id.

        ``only``: the one function that has these variables, the others have those of v1.
        """
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
                labels={"com.openfaas.scale.min": scale},
                env_vars={"TEXT": "v1"} if only and name != only else {"TEXT": "x", **env},
            )
            for name in names
        ]
        artifacts = [Artifact(name=s.name, key="", artifact=s.artifact, spec=s) for s in specs]
        self.store.put_artifacts(release.id, release.commit, artifacts)
        return release.id

    def deploy(self, process: str | None = None, **env: str) -> FunctionSpec:
        """Deploys ``f.ann`` by API; returns what was there before, or else the new one."""
        self.store.claim_namespace("ann", "git")
        before = self.store.function("f.ann")
        spec = FunctionSpec(
            name="f",
            namespace="ann",
            artifact=self.artifact,
            deployment=secrets.token_hex(4),
            env_process=process,
            env_vars=env,
        )
        self.store.deploy(spec, update=before is not None, check=lambda: None)
        return before.spec if before else spec

    def texts(self) -> set[str]:
        """What the endpoints of ``f.ann`` in the routes answer."""
        answers = [
            request(each, "GET", "/", timeout=5) for each in self.edge.table["f.ann"].endpoints
        ]
        assert {status for status, _ in answers} == {200}
        return {body.decode() for _, body in answers}

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
                "SLIPWAY_WATCH": "0s",
                "SLIPWAY_WARM": "0s",
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


def test_a_power_cut_while_staging_is_not_the_release_s_fault(world: World) -> None:
    one = world.controller()
    release = world.stage("ann", ["f"], SICK="0.5")
    assert world.until(lambda: len(one.provider.instances()) == 1, one, 5)
    one.replicas.close()
    (staged,) = one.provider.instances()
    cut = one.provider.process(staged)  # type: ignore[attr-defined]  # the process provider's
    os.kill(cut.pid, signal.SIGKILL)
    until(lambda: [each.phase for each in one.provider.instances()] == [Phase.EXITED], 5)
    two = world.controller()
    assert world.until(lambda: world.state(release) is not State.STAGING, two, 10)
    assert world.state(release) is State.LIVE
    assert staged.id not in {each.id for each in two.provider.instances()}


def test_a_revert_to_what_is_still_draining_goes_on_with_it(world: World) -> None:
    controller = world.controller()
    first = world.stage("ann", ["f"], TEXT="v1")
    assert world.until(lambda: world.state(first) is State.LIVE, controller, 10)
    before = world.edge.table["f.ann"].endpoints
    second = world.stage("ann", ["f"], TEXT="v2")
    assert world.until(lambda: world.state(second) is State.LIVE, controller, 10)
    third = world.stage("ann", ["f"], TEXT="v1")  # the old replica still has a request
    assert world.until(lambda: world.state(third) is State.LIVE, controller, 10)
    after = world.edge.table["f.ann"].endpoints
    assert after == before
    assert request(after[0], "GET", "/", timeout=5)[1] == b"v1"
    world.edge.busy = False
    assert world.until(
        lambda: [i.address for i in controller.provider.instances()] == list(after), controller, 10
    )


def test_what_was_never_healthy_gets_no_time_to_drain(world: World) -> None:
    controller = world.controller()
    world.edge.busy = False
    world.stage("ann", ["f"], SICK="60")  # it would not end before its answer
    assert world.until(lambda: len(controller.provider.instances()) == 1, controller, 10)
    (sick,) = controller.provider.instances()
    assert request(sick.address, "GET", "/", timeout=5)[0] == 200, "it hangs in its health alone"
    good = world.stage("ann", ["f"], TEXT="v2")
    assert world.until(lambda: world.state(good) is State.LIVE, controller, 10)
    assert world.until(
        lambda: sick.id not in {i.id for i in controller.provider.instances()}, controller, 10
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


@pytest.mark.parametrize(
    "head", [b"", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"], ids=["headers", "body"]
)
def test_a_health_path_that_drips_ends_at_its_deadline(short_tmp: Path, head: bytes) -> None:
    path = short_tmp / "drip.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def drip() -> None:
        client, _ = listener.accept()
        with client:
            try:
                client.sendall(head)
                while True:
                    client.sendall(b"x" if head else b"HTTP/1.1 100 Continue\r\n\r\n")
                    time.sleep(0.1)
            except OSError:
                return

    thread = threading.Thread(target=drip)
    thread.start()
    begun = time.monotonic()
    with nullcontext() if head else pytest.raises(TimeoutError, match="no whole answer"):
        request(f"unix@{path}", "GET", "/", timeout=1)
    assert time.monotonic() - begun < 6
    thread.join()
    listener.close()


def test_only_what_a_release_changes_can_fail_it(world: World) -> None:
    controller = world.controller()
    first = world.stage("ann", ["f", "g"], TEXT="v1")
    assert world.until(lambda: world.state(first) is State.LIVE, controller, 10)
    second = world.stage("ann", ["f", "g"], only="f", TEXT="v2")
    controller.pass_()
    (other,) = [each for each in controller.provider.instances() if each.function == "g.ann"]
    controller.provider.remove(other)  # as if it had crashed and was buried
    controller.replicas.died(other)
    assert world.until(lambda: world.state(second) is not State.STAGING, controller, 10)
    assert world.state(second) is State.LIVE
    assert world.until(lambda: {"f.ann", "g.ann"} == set(world.edge.table), controller, 10)


def test_one_owner_s_torn_bundle_holds_up_nobody_else(world: World) -> None:
    digest = world.artifact.removeprefix(PREFIX)
    (world.settings.bundles / "ann" / digest / "bundle.json").write_bytes(b'{"template": ')
    controller = world.controller()
    torn, other = world.stage("ann", ["f"]), world.stage("bob", ["f"])
    assert world.until(lambda: world.state(other) is State.LIVE, controller, 10)
    assert world.until(lambda: world.state(torn) is State.FAILED, controller, 15)
    assert "is damaged" in world.store.release(torn).reason


def test_what_passes_is_no_reason_to_send_anybody_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for it to wake waits on: it is tried again at once."""
    controller = world.controller()
    world.deploy(TEXT="v1")
    start, refusals = controller.provider.start, iter([True])
    told: list[tuple[str, bool]] = []

    def refusing(spec: FunctionSpec, stop: Callable[[], bool]) -> Instance:
        if next(refusals, False):
            raise Unavailable("no room for a process just now")
        return start(spec, stop)

    def seen() -> bool:
        if (observed := world.store.observed("f.ann")) and observed.trouble:
            told.append((observed.trouble, observed.starting))
        return bool(observed and observed.endpoints)

    monkeypatch.setattr(controller.provider, "start", refusing)
    assert world.until(seen, controller, 10), told
    assert "no room for a process just now" in {trouble for trouble, _ in told}
    assert all(starting for _, starting in told)


def test_a_request_that_a_gateway_forwards_is_drained_too(world: World) -> None:
    """As the one that woke the function: no edge knows of it."""
    controller = world.controller()
    world.edge.busy = False
    world.deploy(TEXT="v1")
    assert world.until(lambda: "f.ann" in world.edge.table, controller, 10)
    old = world.edge.table["f.ann"].endpoints
    world.store.forwarding("a gateway", {"f.ann": 1})
    world.deploy(TEXT="v2")
    assert world.until(lambda: world.edge.table["f.ann"].endpoints != old, controller, 10)
    assert not world.until(lambda: len(controller.provider.instances()) == 1, controller, 1), (
        "it answers somebody"
    )
    assert [each.phase for each in controller.provider.instances()] == [Phase.RUNNING] * 2
    world.store.forwarding("a gateway", {"f.ann": 0})
    assert world.until(lambda: len(controller.provider.instances()) == 1, controller, 10)
    assert world.texts() == {"v2"}


def test_a_machine_that_refuses_for_a_moment_fails_no_release(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = world.controller()
    start = controller.provider.start
    refusals = iter([True, True])

    def refusing(spec: FunctionSpec, stop: Callable[[], bool]) -> Instance:
        if next(refusals, False):
            raise Unavailable("no room for a process just now")
        return start(spec, stop)

    monkeypatch.setattr(controller.provider, "start", refusing)
    release = world.stage("ann", ["f"])
    assert world.until(lambda: world.state(release) is not State.STAGING, controller, 10)
    assert world.state(release) is State.LIVE


def test_one_owner_s_release_that_cannot_be_handled_holds_up_nobody_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = world.controller()
    stuck = world.stage("ann", ["f"])
    fine = world.stage("bob", ["f"])
    switch = world.store.switch

    def failing(id_: str, replicas: Callable[[Artifact], int], **more: Any) -> Release:
        if id_ == stuck:
            raise OSError("the disk is full")
        return switch(id_, replicas, **more)

    monkeypatch.setattr(world.store, "switch", failing)
    assert world.until(lambda: world.state(fine) is State.LIVE, controller, 10)
    assert world.state(stuck) is State.STAGING
    monkeypatch.undo()
    assert world.until(lambda: world.state(stuck) is State.LIVE, controller, 10)


def test_a_death_is_made_good_while_another_replica_still_starts(world: World) -> None:
    controller = world.controller()
    release = world.stage("ann", ["f"], scale="2")
    assert world.until(lambda: world.state(release) is State.LIVE, controller, 10)
    held = threading.Event()

    def await_health(*_: object) -> None:
        held.wait(20)

    one, two = controller.provider.instances()
    controller.replicas._await_health = await_health  # type: ignore[method-assign]  # hangs
    controller.provider.remove(one)
    assert world.until(lambda: len(controller.provider.instances()) == 2, controller, 5)
    controller.provider.remove(two)  # while the one in the place of the first still starts
    assert world.until(lambda: len(controller.provider.instances()) == 2, controller, 5)
    held.set()


def test_what_was_told_is_told_again_to_a_store_that_lost_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.telling.TELL_EVERY", 0.2)
    controller = world.controller()
    release = world.stage("ann", ["f"])
    assert world.until(lambda: world.state(release) is State.LIVE, controller, 10)
    world.store.redis.delete(keys.OBSERVED)
    assert world.until(lambda: bool(world.store.observed("f.ann")), controller, 5)


def test_usage_is_measured_for_who_asks_and_not_otherwise(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.store.functions.USAGE_SECONDS", 1)
    controller = world.controller()
    bounded = controller.provider.enforced()["memory"]
    if "cgroup" not in bounded:
        missing("memory is not counted on this machine: " + bounded)
    world.deploy(TEXT="v1")
    world.store.scale("f.ann", lambda _: 2)
    assert world.until(
        lambda: "f.ann" in world.edge.table and len(world.edge.table["f.ann"].endpoints) == 2,
        controller,
        10,
    )
    measured_of = []
    measure = controller.provider.usage

    def counted(functions: Collection[str]) -> Mapping[str, Usage]:
        measured_of.extend(functions)
        return measure(functions)

    monkeypatch.setattr(controller.provider, "usage", counted)
    measuring = threading.Thread(target=controller._measure)
    measuring.start()
    try:

        def measured(function: str) -> Usage:
            world.store.ask_usage(function)
            return until(lambda: world.store.usage(function))

        idle = measured("f.ann")
        assert idle.total_memory_bytes > 2 * 2**20, "of both replicas"
        until(lambda: world.store.usage("f.ann") is None)
        assert request(world.edge.table["f.ann"].endpoints[0], "GET", "/burn", timeout=5)[0] == 200
        assert measured("f.ann").cpu > idle.cpu + 200
        assert measured("gone.ann").total_memory_bytes == 0
        assert measured_of == ["f.ann", "f.ann", "gone.ann"]
    finally:
        controller.stop()
        measuring.join(10)


# Deploys by API


def test_a_deploy_takes_over_when_all_of_it_is_healthy_and_not_before(world: World) -> None:
    controller = world.controller()
    world.deploy(TEXT="v1")
    world.store.scale("f.ann", lambda _: 2)
    assert world.until(
        lambda: "f.ann" in world.edge.table and len(world.edge.table["f.ann"].endpoints) == 2,
        controller,
        10,
    )
    old = world.deploy(TEXT="v2", SICK="0.3")
    assert world.store.functions()["f.ann"].previous == old
    seen = []

    def moved() -> bool:
        """Whether the route is the new one's; it never leads anywhere else than to one of them."""
        seen.append(world.texts())
        assert len(world.edge.table["f.ann"].endpoints) == 2
        return seen[-1] == {"v2"}

    assert world.until(moved, controller, 10)
    assert {"v1"} in seen
    assert all(len(each) == 1 for each in seen), "the route moves in one step"
    assert world.store.functions()["f.ann"].previous is None
    world.edge.busy = False
    assert world.until(
        lambda: (
            {i.revision for i in controller.provider.instances()} != {old.revision}
            and len(controller.provider.instances()) == 2
        ),
        controller,
        10,
    )
    world.store.delete_function("f.ann")
    assert world.until(lambda: not controller.provider.instances(), controller, 10)
    assert world.edge.table == {}


def test_a_deploy_that_cannot_run_leaves_what_served_and_says_why(world: World) -> None:
    one = world.controller()
    world.edge.busy = False
    world.deploy(TEXT="v1")
    assert world.until(lambda: "f.ann" in world.edge.table, one, 10)
    old = world.deploy(process="false")

    def trouble() -> str:
        observed = world.store.observed("f.ann")
        return observed.trouble if observed else ""

    assert world.until(lambda: "status 1" in trouble(), one, 10)
    assert trouble().endswith("what was deployed before it still serves")
    assert world.texts() == {"v1"}
    one.replicas.close()
    two = world.controller()  # the first one died
    assert world.until(lambda: "status 1" in trouble(), two, 10)
    assert world.texts() == {"v1"}
    world.deploy(process="false")
    served = world.store.functions()["f.ann"].previous
    assert served == old, "the last one that was healthy, not the last one"
    two.provider.remove(next(i for i in two.provider.instances() if i.revision == old.revision))
    assert world.until(lambda: "f.ann" not in world.edge.table, two, 5)
    assert world.until(lambda: "f.ann" in world.edge.table, two, 10), "it is healed meanwhile"
    world.deploy(TEXT="v2")
    assert world.until(lambda: world.texts() == {"v2"}, two, 10)
    assert world.until(lambda: trouble() == "", two, 5)


def test_a_controller_that_dies_during_a_deploy_loses_nothing(world: World) -> None:
    one = world.controller()
    world.deploy(TEXT="v1")
    assert world.until(lambda: "f.ann" in world.edge.table, one, 10)
    world.deploy(TEXT="v2", SICK="1")
    assert world.until(lambda: len(one.provider.instances()) == 2, one, 5)
    one.replicas.close()
    two = world.controller()
    two.pass_()
    assert world.texts() == {"v1"}
    assert world.until(lambda: world.texts() == {"v2"}, two, 10)
    assert world.store.functions()["f.ann"].previous is None


def test_a_release_whose_function_was_scaled_to_zero_goes_live(world: World) -> None:
    controller = world.controller()
    release = world.stage("ann", ["f"], TEXT="v1")
    world.store.switch(release, lambda _: 1)
    world.store.scale("f.ann", lambda _: 0)
    assert world.until(lambda: world.state(release) is State.LIVE, controller, 5)
    assert "f.ann" not in world.edge.table
    again = world.stage("ann", ["f"], TEXT="v2")
    assert world.until(lambda: world.state(again) is State.LIVE, controller, 10)
    assert world.texts() == {"v2"}, "until its next release"


def test_a_changed_policy_moves_the_routes_of_its_owner(world: World) -> None:
    source = "/etc/slipway/policy.yml"
    world.settings = replace(world.settings, domain="fn.example.com", policy=source)
    port = world.settings.port

    def rule(text: str) -> None:
        policy = policydocument.read(text.encode(), "policy.yml")
        assert world.store.hold_policy(world.store.held_policy(), Held(source, policy))

    def hostless() -> set[str]:
        return {function for function, route in world.edge.table.items() if route.hostless}

    def live(owner: str, text: str) -> str:
        """Releases ``f`` of an owner; returns the URL that it is told at."""
        release = world.stage(owner, ["f"], TEXT=text)
        world.store.save_row(release, FunctionRow(name="f"))
        assert world.until(lambda: world.state(release) is State.LIVE, controller, 10)
        return world.store.release(release).functions[0].url

    rule("{}")
    controller = world.controller()
    live("bob", "v1")
    assert live("ann", "v1") == f"http://ann.fn.example.com:{port}/f"
    assert hostless() == set()
    rule("policies: {ann: {domain: false}}")
    controller.pass_()
    assert hostless() == {"f.ann"}
    assert live("ann", "v2") == f"http://fn.example.com:{port}/function/f.ann"
    assert hostless() == {"f.ann"}
    rule("{}")
    controller.pass_()
    assert hostless() == set()


def test_a_release_waits_for_the_routes_of_a_rollback(world: World) -> None:
    """Else it would be taken back to a release that the rollback had replaced."""
    controller = world.controller()
    first = world.stage("ann", ["f"], TEXT="v1")
    assert world.until(lambda: world.state(first) is State.LIVE, controller, 10)
    second = world.stage("ann", ["f"], TEXT="v2")
    assert world.until(lambda: world.state(second) is State.LIVE, controller, 10)
    world.edge.away = True
    id_ = world.store.create_rollback("ann", "fns").id

    def moved() -> bool:
        return world.store.rollback(id_).state is RollbackState.SWITCHED

    assert world.until(moved, controller, 10)
    third = world.stage("ann", ["f"], TEXT="v3")
    assert world.until(lambda: len(controller.provider.instances()) >= 3, controller, 10)
    assert not world.until(lambda: world.store.switched(third) is not None, controller, 1)
    world.edge.away = False
    assert world.until(lambda: world.state(third) is State.LIVE, controller, 10)
    assert world.store.rollback(id_).state is RollbackState.DONE
    assert (world.state(second), world.state(first)) == (State.ROLLED_BACK, State.REPLACED)
    assert world.texts() == {"v3"}

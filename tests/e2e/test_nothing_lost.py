"""No request is lost: clients of every kind, all the time, while everything is changed and
restarted below them. And where an edge is killed, what it had is counted."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from core import keys
from core.failpoints import VARIABLE
from core.store import Store, connect
from supervisor.leftovers import Leftovers
from tests.chaos.points import Points
from tests.e2e.clients import Scene, acting, files
from tests.e2e.platform import Platform, fresh_folder, handler, running, stack
from tests.waiting import until

DRAIN = 6.0


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with (
        fresh_folder() as folder,
        running(
            folder, **{"SLIPWAY_DRAIN_TIMEOUT": f"{DRAIN:.0f}s", VARIABLE: f"{folder}/points"}
        ) as up,
        acting(up, DRAIN) as made,
    ):
        yield made


def edges(platform: Platform) -> dict[int, float]:
    """The HAProxys there are → when each began, in the kernel's ticks."""
    living = Leftovers(platform.settings.state / "parts").read()
    began = {}
    for each in living:
        if each.name == "edge":
            with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                stat = Path(f"/proc/{each.pid}/stat").read_text()
                began[each.pid] = float(stat.rpartition(")")[2].split()[19])
    return began


# ------------------------------------------------------------------------------------ the orderly


def test_releases(scene: Scene) -> None:
    for _ in range(2):
        with scene.crowd.unharmed():
            scene.crowd.sees(scene.push())


def test_a_rollback_and_a_release_after_it(scene: Scene) -> None:
    version = scene.push()
    scene.crowd.sees(version)
    with scene.crowd.unharmed():
        done = scene.platform.slipway("rollback", "ann/both", check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    scene.crowd.sees(version - 1)
    with scene.crowd.unharmed():
        scene.crowd.sees(scene.push())


def test_more_and_fewer_replicas(scene: Scene) -> None:
    with scene.crowd.unharmed():
        scene.scale(3)
    with scene.crowd.unharmed():
        scene.scale(1)


@pytest.mark.parametrize("part", ["controller", "gateway", "edge", "all"])
def test_planned_restarts(scene: Scene, part: str) -> None:
    parts = [part] if part != "all" else []
    closings = scene.crowd.closings
    with scene.crowd.unharmed():
        done = scene.platform.slipway("restart", *parts, check=False)
        assert done.returncode == 0, done.stdout + done.stderr + scene.platform.logs()
    for each in parts or ["controller", "gateway", "edge", "queue", "reporter", "workers"]:
        assert f"{each}: restarted" in done.stdout
    if part == "edge":
        assert scene.crowd.closings == closings, "WebSockets stay with the old one"
        assert len(edges(scene.platform)) > 1


def test_a_release_after_the_restarts(scene: Scene) -> None:
    """Old edges still have WebSockets of what is replaced now; these have their time as well."""
    with scene.crowd.unharmed():
        version = scene.push()
        scene.crowd.sees(version)
    closings = scene.crowd.closings
    until(lambda: scene.crowd.closings > closings or scene.crowd.failures, DRAIN + 10)
    until(lambda: len(edges(scene.platform)) == 1, 20, lambda: str(edges(scene.platform)))


def test_a_push_that_is_watched_while_the_gateway_restarts(scene: Scene) -> None:
    platform = scene.platform
    with watched_push(platform) as (commit, push):
        with scene.crowd.unharmed():
            done = platform.slipway("restart", "gateway", check=False)
        assert done.returncode == 0, done.stderr
        told = push.result(60)
    assert told.returncode == 0, told.stderr
    assert GOES_ON + commit in told.stderr
    assert "live" in platform.slipway("wait", commit).stdout


GOES_ON = "goes on; follow it with: slipway wait "


@contextmanager
def watched_push(platform: Platform) -> Iterator[tuple[str, Future[CompletedProcess[str]]]]:
    """A commit that is built and not handed over before the end of the block, and its push."""
    points = Points(platform.folder / "points")
    repository = platform.repository("ben", "slow")
    files = {"stack.yml": stack("s"), "s/handler.py": handler("s")}
    commit = repository.commit({**files, "s/more.txt": str(time.time())})
    points.arm("handing-over")
    with ThreadPoolExecutor(1) as pool:
        push = pool.submit(repository.git, "push", repository.url, "HEAD:main", check=False)
        try:
            until(lambda: points.reached("handing-over"), 20)
            yield commit, push
        finally:
            points.release("handing-over")


def test_restarts_say_what_is_wrong(scene: Scene) -> None:
    slipway = scene.platform.slipway
    assert slipway("restart", "store", check=False).returncode == 2
    with fresh_folder() as nowhere:
        done = slipway("--state", str(nowhere), "restart", "gateway", check=False)
    assert done.returncode == 1
    assert "no Slipway runs on" in done.stderr


# ------------------------------------------------------------------------------------- the killed


def lost(platform: Platform, function: str) -> int:
    told = platform.request("/metrics", admin=True).text
    name = re.escape(f'slipway_edge_lost_requests_total{{function_name="{function}"}}')
    found = re.search(f"^{name} (\\d+)$", told, re.MULTILINE)
    return int(found[1]) if found else 0


def passes(platform: Platform, number: int) -> None:
    """Has the controller look around so often."""
    with closing(connect(platform.settings.store_url)) as redis:

        def beat() -> object:
            return redis.hget(keys.BEATS, "controller")

        def look() -> None:
            before = beat()
            Store(redis).wake()
            until(lambda: beat() != before)
            time.sleep(0.1)

        for _ in range(number):
            look()


def test_what_a_killed_edge_had_is_counted(scene: Scene) -> None:
    """On a repository of its own: the crowd's own requests come and go too fast to be known."""
    platform = scene.platform
    pushed = platform.repository("kim", "flow").push(files(1))
    assert pushed.last.startswith("slipway: live"), pushed.text
    cut: list[str] = []
    sent = threading.Semaphore(0)

    def hold() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", platform.port, timeout=120)
        try:
            connection.request("GET", "/function/flow.kim/wait?seconds=100")
            sent.release()
            connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            cut.append(type(error).__name__)
        finally:
            connection.close()

    threads = [threading.Thread(target=hold) for _ in range(3)]
    for thread in threads:
        thread.start()
        assert sent.acquire(timeout=60)
    passes(platform, 10)  # the edge has them by then, and the controller has counted them
    before = lost(platform, "flow.kim")
    began = edges(platform)
    os.kill(max(began, key=began.__getitem__), signal.SIGKILL)
    # One that comes while no edge lives waits in the socket that the supervisor holds.
    with socket.create_connection(("127.0.0.1", platform.port), 60) as client:
        client.sendall(b"GET /function/flow.kim HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    for thread in threads:
        thread.join(60)
    assert len(cut) == 3, "what was in flight is lost"
    platform.call("flow.kim", path="/release")  # or the end would wait for what is left of it

    def noticed() -> bool:
        passes(platform, 1)
        return lost(platform, "flow.kim") > before

    until(noticed, 20)
    assert lost(platform, "flow.kim") == before + 3
    # The crowd lost what it had just then, and nothing later.
    crowd = scene.crowd
    harmed = Counter(each.partition(":")[0] for each in crowd.failures)
    assert all(times == 1 for times in harmed.values()), crowd.failures
    crowd.failures.clear()
    with crowd.unharmed():
        pass


# ---------------------------------------------------------------------------------------- the end


def test_ctrl_c_has_a_word_for_whoever_watches_a_push(scene: Scene) -> None:
    """The last of all: nothing runs after it."""
    scene.crowd.end()
    process = scene.platform.process
    assert process
    with watched_push(scene.platform) as (commit, push):
        process.send_signal(signal.SIGINT)
        told = push.result(60)
    assert process.wait(60) == 0
    assert told.returncode == 0, told.stderr
    assert GOES_ON + commit in told.stderr
    assert "the gateway took" not in scene.platform.output()
    assert "the edge took" not in scene.platform.output()

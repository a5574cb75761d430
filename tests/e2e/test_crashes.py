"""Processes die: one child, the supervisor alone, everything. It comes back; nothing is lost."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from core import cgroup
from core.models import State
from core.store import Store, connect
from tests.e2e.platform import Platform, handler, running, stack


@pytest.fixture(scope="module")
def crashing() -> Iterator[Platform]:
    """A platform of this module's own, with one function live."""
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    with running(folder) as up:
        repository = up.repository("kim", "fns")
        pushed = repository.push({"stack.yml": stack("k"), "k/handler.py": handler("v1")})
        assert pushed.last.startswith("slipway: live"), pushed.text + up.logs()
        yield up
    shutil.rmtree(folder, ignore_errors=True)


def eventually(check: Callable[[], bool], seconds: float, what: str) -> float:
    """Waits until it holds; returns how long that took."""
    begun = time.monotonic()
    while True:
        try:
            if check():
                return time.monotonic() - begun
        except OSError:
            pass
        assert time.monotonic() - begun < seconds, f"{what} not within {seconds} s"
        time.sleep(0.1)


def serves(platform: Platform) -> bool:
    return platform.call("k.kim").text.startswith("v")


def healthy(platform: Platform) -> bool:
    return platform.request("/healthz", timeout=5).status == 200


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


PARTS = ["store", "gateway", "workers", "queue", "reporter", "controller", "edge"]


@pytest.mark.parametrize("part", PARTS)
def test_one_part_is_killed_and_comes_back(crashing: Platform, part: str) -> None:
    before = crashing.part(part)
    os.kill(before, signal.SIGKILL)
    eventually(lambda: not psutil.pid_exists(before), 5, "the kill")
    eventually(lambda: serves(crashing), 10, "an answer")
    eventually(lambda: crashing.part(part) != before and healthy(crashing), 20, "health")
    repository = crashing.repository("kim", "fns")
    pushed = repository.push({"k/handler.py": handler(f"v-{part}")})
    assert pushed.last.startswith("slipway: live"), pushed.text + crashing.logs()
    assert crashing.call("k.kim").text == f"v-{part}"


def test_a_killed_function_is_healed(crashing: Platform) -> None:
    def functions() -> list[psutil.Process]:
        groups = cgroup.discover(crashing.settings.mark, top=True).hierarchies[0].folder
        ours = {  # other installations have functions, too
            int(pid) for each in groups.glob("*/cgroup.procs") for pid in each.read_text().split()
        }
        found = []
        for process in psutil.process_iter(["cmdline", "uids"]):
            if process.pid not in ours or process.info["uids"].real < 1_000_000:
                continue
            if "index.py" in " ".join(process.info["cmdline"] or []):
                found.append(process)
        return found

    victims = functions()
    assert victims
    for process in victims:
        process.kill()
    took = eventually(lambda: serves(crashing), 10, "an answer")
    assert took < 10


def test_the_edge_away_makes_connections_wait_not_fail(crashing: Platform) -> None:
    failures: list[str] = []
    answers: list[int] = []
    done = threading.Event()

    def keep_calling() -> None:
        while not done.is_set():
            try:
                answers.append(crashing.call("k.kim").status)
            except OSError as error:
                failures.append(str(error))
            time.sleep(0.01)

    client = threading.Thread(target=keep_calling)
    client.start()
    time.sleep(0.3)
    before = crashing.part("edge")
    os.kill(before, signal.SIGKILL)
    eventually(lambda: crashing.part("edge") != before and healthy(crashing), 15, "the edge")
    time.sleep(0.3)
    done.set()
    client.join()
    assert len(failures) <= 1, f"only what was in flight may break: {failures}"
    assert set(answers) == {200}


def test_a_build_whose_worker_died_is_resumed(crashing: Platform) -> None:
    repository = crashing.repository("kim", "slow")
    slow = "import time\n\ndef test_it():\n    time.sleep(4)\n"
    repository.commit(
        {"stack.yml": stack("s"), "s/handler.py": handler("s1"), "s/handler_test.py": slow}
    )
    pushed: list[str] = []

    def push() -> None:
        pushed.append(repository.push({}).last)

    client = threading.Thread(target=push)
    client.start()
    store = Store(connect(crashing.settings.store_url))
    eventually(
        lambda: any(r.state is State.TESTING for r in store.releases("kim", "slow")),
        20,
        "the test stage",
    )
    killed = time.monotonic()
    pool = psutil.Process(crashing.part("workers"))
    for process in [*pool.children(recursive=True), pool]:
        process.kill()
    eventually(lambda: store.attempts(store.releases("kim", "slow")[0].id) == 2, 20, "a resume")
    eventually(lambda: store.leased(store.releases("kim", "slow")[0].id), 20, "a new builder")
    assert time.monotonic() - killed < 13, "resumed within 10 s of a worker being there"
    client.join(60)
    assert pushed[0].startswith("slipway: live"), pushed[0] + crashing.logs()
    store.redis.close()


def test_a_single_worker_of_the_pool_is_replaced(crashing: Platform) -> None:
    pool = psutil.Process(crashing.part("workers"))
    before = {child.pid for child in pool.children()}
    os.kill(min(before), signal.SIGKILL)
    eventually(
        lambda: len(new := {c.pid for c in pool.children()}) == len(before) and new != before,
        10,
        "a new worker",
    )


def test_workers_do_not_outlive_their_pool(crashing: Platform) -> None:
    pool = psutil.Process(crashing.part("workers"))
    workers = pool.children()
    pool.kill()
    eventually(lambda: not any(alive(worker) for worker in workers), 10, "their end")
    eventually(lambda: healthy(crashing), 20, "health")


def test_the_supervisor_alone_is_killed(crashing: Platform) -> None:
    assert crashing.process is not None
    crashing.process.kill()
    crashing.process.wait()
    assert serves(crashing), "functions outlive the supervisor"
    crashing.start()
    assert serves(crashing)
    eventually(lambda: healthy(crashing), 10, "health")


def test_everything_is_killed(crashing: Platform) -> None:
    before = crashing.call("k.kim").text
    crashing.kill_everything()
    crashing.start()
    eventually(lambda: crashing.call("k.kim").text == before, 15, "the same answer")


def test_ctrl_c_leaves_nothing_and_a_start_continues(crashing: Platform) -> None:
    before = crashing.call("k.kim").text
    assert crashing.stop() == 0, crashing.output()
    left = [process.cmdline() for process in crashing.processes()]
    assert left == []
    crashing.start()
    eventually(lambda: crashing.call("k.kim").text == before, 15, "the same answer")


def test_a_second_start_on_the_same_state_is_refused(crashing: Platform) -> None:
    done = crashing.slipway("up", "--no-demo", check=False)
    assert done.returncode == 1
    assert str(crashing.process.pid) in done.stderr if crashing.process else False
    assert serves(crashing)

"""What nobody does although somebody should is found: with a real store, real git, a real forge."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import msgspec
import psutil
import pytest
from rq import Queue, Worker
from rq.job import Job
from rq.serializers import JSONSerializer

from builder import lease
from builder import sweep as module
from builder.lease import Lease
from builder.sweep import ATTEMPTS, Duty, Sweep
from builder.worker import BuildWorker
from core import cgroup, keys, queues
from core.models import State
from core.repositories import Repository
from core.settings import Settings
from core.store import Store
from tests.waiting import until

FNS = Repository(namespace="alice", name="fns", source="git", deploy_branch="main")


@pytest.fixture(autouse=True)
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE", 0.0)


def turns(sweep: Sweep, times: int) -> None:
    for _ in range(times):
        sweep.run()


def test_a_release_whose_worker_died_is_queued_again(store: Store) -> None:
    store.save_repository(FNS)
    release = store.create_release(FNS, "a" * 40, "main")
    queues.dispatch(store, FNS.key)
    store.move(release.id, [State.QUEUED], State.BUILDING)
    queues.builds(store).empty()  # the worker took the job, and is gone
    turns(Sweep(store), 2)
    assert store.attempts(release.id) == 2
    assert queues.waits_in_queue(store, release.id, 2)


def test_a_release_that_is_being_built_is_left_alone(store: Store) -> None:
    store.save_repository(FNS)
    release = store.create_release(FNS, "a" * 40, "main")
    queues.dispatch(store, FNS.key)
    queues.builds(store).empty()
    store.take(keys.lease(release.id), "worker", 5)
    turns(Sweep(store), 3)
    assert store.attempts(release.id) == 1


def test_a_build_that_kills_its_workers_is_given_up(store: Store) -> None:
    store.save_repository(FNS)
    release = store.create_release(FNS, "a" * 40, "main")
    sweep = Sweep(store)
    queues.dispatch(store, FNS.key)
    for _ in range(ATTEMPTS):
        queues.builds(store).empty()
        turns(sweep, 2)
    done = store.release(release.id)
    assert done.state is State.FAILED
    assert "worker died 3 times" in done.reason


def test_a_crash_between_release_and_queue_is_repaired(store: Store) -> None:
    store.save_repository(FNS)
    release = store.create_release(FNS, "a" * 40, "main")  # never dispatched
    Sweep(store).run()
    assert queues.waits_in_queue(store, release.id, 1)
    other = Repository(namespace="bob", name="fns", source="git", deploy_branch="main")
    store.save_repository(other)
    second = store.create_release(other, "b" * 40, "main")
    store.take_turn(other.key)  # and died before the job was enqueued
    sweep = Sweep(store)
    store.redis.delete(keys.lock("sweep"))
    turns(sweep, 2)
    assert queues.waits_in_queue(store, second.id, 1)


def test_a_duty_is_one_workers(store: Store) -> None:
    first, second = Duty(store, "some", 0.3), Duty(store, "some", 0.3)
    assert first.mine()
    assert not second.mine()
    time.sleep(0.15)
    assert first.mine(), "kept by asking"
    time.sleep(0.2)
    assert not second.mine()
    time.sleep(0.15)
    assert second.mine(), "lost by silence"
    assert not first.mine()


# The worker that does it all.


def test_a_sweep_that_hangs_holds_up_nothing_else(settings: Settings, store: Store) -> None:
    """Here: a forge that takes the question and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        settings = replace(settings, github_url=url, workers=1)
        store.save_repository(
            msgspec.structs.replace(FNS, source="github", full_name="Alice/fns", public=True)
        )
        pool = subprocess.Popen(
            [sys.executable, "-m", "builder.worker"], env={**os.environ, **settings.environment()}
        )
        try:
            silent.settimeout(30)
            asked, _ = silent.accept()
            seen = set()
            deadline = time.monotonic() + 8  # the question is given up after ten
            while len(seen) < 4:
                assert time.monotonic() < deadline, f"the beat stands still: {seen}"
                seen |= set(store.redis.hgetall(keys.BEATS).values())
                time.sleep(0.1)
            asked.close()
            groups = cgroup.of_builds(settings.mark, top=os.geteuid() == 0)
            if groups.hierarchies:
                workers = groups.named("workers")

                def give_way() -> bool:  # what is born between two looks is not seen by the first
                    return {pool.pid, *_children(pool.pid)} <= {*workers.pids()}

                until(give_way, 10)
            assert os.getpriority(os.PRIO_PROCESS, pool.pid) > os.getpriority(os.PRIO_PROCESS, 0)
            for each in (pool.pid, *_children(pool.pid)):
                left = os.sched_getaffinity(0) - os.sched_getaffinity(each)
                assert len(left) == min(1, len(os.sched_getaffinity(0)) - 1)
        finally:
            pool.send_signal(signal.SIGKILL)
            pool.wait()


def _children(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def test_one_worker_sweeps_at_a_time(store: Store) -> None:
    store.save_repository(FNS)
    first, second = Sweep(store), Sweep(store)
    first.run()
    store.create_release(FNS, "a" * 40, "main")
    second.run()
    assert store.turn(FNS.key) == "", "the second has no duty while the first has it"
    deadline = time.monotonic() + 5
    while not store.turn(FNS.key) and time.monotonic() < deadline:
        second.run()
        time.sleep(0.1)
    assert store.turn(FNS.key), "the duty passes on when its holder is silent"


def test_the_lease_of_a_process_that_is_gone_ends_at_once_and_no_other(store: Store) -> None:
    with Lease(store, "r1-x"):
        lease.died(store, "r1-x", os.getpid() + 1)
        assert store.leased("r1-x"), "another process's, or another machine's"
        lease.died(store, "r1-x", os.getpid())
        assert not store.leased("r1-x")


def test_what_was_overtaken_while_it_waited_takes_no_process(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[str] = []

    def forked(_: Worker, job: Job, __: Queue) -> None:
        began.append(job.args[0])

    monkeypatch.setattr(Worker, "execute_job", forked)
    store.save_repository(FNS)
    for digit in "abcdef":
        last = store.create_release(FNS, digit * 40, "main")
        queues.dispatch(store, FNS.key)
    queue = queues.builds(store)
    worker = BuildWorker([queue], connection=store.redis, serializer=JSONSerializer)
    assert len(queue.job_ids) == 6
    for _ in range(6):
        worker.execute_job(*worker.dequeue_job_and_maintain_ttl(None))
    assert began == [last.id]
    assert queue.job_ids == []
    left = store.redis.lrange(queue.intermediate_queue_key, 0, -1)
    assert left == [f"{last.id}-1".encode()]
    assert [*store.redis.scan_iter("rq:job:*")] == [f"rq:job:{last.id}-1".encode()]

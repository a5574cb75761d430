"""The pool of rq workers: ``python -m builder.worker``, settings from the environment.

All that builds need is imported and made once, in the pool's process; workers are forked from it,
and so is the process of each job. They share that memory, and a job begins without importing
anything. A worker that dies is replaced within a second; the pool dies, and so do its workers, and
the supervisor starts it again.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

from redis.exceptions import RedisError
from rq import Queue, Worker
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.worker_pool import WorkerPool

import builder.jobs  # noqa: F401  # imported for the forks
from builder import lease
from builder.engines import engine_for
from builder.forgeheads import ForgeHeads
from builder.sweep import Sweep, Upkeep
from core import cgroup, cores, logging, queues
from core.alive import place
from core.errors import NotFound, SlipwayError, Unavailable
from core.parents import end_with
from core.readiness import tell_ready
from core.settings import Settings
from core.store import Store, connect

BEAT, BEAT_LIFE = 1.0, 10.0
NICE = 10
"""Of 19. Where there are no control groups it is all that keeps builds behind functions."""
_pool = os.getpid()
"""The process that workers are forked from."""

log = logging.get()


@cache
def _settings() -> Settings:
    return Settings.from_env(os.environ)


class BuildWorker(Worker):
    """Takes builds. Threads of their own tell that it lives, sweep, and do what is slow: none
    holds up another."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **(options | {"worker_ttl": 30, "maintenance_interval": 60}))

    def execute_job(self, job: Job, queue: Queue) -> None:
        """In a process of its own, but where nothing is left to build: of many pushes in a row most
        are overtaken while they wait."""
        if not self._waits(str(job.args[0])):
            job.delete(remove_from_queue=False)  # it was taken off
            self.connection.lrem(queue.intermediate_queue_key, 1, job.id)
            return
        super().execute_job(job, queue)

    def _waits(self, release: str) -> bool:
        try:
            return Store(self.connection).release(release).state.with_builder
        except NotFound:
            return False
        except RedisError:  # whoever builds it finds the same
            return True

    def handle_work_horse_killed(self, job: Job, retpid: int, *more: Any) -> None:
        """The process of a job is gone: its build need not wait for the lease to run out."""
        super().handle_work_horse_killed(job, retpid, *more)  # type: ignore[no-untyped-call]  # rq
        with suppress(RedisError):
            lease.died(Store(self.connection), str(job.args[0]), retpid)

    def work(self, *args: Any, **options: Any) -> bool:
        end_with(_pool)
        logging.configure(self.name[:8], _settings().log_format)
        settings = _settings()
        store = Store(connect(settings.store_url))
        for duty in (
            lambda: store.beat(f"worker:{self.name}", BEAT_LIFE, place()),
            Sweep(store).run,
            Upkeep(settings, store).run,
            ForgeHeads(settings, store).run,
        ):
            threading.Thread(target=_again_and_again, args=(duty,), daemon=True).start()
        log.info("worker_started", pid=os.getpid())
        tell_ready()
        options |= {"with_scheduler": False, "logging_level": "WARNING"}
        return super().work(*args, **options)


def main() -> None:
    settings = _settings()
    logging.configure("workers", settings.log_format)
    engine_for(settings).prepare()  # once, for the forks
    _give_way(settings)
    connection = connect(settings.store_url)
    pool = WorkerPool(
        [queues.BUILDS],
        connection=connection,
        num_workers=settings.workers,
        worker_class=BuildWorker,
        serializer=JSONSerializer,
    )
    gc.collect()
    gc.freeze()  # so that collections in the forks leave our pages shared
    pool.start(logging_level="WARNING")


def _give_way(settings: Settings) -> None:
    """Puts this process behind what is live, for the CPU and the disk, and with it all that it
    starts: git, what copies and hashes, an image's context on its way to the engine."""
    os.nice(NICE)
    cores.give_one_up()
    try:
        cgroup.of_builds(settings.mark, top=os.geteuid() == 0).join(
            "workers", os.getpid(), cgroup.WORKERS
        )
    except Unavailable as error:
        log.warning("workers_not_behind", reason=str(error))


def _again_and_again(duty: Callable[[], None]) -> None:
    while True:
        try:
            duty()
        except (RedisError, SlipwayError) as error:
            log.warning("sweep_failed", reason=str(error))
        except Exception:
            log.exception("sweep_failed")
        time.sleep(BEAT)


if __name__ == "__main__":
    main()

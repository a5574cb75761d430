"""One rq worker: ``python -m builder.worker <n>``, settings from the environment.

Modules that builds need are imported here once, so that the process forked for each job has them.
A thread tells that the worker lives and sweeps; it works on a connection of its own and never
logs while a fork may happen in the middle of it, other than through the sweep's rare findings.
"""

from __future__ import annotations

import os
import sys
import threading

from redis.exceptions import RedisError
from rq import Worker
from rq.serializers import JSONSerializer

import builder.jobs  # noqa: F401  # imported for the forks
from builder import tool
from builder.sweep import Sweep
from core import logging, queues
from core.errors import SlipwayError
from core.settings import Settings
from core.store import Store, connect

BEAT, BEAT_LIFE = 1.0, 10.0

log = logging.get()


def main() -> None:
    settings = Settings.from_env(os.environ)
    number = sys.argv[1] if len(sys.argv) > 1 else "1"
    name = f"worker-{number}-{os.getpid()}"
    logging.configure(f"worker-{number}", settings.log_format)
    tool.sandbox(settings)  # once, for the forks
    store = Store(connect(settings.store_url))
    threading.Thread(target=_maintain, args=(settings, name), daemon=True).start()
    worker = Worker(
        [queues.builds(store)],
        connection=store.redis,
        name=name,
        serializer=JSONSerializer,
        worker_ttl=30,
        maintenance_interval=60,
    )
    log.info("worker_started", name=name)
    worker.work(logging_level="WARNING")


def _maintain(settings: Settings, name: str) -> None:
    store = Store(connect(settings.store_url))
    sweep = Sweep(settings, store)
    pause = threading.Event()
    while True:
        try:
            store.beat(f"worker:{name}", BEAT_LIFE)
            sweep.run()
        except (RedisError, SlipwayError) as error:
            log.warning("sweep_failed", reason=str(error))
        except Exception:
            log.exception("sweep_failed")
        pause.wait(BEAT)


if __name__ == "__main__":
    main()

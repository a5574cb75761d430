"""The rq job: one attempt at building one release."""

from __future__ import annotations

import os
import time
from functools import cache

import structlog
from redis.exceptions import RedisError

from builder import pipeline
from builder.lease import Lease, LeaseLost
from builder.meter import Meter
from builder.steps import ReleaseLog, Steps
from builder.work import Tools
from core import failpoints, logging, queues
from core.errors import Conflict, NotFound, SlipwayError
from core.models import State
from core.settings import Settings
from core.store import Store, connect

log = logging.get()


@cache
def _settings() -> Settings:
    return Settings.from_env(os.environ)


def build_release(id_: str) -> None:
    """Builds a release and hands it over, or marks it failed; may run twice, nothing changes."""
    settings = _settings()
    store = Store(connect(settings.store_url))
    begun = time.monotonic()
    with structlog.contextvars.bound_contextvars(release=id_):
        try:
            release = store.release(id_)
            if release.state.with_builder:
                owner = store.owner_of(release.namespace)
                forks = release.namespace in store.of_forks()
                with Lease(store, id_) as lease, Meter(store, owner, forks=forks):
                    failpoints.at("job-begun")
                    _build(id_, settings, store, lease)
        except (Conflict, NotFound, LeaseLost) as error:
            log.info("build_dropped", reason=str(error))
            return
        finally:
            log.info("build_ended", seconds=round(time.monotonic() - begun, 3))
        queues.dispatch(store, f"{release.namespace}/{release.repository}")


def _build(id_: str, settings: Settings, store: Store, lease: Lease) -> None:
    steps = Steps(
        ReleaseLog(store, id_, settings.build_output), lease.ended, settings.build_timeout
    )
    try:
        pipeline.build_release(store.release(id_), Tools(settings, store, steps))
    except RedisError:
        raise  # the store is away: the sweep resumes the build when it is back
    except SlipwayError as error:
        if lease.lost.is_set():
            raise LeaseLost(id_) from error
        steps.log.flush()
        _fail(store, id_, _told(error))  # a no-op where it was superseded or cancelled
    except Exception as error:
        log.exception("build_crashed")
        # Only what kind it is: its text may name what lies on this server.
        kind = error.strerror if isinstance(error, OSError) else None
        _fail(
            store,
            id_,
            f"internal error ({kind or type(error).__name__}): push again, and if that does not "
            "help, ask the administrator: the workers' log has the details",
        )


def _told(error: SlipwayError) -> str:
    where = " ".join(filter(None, (getattr(error, "function", ""), getattr(error, "step", ""))))
    return f"{where}: {error}" if where else str(error)


def _fail(store: Store, id_: str, reason: str) -> None:
    failpoints.at("failing")
    try:
        store.move(id_, [State.QUEUED, State.BUILDING, State.TESTING], State.FAILED, reason)
    except Conflict:
        return
    log.info("build_failed", reason=reason)

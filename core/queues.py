"""The queue of releases to build (rq on Redis).

Jobs are enqueued by name, so that the gateway needs nothing of the builder, and serialised as
JSON: rq's own default is pickle, which would let whoever writes to Redis run code.
"""

from __future__ import annotations

import redis
from rq import Queue
from rq.exceptions import DuplicateJobError, NoSuchJobError
from rq.job import Job, JobStatus
from rq.registry import (
    CanceledJobRegistry,
    DeferredJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)
from rq.serializers import JSONSerializer

from core import failpoints
from core.store import Store

BUILDS = "builds"
BUILD_JOB = "builder.jobs.build_release"
JOB_SECONDS = 2 * 3600
"""rq's own limit of one job; each step inside has a tighter one."""


def builds(store: Store) -> Queue:
    return Queue(BUILDS, connection=store.redis, serializer=JSONSerializer)


def dispatch(store: Store, repository: str) -> str:
    """Gives the repository's waiting release its turn, if nothing of it is being built.

    Returns the id of the release that was enqueued, or ''. May be called at any time by anyone.
    """
    id_ = store.take_turn(repository)
    if id_:
        failpoints.at("turn-taken")
        enqueue(store, id_)
        failpoints.at("enqueued")
    return id_


def enqueue(store: Store, release: str) -> None:
    """Puts one attempt at building a release on the queue."""
    attempt = store.count_attempt(release)
    try:
        builds(store).enqueue(
            BUILD_JOB,
            release,
            job_id=f"{release}-{attempt}",
            unique=True,
            job_timeout=JOB_SECONDS,
            result_ttl=60,
            failure_ttl=3600,
        )
    except DuplicateJobError:  # another sweep was quicker
        return


def waits_in_queue(store: Store, release: str, attempt: int) -> bool:
    """Whether a worker will still come to this attempt by itself."""
    id_ = f"{release}-{attempt}"
    try:
        job = Job.fetch(id_, connection=store.redis, serializer=JSONSerializer)
    except NoSuchJobError:
        return False
    if job.get_status() is not JobStatus.QUEUED:
        return False
    return id_ in builds(store).job_ids


_LISTS = (
    CanceledJobRegistry,
    DeferredJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)


def keys_of(store: Store) -> list[bytes]:
    """The keys of our queue and its jobs, and of no other application's."""
    queue = builds(store)
    names = [queue.key, queue.intermediate_queue_key, queue.registry_cleaning_key]
    names += [each(queue=queue).key for each in _LISTS]
    found = [name.encode() for name in names]
    first = Job.redis_job_namespace_prefix.encode()
    for key in store.redis.scan_iter(first + b"*", count=1000):
        if _is_ours(store.redis, key):
            id_ = key.removeprefix(first)
            found += [key, b"rq:executions:" + id_, b"rq:results:" + id_]
    return [key for key in found if store.redis.exists(key)]


def _is_ours(connection: redis.Redis, job: bytes) -> bool:
    try:
        return connection.hget(job, "origin") == BUILDS.encode()
    except redis.ResponseError:  # another application's, and no hash
        return False

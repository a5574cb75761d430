"""Waking a function that somebody waits for, ahead of the controller's next pass, which would do
the same. Nothing here has to happen: whoever is killed leaves it to that pass."""

from __future__ import annotations

from redis.exceptions import RedisError

from core import logging
from core.errors import Unavailable
from core.models import Observed
from core.store import Store
from runtime.providers import Instance, Phase, Provider
from runtime.replicas import Replicas

log = logging.get()


def rouse(store: Store, provider: Provider, replicas: Replicas, function: str) -> bool:
    """Begins to resume or start what is missing. False: that is for a pass; else one comes when it
    is done, and takes no time from it."""
    record = store.function(function) if function else None
    if record is None or not record.replicas or record.previous:
        return False
    key = (function, record.spec.revision)
    if replicas.trouble(key):
        return False  # a pass knows when
    try:
        paused = [
            each
            for each in provider.instances()
            if each.phase is Phase.PAUSED and (each.function, each.revision) == key
        ]
    except Unavailable:
        return False
    for instance in paused[: record.replicas]:
        replicas.resume(instance)
    for _ in range(record.replicas - len(paused)):
        replicas.start(record.spec, record.replicas)
    return replicas.begun(key)


def tell(store: Store, instance: Instance, told: Observed | None) -> bool:
    """Tells where a function answers, now that a replica of it is healthy, if it answered nowhere
    when that was last ``told``; the route comes with a pass. False: there was nothing to tell."""
    if told and told.endpoints:
        return False
    try:
        record = store.function(instance.function)
        if (
            record is None
            or not record.replicas
            or record.previous
            or record.spec.revision != instance.revision
        ):
            return False
        seen = Observed(
            available=1,
            endpoints=[instance.address],
            starting=record.replicas > 1,
            deployment=record.spec.deployment,
            revision=instance.revision,
        )
        store.note_observed(instance.function, seen)
    except RedisError as error:
        log.warning("store_unavailable", error=str(error))
    return True

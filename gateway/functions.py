"""Functions as OpenFaaS' own clients list and describe them.

What only Slipway knows shows as annotations: the claim of a repository as
``com.slipway.repository``, ``.commit`` and ``.release``; the rollback that set it, until a newer
commit, as ``com.slipway.pinned``; why fewer replicas are available than desired as
``com.slipway.trouble``.

What a function uses is measured when it is asked for, and told for ten seconds. The first to ask
waits for it, if there is a place to wait.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from contextlib import suppress
from typing import Any

import msgspec
from flask import Blueprint, Response, request

from core import names
from core.errors import NotFound, Unavailable
from core.models import FunctionRecord, Observed, Usage
from core.openfaas import FUNCTION_LABEL, FunctionStatus
from core.schedules import Planned, status
from core.scopes import Scope
from core.settings import Settings
from gateway.callers import caller, owners
from gateway.context import here

bp = Blueprint("functions", __name__)

ANNOTATION = "com.slipway."
USAGE_SECONDS = 4.0
"""The longest that a measurement is waited for; it takes one to three."""


@bp.get("/system/functions")
@owners(Scope.READ)
def list_functions() -> Response:
    """All functions that the caller may see, or those of one namespace, by name."""
    namespace = request.args.get("namespace", "")
    if namespace:
        names.namespace(namespace)
    visible = caller().visible(namespace)
    settings, store = here().settings, here().store
    observed, counts, planned = store.all_observed(), store.counts(), store.planned()
    functions = {
        key: record
        for key, record in sorted(store.functions().items())
        if visible(record.spec.namespace)
    }
    hostless = store.hostless(settings, (each.spec.namespace for each in functions.values()))
    return _json(
        [
            status_of(
                settings,
                record,
                observed.get(key),
                counts.get(key, 0),
                planned.get(key),
                hostless,
            )
            for key, record in functions.items()
        ]
    )


@bp.get("/system/function/<name>")
@owners(Scope.READ)
def get_function(name: str) -> Response:
    """One function: ``<name>?namespace=<namespace>`` or ``<name>.<namespace>``. With ``usage=1``
    also what its replicas use, where that can be measured now."""
    measure = request.args.get("usage") in ("1", "true")
    key = names.function_key(name, request.args.get("namespace", ""))
    caller().require(Scope.READ, names.space_of(key))
    settings, store = here().settings, here().store
    record = store.function(key)
    if record is None:
        raise NotFound(f"there is no function {key}: see 'slipway list'")
    observed = store.observed(key)
    usage = _usage(key) if measure and observed and observed.available else None
    count, planned = store.counts().get(key, 0), store.planned_of(key)
    hostless = store.hostless(settings, [record.spec.namespace])
    found = status_of(settings, record, observed, count, planned, hostless)
    return _json(msgspec.structs.replace(found, usage=usage))


def _usage(function: str) -> Usage | None:
    store = here().store
    found = store.usage(function)
    if found is None:
        store.ask_usage(function)
        with suppress(Unavailable):  # no place to wait: whoever asks next gets it
            found = _awaited_usage(function)
    return found if found and found.total_memory_bytes else None


def _awaited_usage(function: str) -> Usage | None:
    """Raises Unavailable: as many wait already as may."""
    give_back = here().pools.usage.take()
    try:
        deadline = time.monotonic() + USAGE_SECONDS
        while not (found := here().store.usage(function)) and time.monotonic() < deadline:
            time.sleep(0.1)
        return found
    finally:
        give_back()


def status_of(
    settings: Settings,
    record: FunctionRecord,
    observed: Observed | None,
    count: int,
    planned: Planned | None,
    hostless: Collection[str],
) -> FunctionStatus:
    """Desired state, what was last seen, the count of requests and what is kept of the schedule, in
    OpenFaaS' shape. ``hostless``: namespaces."""
    spec = record.spec
    base = settings.user_url if spec.namespace in hostless else settings.functions_url
    available, trouble = _seen(record, observed)
    ours = {
        f"{ANNOTATION}repository": spec.repository,
        f"{ANNOTATION}commit": spec.commit,
        f"{ANNOTATION}release": record.release,
        f"{ANNOTATION}pinned": record.pinned,
        f"{ANNOTATION}trouble": trouble,
    }
    told = {name: value for name, value in ours.items() if value}
    own = {name: value for name, value in (spec.annotations or {}).items() if name not in ours}
    annotations = {**own, **told}
    return FunctionStatus(
        name=spec.name,
        image=spec.artifact,
        namespace=spec.namespace,
        env_process=spec.env_process,
        env_vars=spec.env_vars,
        constraints=spec.constraints,
        secrets=spec.secrets,
        labels={**(spec.labels or {}), FUNCTION_LABEL: spec.name},
        annotations=annotations or (None if spec.annotations is None else {}),
        limits=spec.limits,
        requests=spec.requests,
        read_only_root_filesystem=spec.read_only_root_filesystem,
        invocation_count=count,
        replicas=record.replicas,
        available_replicas=available,
        created_at=record.created_at,
        schedule=status(spec.annotations, planned),
        url=names.function_url(base, spec.name, spec.namespace) if settings.domain else "",
    )


def _seen(record: FunctionRecord, observed: Observed | None) -> tuple[int, str]:
    """(replicas that are available, why not more). What was seen before a deploy by API tells how
    many serve until it is healthy, and nothing of one that was deleted and deployed again."""
    if record.spec.deployment != (observed.deployment if observed else ""):
        return observed.available if observed and record.previous else 0, "it was deployed just now"
    return (observed.available, observed.trouble) if observed else (0, "")


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), content_type="application/json")

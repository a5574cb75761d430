"""``GET /metrics``: Prometheus' text format 0.0.4, with the names and labels of OpenFaaS.

What was counted of functions and of ``/system`` comes from the store, so it goes on where it was
after a restart of anything. Requests of functions are counted by the edge's collector, or here
where there is no edge, once they have ended: ``…_started`` runs no ahead of ``…_total``.

The families are written here, as prometheus_client takes ten times as long for ten thousand
functions. No label needs an escape: they are names of functions, statuses, methods and routes.
"""

from __future__ import annotations

import atexit
import re
import time
from collections.abc import Iterable, Iterator, Mapping

from flask import Blueprint, Response, g, request
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from redis.exceptions import RedisError

from core import logging, names
from core.scopes import Scope
from core.store.metrics import BUCKETS, LOST, SYSTEM, Series, Traffic, code
from gateway.callers import caller, owners
from gateway.context import Gateway, here

bp = Blueprint("metrics", __name__)
log = logging.get()

HAND_OVER_EVERY = 1.0
"""Seconds; what was counted since then is lost if this process is killed."""

_LE = [*map(str, BUCKETS), "+Inf"]
_VARIABLE = re.compile(r"<(?:[^:<>]*:)?([^<>]+)>")
"""What is variable in a route's rule, as Flask writes it."""


@bp.get("/metrics")
@owners(Scope.READ)
def metrics() -> Response:
    """All for the admin, an owner's functions for an owner. OpenFaaS has it on a port of its own,
    without a password."""
    gateway, who = here(), caller()
    visible = who.visible("")
    give_back = gateway.pools.metrics.take()
    try:
        store = gateway.store
        replicas = {
            name: record.replicas
            for name, record in store.functions().items()
            if visible(names.space_of(name))
        }
        traffic = store.traffic([*replicas, *([] if who.limited else [SYSTEM])])
        process = CollectorRegistry()
        if not who.limited:
            ProcessCollector(registry=process)
        text = "".join(exposition(replicas, traffic)).encode() + generate_latest(process)
    finally:
        give_back()
    return Response(text, content_type=CONTENT_TYPE_PLAIN_0_0_4)


def exposition(replicas: Mapping[str, int], traffic: Traffic) -> Iterator[str]:
    """The families of functions and of ``/system``; ``replicas``: of each function, as desired."""
    of_functions = [
        (f'function_name="{name}",code="{status}"', series)
        for name in sorted(replicas)
        for status, series in sorted(traffic.get(name, {}).items())
        if status != LOST
    ]
    of_system = []
    for labels, series in sorted(traffic.get(SYSTEM, {}).items()):
        status, method, path = labels.split(" ")
        of_system.append((f'code="{status}",method="{method}",path="{path}"', series))
    yield from _histogram("gateway_functions_seconds", "Requests of functions.", of_functions)
    yield from _values(
        "gateway_function_invocation_total counter Requests of functions that have ended.",
        ((labels, series.requests) for labels, series in of_functions),
    )
    yield from _values(
        "gateway_function_invocation_started counter Requests of functions.",
        (
            (f'function_name="{name}"', sum(each.requests for each in traffic[name].values()))
            for name in sorted(replicas)
            if name in traffic
        ),
    )
    yield from _values(
        "slipway_edge_lost_requests_total counter "
        "Requests that an edge had which was killed, when they were last counted.",
        (
            (f'function_name="{name}"', traffic[name][LOST].requests)
            for name in sorted(replicas)
            if LOST in traffic.get(name, {})
        ),
    )
    yield from _values(
        "gateway_service_count gauge Replicas that a function should have.",
        ((f'function_name="{name}"', replicas[name]) for name in sorted(replicas)),
    )
    yield from _values(
        "provider_http_requests_total counter Requests to /system.",
        ((labels, series.requests) for labels, series in of_system),
    )
    yield from _histogram(
        "provider_http_request_duration_seconds", "Requests to /system.", of_system
    )


def _values(head: str, samples: Iterable[tuple[str, int]]) -> Iterator[str]:
    name, type_, help_ = head.split(" ", 2)
    yield f"# HELP {name} {help_}\n# TYPE {name} {type_}\n"
    for labels, value in samples:
        yield f"{name}{{{labels}}} {value}\n"


def _histogram(name: str, help_: str, samples: Iterable[tuple[str, Series]]) -> Iterator[str]:
    yield f"# HELP {name} {help_}\n# TYPE {name} histogram\n"
    for labels, series in samples:
        total = 0
        for le, requests in zip(_LE, series.buckets, strict=True):
            total += requests
            yield f'{name}_bucket{{{labels},le="{le}"}} {total}\n'
        yield f"{name}_sum{{{labels}}} {series.microseconds / 1e6}\n"
        yield f"{name}_count{{{labels}}} {total}\n"


# Counting.


def begin() -> None:
    """Runs before every request."""
    g.begun = time.monotonic()


def count(response: Response) -> Response:
    """Runs after every request: counts it once its answer has ended, if it was for ``/system``, or
    for a function and there is no edge."""
    gateway, begun, status = here(), g.begun, code(response.status_code)

    def note(of: str, labels: str) -> None:
        response.call_on_close(lambda: gateway.tally.add(of, labels, time.monotonic() - begun))

    if request.url_rule and request.url_rule.rule.startswith(f"{SYSTEM}/"):
        path = _VARIABLE.sub(r"{\1}", request.url_rule.rule)  # never the raw one: anybody's words
        note(SYSTEM, f"{status} {request.method} {path}")
    elif "called" in g and gateway.settings.edge == "none":
        note(g.called, status)
    return response


def keep(gateway: Gateway) -> None:
    """Hands over what was counted, for ever, and at the end."""
    atexit.register(_hand_over, gateway)
    while True:
        time.sleep(HAND_OVER_EVERY)
        _hand_over(gateway)


def _hand_over(gateway: Gateway) -> None:
    try:
        gateway.tally.hand_over(gateway.store)
    except RedisError as error:
        log.warning("store_unavailable", reason=f"{type(error).__name__}: {error}")

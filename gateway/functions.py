"""Functions as OpenFaaS' own clients list them, and the routes of OpenFaaS that are not here yet.

The claim of a repository shows as annotations: ``com.slipway.repository``, ``com.slipway.commit``
and ``com.slipway.release``.
"""

from __future__ import annotations

import platform
from collections import deque
from importlib import metadata
from typing import Any

import msgspec
from flask import Blueprint, Response, request

from core import logfiles, names
from core.errors import InvalidRequest, NotFound
from core.models import FunctionRecord, Observed
from core.names import DEFAULT_NAMESPACE
from core.openfaas import FUNCTION_LABEL, FunctionStatus, ProviderInfo, SystemInfo, Version
from gateway.context import here
from gateway.problems import not_yet
from gateway.query import moment, number

bp = Blueprint("functions", __name__)

ANNOTATION = "com.slipway."
MAX_TAIL = 10**6


@bp.get("/system/functions")
def list_functions() -> Response:
    """All functions, or those of one namespace, by name."""
    namespace = request.args.get("namespace", "")
    if namespace:
        names.namespace(namespace)
    store = here().store
    observed, counts = store.all_observed(), store.counts()
    return _json(
        [
            status_of(record, observed.get(key), counts.get(key, 0))
            for key, record in sorted(store.functions().items())
            if not namespace or record.spec.namespace == namespace
        ]
    )


@bp.get("/system/function/<name>")
def get_function(name: str) -> Response:
    """One function: ``<name>?namespace=<namespace>`` or ``<name>.<namespace>``."""
    key = _key(name, request.args.get("namespace", ""))
    store = here().store
    record = store.function(key)
    if record is None:
        raise NotFound(f"there is no function {key}: see 'slipway list'")
    return _json(status_of(record, store.observed(key), store.counts().get(key, 0)))


@bp.get("/system/namespaces")
def list_namespaces() -> Response:
    store = here().store
    spaces = {record.spec.namespace for record in store.functions().values()}
    return _json(sorted({DEFAULT_NAMESPACE, *store.namespaces(), *spaces}))


@bp.get("/system/info")
def info() -> Response:
    version = Version(release=metadata.version("slipway"))
    runtime = here().settings.runtime
    return _json(
        SystemInfo(
            provider=ProviderInfo(
                provider="slipway",
                orchestration="process" if runtime == "auto" else runtime,
                version=version,
            ),
            version=version,
            arch=platform.machine(),
        )
    )


def status_of(record: FunctionRecord, observed: Observed | None, count: int) -> FunctionStatus:
    """Desired state, what was last seen and the count of requests, in OpenFaaS' shape."""
    spec = record.spec
    ours = {
        f"{ANNOTATION}repository": spec.repository,
        f"{ANNOTATION}commit": spec.commit,
        f"{ANNOTATION}release": record.release,
    }
    told = {name: value for name, value in ours.items() if value}
    return FunctionStatus(
        name=spec.name,
        image=spec.artifact,
        namespace=spec.namespace,
        env_process=spec.env_process,
        env_vars=spec.env_vars,
        constraints=spec.constraints,
        secrets=spec.secrets,
        labels={**(spec.labels or {}), FUNCTION_LABEL: spec.name},
        annotations={**(spec.annotations or {}), **told},
        limits=spec.limits,
        requests=spec.requests,
        read_only_root_filesystem=spec.read_only_root_filesystem,
        invocation_count=count,
        replicas=record.replicas,
        available_replicas=observed.available if observed else 0,
        created_at=record.created_at,
    )


def _key(name: str, namespace: str) -> str:
    """Raises InvalidRequest where the two do not make a function's name."""
    if not namespace:
        return names.join_function(*names.split_function(name))
    names.namespace(namespace)
    bare, dot, space = name.rpartition(".")
    if dot and space != namespace:
        raise InvalidRequest(f"{name} is not in the namespace {namespace}: leave one of them out")
    return names.join_function(names.function_name(bare if dot else name), namespace)


@bp.get("/system/logs")
def logs() -> Response:
    """What a function wrote, oldest first, as OpenFaaS' NDJSON; also of one that is gone.

    Query: ``name``, ``namespace``, ``tail`` (the last so many lines; 0 or -1: all), ``since``
    (RFC 3339), ``instance``.
    """
    asked = request.args
    name, space = names.split_function(asked.get("name", ""))
    space = names.namespace(asked.get("namespace") or space)
    if asked.get("follow", "").lower() in ("1", "true"):
        return not_yet("follow the logs of functions: ask again without it")
    tail = number("tail", 0, -1, MAX_TAIL)
    after = moment("since")
    gateway = here()
    function = names.join_function(name, space)
    folder = gateway.settings.logs / function
    if gateway.store.function(function) is None and not folder.is_dir():
        raise NotFound(f"there is no function {function}: see 'slipway list'")
    lines = (
        line
        for line in logfiles.function_lines(folder, after)
        if asked.get("instance", line.instance) == line.instance
    )
    kept = deque(lines, maxlen=tail) if tail > 0 else lines
    body = b"".join(
        msgspec.json.encode(
            {
                "name": name,
                "namespace": space,
                "instance": line.instance,
                "timestamp": line.time,
                "text": line.text,
            }
        )
        + b"\n"
        for line in kept
    )
    return Response(body, content_type="application/x-ndjson")


# OpenFaaS' routes that come later. They exist so that its clients are told so.


@bp.route("/system/functions", methods=["POST", "PUT", "DELETE"])
def change_functions() -> Response:
    return not_yet("deploy or delete functions by API: push a repository")


@bp.post("/system/scale-function/<name>")
def scale(name: str) -> Response:
    return not_yet(f"scale {names.function_name(names.split_function(name)[0])} by API")


@bp.route("/system/secrets", methods=["GET", "POST", "PUT", "DELETE"])
def secrets() -> Response:
    return not_yet("keep secrets")


@bp.post("/system/rollback")
def rollback() -> Response:
    return not_yet("roll back by API: release the older commit with POST /system/releases")


@bp.post("/system/alert")
def alert() -> Response:
    return not_yet("scale on alerts")


@bp.route("/system/namespace/<name>", methods=["GET", "POST", "PUT", "DELETE"])
def namespace(name: str) -> Response:
    return not_yet(f"manage the namespace {names.namespace(name)} by API")


@bp.get("/metrics")
def metrics() -> Response:
    return not_yet("serve metrics")


@bp.route(
    "/async-function/<path:path>", methods=["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
)
def asynchronous(path: str) -> Response:  # noqa: ARG001 - Flask hands it over
    return not_yet("run functions asynchronously: call /function/… and wait")


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), content_type="application/json")

"""Functions deployed, deleted and scaled by API, as OpenFaaS' clients do it.

A client sends PUT, and POST when that answers 404; to replace a function it sends DELETE, then
POST. The namespace comes in the body or, from older clients, in the query: the body counts. What
is accepted (202) is the desired state at once; the runtime follows.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial

from flask import Blueprint, Response, request

from core import bundle, logging, names, scaling, schedules
from core.deployments import spec_of
from core.errors import InvalidRequest, NotAllowed, NotFound, NotSupported
from core.models import FunctionRecord, FunctionSpec
from core.names import DEFAULT_NAMESPACE
from core.openfaas import Alert, Alerts, FunctionDeletion, FunctionDeployment, Scale
from core.scopes import Scope
from core.settings import Settings
from gateway import policy
from gateway.callers import Caller, caller, owners
from gateway.context import here
from gateway.streams import decoded

bp = Blueprint("deploy", __name__)
log = logging.get()

MAX_BODY = 4 * 2**20
"""Bytes of a deployment: a variable may have 128 KiB."""
MAX_ALERTS = 1000


@bp.put("/system/functions")
@owners(Scope.DEPLOY)
def update() -> Response:
    """404 for what is not there, so that the client sends POST; what runs serves until the new one
    is healthy."""
    return _deploy(update=True)


@bp.post("/system/functions")
@owners(Scope.DEPLOY)
def create() -> Response:
    """409 for what is there. OpenFaaS says 500 on Kubernetes and 400 on faasd: no client relies on
    either."""
    return _deploy(update=False)


@bp.delete("/system/functions")
@owners(Scope.DEPLOY)
def delete() -> Response:
    given = decoded(request.environ, FunctionDeletion)
    function = names.function_key(given.function_name, _namespace(given.namespace))
    caller().require(Scope.DEPLOY, names.space_of(function))
    here().store.delete_function(function)
    log.info("function_deleted", function=function)
    return Response(status=202)


@bp.post("/system/scale-function/<name>")
@owners(Scope.DEPLOY)
def scale(name: str) -> Response:
    given = decoded(request.environ, Scale)
    space = _namespace(given.namespace)
    function = names.function_key(name, space)
    caller().require(Scope.DEPLOY, names.space_of(function))
    # An older client's path has the namespace, and its body has not.
    if given.service_name and given.service_name not in (name, function, function.split(".")[0]):
        raise InvalidRequest(f"serviceName is {given.service_name[:80]!r}, the path says {name}")
    if not 0 <= given.replicas <= scaling.MAX_REPLICAS:
        raise InvalidRequest(
            f"replicas is {given.replicas}: a function has from 0 to {scaling.MAX_REPLICAS}"
        )
    gateway = here()
    check = partial(policy.check_scale, gateway)
    gateway.store.scale(function, lambda _: given.replicas, check)
    log.info("function_scaled", function=function, replicas=given.replicas)
    return Response(status=202)


@bp.post("/system/alert")
def alert() -> Response:
    """Scales by Alertmanager's alerts. Each is heard, whatever becomes of the others. For the
    admin, whose Alertmanager it is: alerts are of all owners' functions together."""
    alerts = decoded(request.environ, Alerts, MAX_BODY).alerts
    if len(alerts) > MAX_ALERTS:
        raise InvalidRequest(f"alerts: {len(alerts)} at once, and {MAX_ALERTS} are the most")
    functions = [_alerted(number, each) for number, each in enumerate(alerts)]
    missing = []
    kind: type[NotFound | NotAllowed] = NotFound
    check = partial(policy.check_scale, here())
    for number, (function, each) in enumerate(zip(functions, alerts, strict=True)):
        try:
            here().store.scale(function, _step(firing=each.status == "firing"), check)
        except (NotFound, NotAllowed) as error:
            missing.append(f"[{number}] {error}")
            kind = type(error)
    if missing:
        raise kind("\n".join(missing))
    return Response(status=200)


def _deploy(*, update: bool) -> Response:
    gateway = here()
    given = decoded(request.environ, FunctionDeployment, MAX_BODY)
    space = names.namespace(_namespace(given.namespace) or DEFAULT_NAMESPACE)
    who = caller()
    who.require(Scope.DEPLOY, space)
    spec = spec_of(given, space, secrets.token_hex(8))
    gpus = any(each and each.gpus for each in (given.limits, given.requests))

    def check() -> None:
        if gpus:
            raise NotSupported("functions get no GPUs here: leave them out of limits and requests")
        _runs_here(gateway.settings, spec)
        policy.check_deploy(gateway, spec)
        _may_run(who, spec)

    record = gateway.store.deploy(spec, update=update, check=check)
    log.info("function_deployed", function=spec.function, revision=record.spec.revision)
    for name, told in schedules.warnings(spec.annotations):
        log.warning("annotation_idle", function=spec.function, reason=f"{name} {told}")
    return Response(status=202)


def _runs_here(settings: Settings, spec: FunctionSpec) -> None:
    """Raises NotSupported for what this runtime cannot run, InvalidRequest for a missing bundle."""
    if settings.runtime == "docker":
        if not spec.foreign:
            raise NotSupported(
                f"image: {spec.artifact} is a bundle, and this installation runs images "
                "(SLIPWAY_RUNTIME=docker): name an image"
            )
        return
    if spec.foreign:
        raise NotSupported(
            f"image: {spec.artifact[:200]} cannot run here: this installation runs functions as "
            "processes, without images. Push a repository instead, name a bundle:sha256:… that was "
            "built here, or start Slipway with SLIPWAY_RUNTIME=docker"
        )
    try:
        bundle.read_bundle(settings, spec.namespace, spec.artifact)
    except NotFound as error:
        raise InvalidRequest(f"image: {error}") from error


def _may_run(who: Caller, spec: FunctionSpec) -> None:
    """Raises NotAllowed for an image that an owner names here: what the admin names is trusted with
    more than a repository's ``skip_build``, such as any registry."""
    if spec.foreign and who.limited:
        raise NotAllowed(
            f"image: {spec.artifact[:200]} is the admin's to deploy by API: name it in a stack "
            "file with 'skip_build: true', and push that"
        )


def _namespace(given: str | None) -> str:
    return given or request.args.get("namespace", "")


def _alerted(number: int, alert: Alert) -> str:
    """The function that an alert is about; raises InvalidRequest."""
    name = alert.labels.get("function_name", "")
    if not name:
        raise InvalidRequest(f"alerts[{number}].labels has no function_name")
    return names.function_key(name)


def _step(*, firing: bool) -> Callable[[FunctionRecord], int]:
    return lambda record: scaling.alerted(record.spec.labels, record.replicas, firing=firing)

"""Rollbacks over HTTP: begin one, read them."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
from flask import Blueprint, Response, request

from core import failpoints, logging, names
from core.errors import Conflict, InvalidRequest, NotFound
from core.models import Rollback
from core.scopes import Scope
from core.store.switching import no_rollback
from gateway import policy
from gateway.callers import caller, owners
from gateway.context import here
from gateway.releases import theirs
from gateway.streams import decoded

bp = Blueprint("rollbacks", __name__)
log = logging.get()


class Back(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /system/rollback``."""

    namespace: str
    function: str | None = None
    """Only this function goes back."""
    repository: str | None = None
    """All of it; beside ``function`` only needed where the function is not there any more."""
    to: str | None = None
    """Id of a release; by default the newest before the live one that had something else."""


@bp.post("/system/rollback")
@owners(Scope.DEPLOY)
def roll_back() -> Response:
    """Begins a rollback; what becomes of it is told by ``/system/rollbacks/<id>``."""
    gateway = here()
    wanted = decoded(request.environ, Back)
    caller().require(Scope.DEPLOY, names.namespace(wanted.namespace))
    if wanted.function is not None:
        names.function_name(wanted.function)
    if wanted.repository is not None:
        names.repository_name(wanted.repository)
    if wanted.to is not None:
        theirs(wanted.to, Scope.DEPLOY)  # the refusal of another owner's would tell whose it is
    repository = wanted.repository or _repository(wanted)
    policy.require_admins(gateway, f"{wanted.namespace}/{repository}")
    known = gateway.store.repository(wanted.namespace, repository)
    if known.gone:
        raise Conflict(f"nothing of {known.key} is deployed any more: {known.gone}")
    check = partial(policy.check_rollback, gateway) if caller().limited else None
    rollback = gateway.store.create_rollback(
        wanted.namespace, repository, wanted.function or "", wanted.to or "", check=check
    )
    failpoints.at("rollback-created")
    log.info("rollback", id=rollback.id, repository=rollback.key, to=rollback.to)
    gateway.rolled_back.set()
    response = _json(rollback, 202)
    response.headers["Location"] = f"/system/rollbacks/{rollback.id}"
    return response


@bp.get("/system/rollbacks")
@owners(Scope.READ)
def list_rollbacks() -> Response:
    """The newest first, of one repository, one namespace or all."""
    namespace = request.args.get("namespace", "")
    repository = request.args.get("repository", "")
    if namespace:
        names.namespace(namespace)
    if repository:
        names.repository_name(repository)
    visible = caller().visible(namespace)
    found = here().store.rollbacks(namespace, repository)
    return _json([each for each in found if visible(each.namespace)])


@bp.get("/system/rollbacks/<id_>")
@owners(Scope.READ)
def get_rollback(id_: str) -> Response:
    found = here().store.rollback(names.rollback_id(id_))
    caller().require(Scope.READ, found.namespace, no_rollback(id_))
    return _json(found)


def _repository(wanted: Back) -> str:
    """Whose a function is."""
    if not wanted.function:
        raise InvalidRequest("name a function or a repository that is to go back")
    record = here().store.function(names.join_function(wanted.function, wanted.namespace))
    if record is None:
        raise NotFound(
            f"there is no function {wanted.function}.{wanted.namespace} now: a release that had "
            "it brings it back with its repository, 'slipway rollback <namespace>/<repository> "
            "--to <release>'"
        )
    if record.repository is None:
        raise Conflict(
            f"{wanted.function}.{wanted.namespace} was deployed by API, which keeps no history: "
            "deploy what it shall be"
        )
    return record.repository


def _json(value: Rollback | list[Rollback] | Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, content_type="application/json")

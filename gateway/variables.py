"""``/system/variables``: what ``${NAME}`` stands for in an owner's stack files.

They are no secrets: the admin can read them back, and whoever sees a function sees what they
became. A changed one counts from the next release on.
"""

from __future__ import annotations

import msgspec
from flask import Blueprint, Response, request

from core import logging, names
from core.errors import InvalidRequest
from core.names import DEFAULT_NAMESPACE
from core.scopes import Scope
from gateway.callers import caller, owners
from gateway.context import Gateway, here
from gateway.streams import decoded

bp = Blueprint("variables", __name__)
log = logging.get()

MAX_BODY = 2 * 2**20


class Variables(msgspec.Struct):
    """Body of ``PUT /system/variables``, and what ``GET`` answers."""

    namespace: str
    variables: dict[str, str]


@bp.get("/system/variables")
@owners(Scope.READ)
def read() -> Response:
    """``?namespace=``: all of one namespace, with their values."""
    gateway = here()
    space = _namespace(gateway, request.args.get("namespace", ""), Scope.READ)
    found = Variables(space, gateway.store.variables(space))
    return Response(msgspec.json.encode(found), content_type="application/json")


@bp.put("/system/variables")
@owners(Scope.DEPLOY)
def write() -> Response:
    """Adds or changes the given ones; others stay."""
    gateway = here()
    given = decoded(request.environ, Variables, MAX_BODY)
    space = _namespace(gateway, given.namespace, Scope.DEPLOY)
    gateway.store.set_variables(space, given.variables)
    log.info("variables_set", namespace=space, names=sorted(given.variables))
    return Response(status=204)


@bp.delete("/system/variables")
@owners(Scope.DEPLOY)
def delete() -> Response:
    """``?namespace=&name=``."""
    gateway = here()
    space = _namespace(gateway, request.args.get("namespace", ""), Scope.DEPLOY)
    name = request.args.get("name", "")
    if not name:
        raise InvalidRequest("name the variable: ?namespace=…&name=…")
    gateway.store.delete_variable(space, name)
    log.info("variable_deleted", namespace=space, name=name)
    return Response(status=204)


def _namespace(gateway: Gateway, given: str, scope: Scope) -> str:
    space = names.namespace(given or DEFAULT_NAMESPACE)
    caller().require(scope, space)
    gateway.store.require_namespace(space)
    return space

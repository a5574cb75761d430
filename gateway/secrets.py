"""Secrets over HTTP, as OpenFaaS' clients create, change, list and delete them.

Values come in and never go out again: no answer, error or log line holds one. The builder alone may
read, over ``/internal``, for the release it is building.
"""

from __future__ import annotations

import msgspec
from flask import Blueprint, Response, request

from core import logging, names
from core.errors import BadCredentials, Conflict, InvalidRequest, NotAllowed, Unprocessable
from core.models import State
from core.names import DEFAULT_NAMESPACE
from core.scopes import Scope
from core.sealing import SealingKey
from core.store.secrets import MAX_VALUE
from gateway.auth import is_builder
from gateway.callers import caller, owners
from gateway.context import Gateway, here
from gateway.streams import decoded

bp = Blueprint("secrets", __name__)
log = logging.get()

MAX_BODY = 8 * 2**20
"""Bytes: JSON may need six for one of the value's."""
MAX_ASKED = 64


class Named(msgspec.Struct, rename="camel"):
    """Body of ``DELETE /system/secrets``."""

    name: str
    namespace: str | None = None


class Given(Named, rename="camel"):
    """Body of ``POST`` and ``PUT /system/secrets``; ``rawValue`` is base64 and counts if both are
    there."""

    value: str | None = None
    raw_value: bytes | None = None


class Listed(msgspec.Struct):
    """One secret as it is listed."""

    name: str
    namespace: str


@bp.get("/system/secrets")
@owners(Scope.SECRETS)
def list_secrets() -> Response:
    """Names of the secrets of one namespace, ``openfaas-fn`` where none is named."""
    gateway = here()
    space = _namespace(gateway, None)
    found = [Listed(name, space) for name in gateway.store.secrets(space)]
    return Response(msgspec.json.encode(found), content_type="application/json")


@bp.post("/system/secrets")
@owners(Scope.SECRETS)
def create() -> Response:
    gateway = here()
    given = decoded(request.environ, Given, MAX_BODY)
    space, name, value = _checked(gateway, given)
    key = gateway.store.sealing_key(gateway.settings.secrets_key)
    gateway.store.create_secret(key, space, name, value)
    return _done(gateway, "created", space, name, 201)


@bp.put("/system/secrets")
@owners(Scope.SECRETS)
def update() -> Response:
    """Sets a new value. What runs keeps the old one until it is deployed again."""
    gateway = here()
    given = decoded(request.environ, Given, MAX_BODY)
    space, name, value = _checked(gateway, given)
    key = gateway.store.sealing_key(gateway.settings.secrets_key)
    gateway.store.update_secret(key, space, name, value)
    used = "They have the old value until they are deployed again"
    return _done(gateway, "updated", space, name, 200, used)


@bp.delete("/system/secrets")
@owners(Scope.SECRETS)
def delete() -> Response:
    """Deletes one, also while functions use it, as OpenFaaS does; the answer names them."""
    gateway = here()
    given = decoded(request.environ, Named)
    space, name = _namespace(gateway, given.namespace), _name(given.name)
    gateway.store.delete_secret(space, name)
    used = "Their replicas keep it, but no new one can start until it is there again"
    return _done(gateway, "deleted", space, name, 200, used)


@bp.get("/internal/releases/<id_>/secrets")
def of_release(id_: str) -> Response:
    """``?name=…`` → JSON name → value in base64, of those that its repository has. For the
    builder."""
    gateway = here()
    if not is_builder(gateway, request.headers.get("Authorization", "")):
        raise BadCredentials("invalid credentials")
    wanted = [names.secret_name(name) for name in request.args.getlist("name")]
    if not 0 < len(wanted) <= MAX_ASKED:
        raise InvalidRequest(f"name from 1 to {MAX_ASKED} secrets: ?name=…&name=…")
    release = gateway.store.release(names.release_id(id_))
    if release.state not in (State.BUILDING, State.TESTING):
        raise Conflict(f"{id_} is {release.state}: its secrets are for its build alone")
    repository = gateway.store.repository(release.namespace, release.repository)
    if not repository.trusted:
        raise NotAllowed(f"{id_} is of a request from a fork, which gets no secrets")
    key = SealingKey.read(gateway.settings.secrets_key)
    values = gateway.store.secret_values(key, repository.secrets_namespace, wanted)
    log.info("build_secrets", release=id_, names=wanted)
    return Response(
        msgspec.json.encode(values),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def _checked(gateway: Gateway, given: Given) -> tuple[str, str, bytes]:
    """(namespace, name, value).

    Raises:
        InvalidRequest: there is no such namespace, or no value.
        Unprocessable: the name or the value is none that a secret can have.
    """
    space, name = _namespace(gateway, given.namespace), _name(given.name)
    try:
        value = given.raw_value or (given.value or "").encode()
    except UnicodeEncodeError:
        raise InvalidRequest("value is not text: send it as rawValue, in base64") from None
    if not value:
        raise InvalidRequest(f"the secret {name} has no value: give value, or rawValue in base64")
    if len(value) > MAX_VALUE:
        raise Unprocessable(
            f"the value of {name} has {len(value)} bytes, and {MAX_VALUE} are the most: keep "
            "large files elsewhere, and the key to them as a secret"
        )
    return space, name, value


def _namespace(gateway: Gateway, given: str | None) -> str:
    """As the body says, else the query, else OpenFaaS' own; raises InvalidRequest, and as
    ``Caller.require``."""
    space = names.namespace(given or request.args.get("namespace") or DEFAULT_NAMESPACE)
    caller().require(Scope.SECRETS, space)
    gateway.store.require_namespace(space)
    return space


def _name(given: str) -> str:
    if not given:
        raise InvalidRequest("the secret has no name: give one")
    try:
        return names.secret_name(given)
    except InvalidRequest as error:
        raise Unprocessable(str(error)) from None


def _done(
    gateway: Gateway, what: str, space: str, name: str, status: int, used: str = ""
) -> Response:
    log.info("secret", done=what, namespace=space, name=name)
    told = f"the secret {name} of {space} is {what}"
    if used and (users := _users(gateway, space, name)):
        told += f"; it is used by {', '.join(users)}. {used}"
    return Response(f"{told}\n", status, content_type="text/plain; charset=utf-8")


def _users(gateway: Gateway, space: str, name: str) -> list[str]:
    return sorted(
        function
        for function, record in gateway.store.functions().items()
        if (record.spec.secrets_namespace or record.spec.namespace) == space
        and name in (record.spec.secrets or ())
    )

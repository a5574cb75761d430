"""Namespaces: list, create, read, describe anew, delete.

OpenFaaS works in those namespaces only that are marked as its own; every namespace here is one, so
the mark is asked for and kept, and has no further effect.
"""

from __future__ import annotations

from typing import Any

import msgspec
from flask import Blueprint, Response, request

from core import logging, names
from core.deployments import check_texts
from core.errors import Conflict, InvalidRequest, NotAllowed
from core.names import DEFAULT_NAMESPACE
from core.openfaas import Namespace
from core.scopes import Scope
from gateway import bare
from gateway.callers import caller, owners
from gateway.context import here
from gateway.streams import content_length, decoded

bp = Blueprint("namespaces", __name__)
log = logging.get()

MARK = "openfaas"
"""Label or annotation with the value 1."""


@bp.get("/system/namespaces")
@owners()
def list_namespaces() -> Response:
    store = here().store
    spaces = {record.spec.namespace for record in store.functions().values()}
    found = sorted({DEFAULT_NAMESPACE, *store.namespaces(), *spaces})
    return _json([each for each in found if caller().knows(each)])


@bp.get("/system/namespace/<name>")
@owners(Scope.READ)
def read(name: str) -> Response:
    caller().require(Scope.READ, names.namespace(name))
    return _json(here().store.describe_namespace(name))


@bp.post("/system/namespace/", defaults={"name": ""})
@bp.post("/system/namespace/<name>")
def create(name: str) -> Response:
    """The name stands in the body; OpenFaaS' clients leave it out of the path."""
    given = _given(name)
    if given.name != DEFAULT_NAMESPACE:
        _ownable(given.name, here().store.namespaces())
    here().store.create_namespace(given)
    log.info("namespace_created", namespace=given.name)
    return Response(status=201)


@bp.put("/system/namespace/<name>")
def update(name: str) -> Response:
    """Replaces labels and annotations."""
    here().store.update_namespace(_given(name))
    return Response(status=202)


@bp.delete("/system/namespace/<name>")
def delete(name: str) -> Response:
    """One in which nothing is deployed. Its repositories are forgotten; those of our own remote are
    removed, so they must hold no branches and tags any more: what was pushed is lost by nobody's
    oversight."""
    names.namespace(name)
    if content_length(request.environ) or request.environ.get("HTTP_TRANSFER_ENCODING"):
        _same(name, decoded(request.environ, Namespace).name)
    if name == DEFAULT_NAMESPACE:
        raise NotAllowed(f"{name} is where functions without a namespace live: it stays")
    gateway = here()
    gateway.store.require_empty(name)  # first, as what is aside cannot be built from
    own = [each for each in gateway.store.repositories() if each.namespace == name]
    mine = [
        each
        for each in own
        if each.source == "git" and not each.parent and bare.there(gateway.settings, each)
    ]
    with bare.removing(gateway.settings, mine):
        # Looked at by now: a push that begins later finds no repository.
        if pushed := gateway.pushes.to(name):
            raise Conflict(
                f"somebody pushes to {', '.join(sorted(pushed))}: the namespace {name} stays; try "
                "again once that is over"
            )
        gateway.store.delete_namespace(name)
    log.info("namespace_deleted", namespace=name)
    return Response(status=202)


def _ownable(name: str, there: list[str]) -> None:
    """One of an environment, or for the secrets of previews, may be there before these, so that
    they find their secrets and variables.

    Raises:
        InvalidRequest: no owner can have a namespace of this name.
    """
    owner = names.owner_of(name, there)
    if owner == name or owner not in there:
        names.owner_namespace(name)
    elif name != names.preview_secrets(owner):
        names.environment_name(name.rpartition("--")[2])


def _given(name: str) -> Namespace:
    """The request's body; raises InvalidRequest."""
    given = decoded(request.environ, Namespace)
    names.namespace(given.name)
    _same(name, given.name)
    mistakes = [
        *check_texts(given.labels, "labels"),
        *check_texts(given.annotations, "annotations"),
    ]
    if "1" not in ((given.labels or {}).get(MARK), (given.annotations or {}).get(MARK)):
        mistakes.append(f'labels: {MARK} is missing: write {{"{MARK}": "1"}}')
    if mistakes:
        raise InvalidRequest("\n".join(mistakes))
    return given


def _same(path: str, body: str) -> None:
    if path and path != body:
        raise InvalidRequest(f"name is {body[:80]!r}, the path says {path[:80]!r}")


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), content_type="application/json")

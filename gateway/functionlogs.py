"""The logs of functions, as OpenFaaS serves them: kept lines by time, then live ones."""

from __future__ import annotations

import re

from flask import Blueprint, Response, request

from core import names
from core.errors import InvalidRequest, NotFound
from core.scopes import Scope
from gateway.callers import caller, owners
from gateway.context import here
from gateway.logreading import Wanted
from gateway.query import flag, moment, number

bp = Blueprint("functionlogs", __name__)

MOST_LINES = 999_999_999
INSTANCE = re.compile(r"[A-Za-z0-9][-A-Za-z0-9._]{0,127}")


@bp.get("/system/logs")
@owners(Scope.READ)
def logs() -> Response:
    """What a function wrote, oldest first, as NDJSON; also of one that is scaled to zero or gone.

    Query: ``name``, ``namespace``, ``instance``, ``tail`` (the last so many of the kept lines; 0 or
    less: all), ``since`` (RFC 3339), ``follow``.
    """
    wanted = _wanted()
    caller().require(Scope.READ, wanted.namespace)
    gateway = here()
    function = names.join_function(wanted.name, wanted.namespace)
    if gateway.store.function(function) is None and not (gateway.settings.logs / function).is_dir():
        raise NotFound(f"there is no function {function}: see 'slipway list'")
    if request.method == "HEAD":
        return Response(content_type="application/x-ndjson")
    # No request can follow on this connection: gunicorn's word for that.
    request.environ["wsgi.input"].failed = True
    chunked = request.environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    return Response(
        gateway.followers.answer(wanted, chunked=chunked),
        content_type="application/x-ndjson",
        headers={"Cache-Control": "no-store"},
    )


def _wanted() -> Wanted:
    """Raises InvalidRequest for what cannot be asked for."""
    name = request.args.get("name", "")
    if not name:
        raise InvalidRequest("name is missing: say whose logs, as ?name=hello.alice")
    bare, space = names.split_function(name)
    namespace = request.args.get("namespace", "")
    if namespace and names.namespace(namespace) != space:
        if "." in name:
            raise InvalidRequest(
                f"{name} is not in the namespace {namespace}: leave one of them out"
            )
        space = namespace
    instance = request.args.get("instance", "")
    if instance and not INSTANCE.fullmatch(instance):
        raise InvalidRequest("instance must be the id of one replica, as the log's lines have it")
    return Wanted(
        name=bare,
        namespace=space,
        instance=instance,
        since=moment("since"),
        tail=max(number("tail", 0, -MOST_LINES, MOST_LINES), 0),
        follow=flag("follow"),
    )

"""``POST /async-function/<name>[.<namespace>]/…``: keeps a call, answers 202; queue_worker.py makes
it. The path behind the name, the query, the headers and the body go to the function as they came.
Once it is kept, calls.py shows it and ends it.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import msgspec
from flask import Blueprint, Response, request
from flask.blueprints import BlueprintSetupState
from redis.exceptions import ResponseError
from werkzeug.exceptions import MethodNotAllowed
from werkzeug.routing import Rule

from core.addresses import is_inside
from core.errors import InvalidRequest, SlipwayError
from core.models import Call, FunctionSpec
from core.openfaas import SERVED_BY
from core.settings import Settings
from core.store.calls import INLINE, body_file
from gateway import calls
from gateway.auth import holds_ours
from gateway.callbacks import is_ours
from gateway.context import ASYNC_PREFIX, Gateway, here, raw_target
from gateway.headers import request_headers
from gateway.making import OUR_ID
from gateway.streams import bounded

bp = Blueprint("asynchronous", __name__)

BODY_SECONDS = 10.0
BODY_PACE = 2**18
"""Bytes of a body for each of which its client has a second more."""
ROOM = 2**16
"""Bytes that a call may take in the queue beside its body: the head of a request is smaller."""
MAX_URL = 2048

_CALL_ID = re.compile(r"[-A-Za-z0-9._:]{1,128}")
"""As the edge has it: what it does not know it replaces."""
MADE_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""An id as we make them."""
_TARGET = re.compile(r"[\x21-\x7e]+")


def _any_method(state: BlueprintSetupState) -> None:
    # Which methods there are depends on what follows: Flask routes by the decoded path.
    state.app.url_map.add(Rule(ASYNC_PREFIX, endpoint=f"{bp.name}.call"))
    state.app.view_functions[f"{bp.name}.call"] = call


bp.record(_any_method)


def call() -> Response:
    """Keeps one call, or shows or cancels one that was kept.

    Killed in the middle, the client has no answer: the call is kept as a whole, or not at all.

    Raises:
        NotFound: there is no such function (OpenFaaS' community edition keeps such calls), or call.
        InvalidRequest: of path or callback; or the body broke off.
        TooLarge: the body has more than ``SLIPWAY_ASYNC_MAX_BODY``.
        Unavailable: the queue is full, or this function or its owner has its share of it; or the
            disk is full.
    """
    gateway = here()
    path, mark, query = raw_target(request.environ).partition("?")
    name, slash, rest = path.removeprefix(ASYNC_PREFIX).partition("/")
    if request.method in ("GET", "DELETE") and not slash:
        if MADE_ID.fullmatch(name):
            return (calls.show if request.method == "GET" else calls.cancel)(gateway, name)
        gateway.named(name)  # else 404: neither a call's id nor a function
    if request.method != "POST":
        raise MethodNotAllowed(["POST"])
    spec = gateway.named(name).spec
    function = spec.function
    target = f"/{rest}{mark}{query}"
    if not _TARGET.fullmatch(target):
        raise InvalidRequest("the path has characters that no URL may have: percent-encode them")
    url = callback(request.headers.get("X-Callback-Url", ""), gateway.settings)
    given = request.headers.get("X-Call-Id", "")
    kept = Call(
        id=str(uuid.uuid4()),
        name=name,
        target=target,
        headers=_headers(gateway, request.environ),
        callback=url,
        given=given if _CALL_ID.fullmatch(given) else "",
    )
    with ExitStack() as places:
        places.callback(gateway.pools.calls.take(function, spec.namespace))
        pieces = _pieces(gateway, request.environ, spec, places)
        body = gateway.bodies.take(pieces, body_file(kept.id))
        held = body.length if body.path else None
        kept = msgspec.structs.replace(kept, body=body.data, held=held)
        try:
            gateway.store.add_call(kept, gateway.settings.async_queue)
        except (SlipwayError, ResponseError):  # refused; without an answer it may be kept
            gateway.bodies.remove([body.file])
            raise
    told = {
        "X-Call-Id": kept.id,
        "X-Start-Time": str(time.time_ns()),
        "X-Served-By": SERVED_BY,
    }
    return Response(status=202, headers=told)


def _pieces(
    gateway: Gateway, environ: dict[str, Any], spec: FunctionSpec, places: ExitStack
) -> Iterator[bytes]:
    """Of the body; of one that is large only once there is a place for it. One that the queue could
    never hold is too large."""
    settings = gateway.settings
    limit = min(settings.async_max_body, max(settings.async_queue - ROOM, 0))
    got, small = 0, True
    for piece in bounded(environ, limit, BODY_SECONDS, BODY_PACE):
        got += len(piece)
        if small and got > INLINE:
            places.callback(gateway.pools.large_bodies.take(spec.function, spec.namespace))
            small = False
        yield piece


def callback(given: str, settings: Settings) -> str:
    """The URL that gets the answer, or ''. What its name resolves to is seen when it is called.

    Raises:
        InvalidRequest: it is not one that can be called from here.
    """
    if not given:
        return ""
    try:
        parts = urlsplit(given)
        port = parts.port
    except ValueError as error:
        raise InvalidRequest(f"X-Callback-Url is no URL: {error}") from error
    if (
        len(given) > MAX_URL
        or not _TARGET.fullmatch(given)
        or parts.scheme not in ("http", "https")
        or not parts.hostname
        or port == 0
    ):
        raise InvalidRequest(
            "X-Callback-Url is to be a URL such as https://example.com/done, of at most "
            f"{MAX_URL} characters, percent-encoded"
        )
    if parts.username is not None or parts.password is not None:
        raise InvalidRequest(
            "X-Callback-Url has a user in it, which would be kept and shown: leave it out"
        )
    try:
        inside = is_inside(parts.hostname)
    except ValueError:  # a name
        inside = False
    if inside and parts.hostname not in settings.allow_hosts and not is_ours(parts, settings):
        raise InvalidRequest(
            f"X-Callback-Url names the inside address {parts.hostname}, which is not to be reached "
            "from here: the administrator can add it to SLIPWAY_ALLOW_HOSTS"
        )
    return given


def _headers(gateway: Gateway, environ: dict[str, Any]) -> list[tuple[str, str]]:
    """What goes with the call; length, id and start are those of its making."""
    found = request_headers(
        environ,
        "",
        "",
        scheme=urlsplit(gateway.settings.user_url).scheme,
        behind_edge=gateway.settings.edge != "none",
        is_ours=lambda value: holds_ours(gateway, value),
    )
    left_out = {
        *("content-length", "transfer-encoding"),
        *("x-call-id", "x-start-time", OUR_ID.lower()),
    }
    return [(header, value) for header, value in found if header.lower() not in left_out]

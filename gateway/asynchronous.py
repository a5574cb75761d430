"""``POST /async-function/<name>[.<namespace>]/…``: keeps a call, answers 202; queue_worker.py makes
it. The path behind the name, the query, the headers and the body go to the function as they came.
"""

from __future__ import annotations

import re
import time
import uuid
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response, request
from flask.blueprints import BlueprintSetupState
from werkzeug.exceptions import MethodNotAllowed
from werkzeug.routing import Rule

from core import names
from core.addresses import is_inside
from core.errors import InvalidRequest, NotFound
from core.models import Call
from core.openfaas import SERVED_BY
from core.settings import Settings
from gateway.auth import NOBODY, caller
from gateway.callbacks import is_ours
from gateway.context import ASYNC_PREFIX, Gateway, here, raw_target
from gateway.headers import request_headers
from gateway.problems import not_yet
from gateway.streams import whole

bp = Blueprint("asynchronous", __name__)

BODY_SECONDS = 10.0
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
    """Keeps one call.

    Raises:
        NotFound: there is no such function (OpenFaaS' community edition keeps such calls).
        InvalidRequest: of path or callback; or the body broke off.
        TooLarge: the body has more than ``SLIPWAY_ASYNC_MAX_BODY``.
        Unavailable: the queue is full, or this function has its share of it.
    """
    gateway = here()
    path, mark, query = raw_target(request.environ).partition("?")
    name, slash, rest = path.removeprefix(ASYNC_PREFIX).partition("/")
    if request.method in ("GET", "DELETE") and not slash and MADE_ID.fullmatch(name):
        return not_yet("keep the answers of asynchronous calls, or cancel them: use X-Callback-Url")
    if request.method != "POST":
        raise MethodNotAllowed(["POST"])
    function = _function(gateway, name)
    target = f"/{rest}{mark}{query}"
    if not _TARGET.fullmatch(target):
        raise InvalidRequest("the path has characters that no URL may have: percent-encode them")
    url = callback(request.headers.get("X-Callback-Url", ""), gateway.settings)
    give_back = gateway.pools.calls.take(function)
    try:
        given = request.headers.get("X-Call-Id", "")
        body = whole(request.environ, gateway.settings.async_max_body, BODY_SECONDS)
        kept = Call(
            id=given if _CALL_ID.fullmatch(given) else str(uuid.uuid4()),
            name=name,
            target=target,
            headers=_headers(gateway, request.environ),
            body=bytes(body),
            callback=url,
        )
        gateway.store.add_call(kept, gateway.settings.async_queue)
    finally:
        give_back()
    told = {
        "X-Call-Id": kept.id,
        "X-Start-Time": str(time.time_ns()),
        "X-Served-By": SERVED_BY,
    }
    return Response(status=202, headers=told)


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


def _function(gateway: Gateway, name: str) -> str:
    """Its whole name, ``name.namespace``."""
    try:
        function = names.join_function(*names.split_function(name))
    except InvalidRequest as error:
        raise NotFound(f"there is no such function: {error}") from error
    if gateway.store.function(function) is None:
        raise NotFound(f"there is no function {function}: see 'slipway list'")
    return function


def _headers(gateway: Gateway, environ: dict[str, Any]) -> list[tuple[str, str]]:
    """What goes with the call; length, id and start are those of its making."""
    found = request_headers(
        environ,
        "",
        "",
        scheme=urlsplit(gateway.settings.user_url).scheme,
        behind_edge=gateway.settings.edge != "none",
        is_ours=lambda value: caller(gateway, value) != NOBODY,
    )
    left_out = {"content-length", "transfer-encoding", "x-call-id", "x-start-time"}
    return [(header, value) for header, value in found if header.lower() not in left_out]

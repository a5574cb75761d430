"""The one place where errors become answers: text, or problem details (RFC 9457) if asked for."""

from __future__ import annotations

import msgspec
from flask import Response, request
from redis.exceptions import RedisError
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.exceptions import NotFound as NoRoute

from core import logging
from core.errors import BadCredentials, SlipwayError, Unavailable
from gateway.auth import is_private

PROBLEM = "application/problem+json"

log = logging.get()


class Problem(msgspec.Struct):
    """An error as problem details (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    """What happened, why, and what to do."""


def answer(error: Exception) -> Response:
    """Any error as an answer. Nothing of a traceback reaches the client."""
    headers = {}
    if isinstance(error, RedisError):
        log.warning("store_unavailable", reason=f"{type(error).__name__}: {error}")
        error = Unavailable("the store does not answer: it may be restarting; try again")
    if isinstance(error, SlipwayError):
        status, title, detail = error.status, error.title, str(error)
        if error.retryable:
            headers["Retry-After"] = "1"
        if isinstance(error, BadCredentials) and is_private(request.path):
            headers["WWW-Authenticate"] = 'Basic realm="Restricted"'
    elif isinstance(error, HTTPException) and error.code:
        if error.code < 400:
            return Response(status=error.code, headers=error.get_headers())
        status, title, detail = error.code, error.name, _told(error)
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            headers["Allow"] = ", ".join(sorted(error.valid_methods))
    else:
        log.error("request_failed", path=request.path, exc_info=error)
        status, title = 500, "Internal error"
        detail = f"internal error ({type(error).__name__}): the gateway's log has the details"
    if request.accept_mimetypes.best_match(["text/plain", PROBLEM]) == PROBLEM:
        problem = Problem("about:blank", title, status, detail)
        return Response(msgspec.json.encode(problem), status, headers, content_type=PROBLEM)
    return Response(detail, status, headers, content_type="text/plain; charset=utf-8")


def _told(error: HTTPException) -> str:
    if isinstance(error, NoRoute):
        return f"there is nothing at {request.path}"
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        return f"{request.path} takes {allowed}, not {request.method}"
    return error.description or error.name

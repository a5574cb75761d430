"""``GET`` and ``DELETE /async-function/<call id>``: what became of a call, and its end. Whoever
knows the id may; it is ours, and nobody can guess it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import msgspec
from flask import Response, request

from core.errors import Conflict, NotFound
from core.http import deadline
from core.models import CallState, Struct
from core.origin import SANDBOX
from core.store.settled import KeptCall
from gateway.bodies import Body
from gateway.context import Gateway
from gateway.headers import VALUE
from gateway.query import flag
from gateway.streams import guarded

SHOWN = 2**20
"""Bytes of a body that JSON has in it; larger ones are read with ``?raw=1``."""
QUICK = 2**16
"""Bytes of a body that are off at once, even where each takes six in JSON."""
READ_SECONDS = 10.0
READ_PACE = 2**18
"""Bytes of a large body for each of which who reads it has a second more."""
OVER = (CallState.DONE, CallState.FAILED)


class CallStatus(Struct, frozen=True):
    """Body of ``GET /async-function/<call id>``."""

    id: str
    function: str
    state: CallState
    status: int | None
    """Of the function's last answer."""
    headers: dict[str, list[str]]
    """Of the same; like ``body`` only once it is done or failed."""
    body: str | None
    """As text, or in base64 where it is no UTF-8; null: there is none, or it has more than 1 MiB,
    which ``?raw=1`` gives."""
    length: int | None
    """Its bytes."""
    attempts: int
    reason: str
    """Why it failed, or is tried again."""
    created_at: str
    started_at: str | None
    finished_at: str | None
    next_attempt_at: str | None
    body_encoding: str | msgspec.UnsetType = msgspec.UNSET
    """``base64`` where the body is that."""


def show(gateway: Gateway, id_: str) -> Response:
    """What became of a call; with ``?raw=1`` the body that the function answered, as it came.

    Raises:
        NotFound: there is no such call, or it is kept no more; or no answer.
        Conflict: it is not over yet, and there is no answer to be had raw.
        Unavailable: too many large ones are being read.
    """
    kept = gateway.store.kept_call(id_)
    if kept is None:
        raise _unknown(gateway, id_)
    if flag("raw"):
        return _raw(gateway, kept)
    answered = kept.answered if kept.state in OVER else None
    body = body_of(gateway, kept)
    with ExitStack() as place:
        if body and QUICK < body.length <= SHOWN:
            _take_place(gateway, kept, body, place)
        told = CallStatus(
            id=id_,
            function=kept.of,
            state=kept.state,
            status=kept.status,
            headers=as_map(answered.headers) if answered else {},
            length=answered.length if answered else None,
            attempts=kept.attempts,
            reason=kept.reason,
            created_at=kept.created,
            started_at=kept.started or None,
            finished_at=kept.finished or None,
            next_attempt_at=kept.next or None,
            **shown(body),
        )
        response = Response(
            msgspec.json.encode(told),
            content_type="application/json",
            headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"},
        )
        response.call_on_close(place.pop_all().close)
    return response


def cancel(gateway: Gateway, id_: str) -> Response:
    """Ends a call: one that waits is never made; of one that is being made the connection to the
    function is closed, which is all that can be done, and it is not tried again.

    Raises:
        NotFound: there is no such call.
        Conflict: it is over.
    """
    state, files = gateway.store.cancel_call(id_, gateway.settings)
    gateway.bodies.remove(files)
    if not state:
        raise _unknown(gateway, id_)
    if state in OVER:
        raise Conflict(f"the call {id_} is {state} already: there is nothing to cancel")
    return Response(status=202)


def body_of(gateway: Gateway, kept: KeptCall) -> Body | None:
    """Of the answer of a call that is over."""
    answered = kept.answered
    if answered is None or kept.state not in OVER:
        return None
    return gateway.bodies.kept(answered.file, answered.body, answered.length)


def shown(body: Body | None) -> Mapping[str, Any]:
    """The fields of JSON that have a body."""
    if body is None or body.length > SHOWN:
        return {"body": None}
    data = b"".join(body.pieces())
    try:
        return {"body": data.decode()}
    except UnicodeDecodeError:
        return {"body": base64.b64encode(data).decode(), "body_encoding": "base64"}


def as_map(headers: list[tuple[str, str]]) -> dict[str, list[str]]:
    """By name, as Go's ``http.Header`` is in JSON."""
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(name.title(), []).append(value)
    return found


def raw(gateway: Gateway, kept: KeptCall, body: Body, content_type: str) -> Response:
    """Bytes of somebody's on the origin that /system is on: a page of theirs lives in the same
    sandbox as those that functions answer.

    Raises:
        Unavailable: too many large ones are being read.
    """
    with ExitStack() as place:
        _take_place(gateway, kept, body, place)
        response = Response(guarded(body.pieces()), content_type=content_type)
        response.call_on_close(place.pop_all().close)
    response.headers["Content-Length"] = str(body.length)
    response.headers["Content-Security-Policy"] = SANDBOX
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"
    return response


def _take_place(gateway: Gateway, kept: KeptCall, body: Body, place: ExitStack) -> None:
    """For who reads a body that is large, and has so long for it. Raises Unavailable."""
    if body.path is None:
        return
    place.callback(gateway.pools.large_answers.take(kept.of, kept.of.rpartition(".")[2]))
    if client := request.environ.get("gunicorn.socket"):
        place.enter_context(deadline(client, READ_SECONDS + body.length / READ_PACE))


def _raw(gateway: Gateway, kept: KeptCall) -> Response:
    if kept.state not in OVER:
        raise Conflict(f"the call {kept.call.id} is {kept.state}: it has no answer yet")
    body = body_of(gateway, kept)
    if body is None or kept.answered is None:
        raise NotFound(f"the call {kept.call.id} has no answer: it is {kept.reason}")
    given = [v for name, v in kept.answered.headers if name.lower() == "content-type"]
    fit = given and VALUE.fullmatch(given[0])
    return raw(gateway, kept, body, given[0] if fit else "application/octet-stream")


def _unknown(gateway: Gateway, id_: str) -> NotFound:
    seconds = gateway.settings.async_keep
    return NotFound(
        f"there is no call {id_}: it is the X-Call-Id of a 202, and answers are kept for "
        f"{seconds:g} s, or until others need the room"
    )

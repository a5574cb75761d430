"""Asynchronous calls that failed for good: read, made anew, removed. For the functions' owners."""

from __future__ import annotations

from typing import Any

import msgspec
from flask import Blueprint, Response, request

from core import logging, names
from core.errors import Conflict, InvalidRequest, NotFound, Unavailable
from core.models import Struct
from core.scopes import Scope
from core.store.settled import MOST_DEAD, KeptCall, no_letter
from gateway.asynchronous import MADE_ID
from gateway.callers import caller, owners
from gateway.calls import as_map, raw, shown
from gateway.context import Gateway, here
from gateway.making import body_of
from gateway.query import flag, number

bp = Blueprint("deadletters", __name__)
log = logging.get()

LISTED = 100
"""Of a list, where no limit is given."""
_HIDDEN = {"authorization", "cookie", "proxy-authorization"}
"""Headers of a call whose values are their caller's own."""


class DeadLetter(Struct, frozen=True):
    """A call that failed for good, as it is listed."""

    id: str
    function: str
    reason: str
    status: int | None
    """Of the last answer."""
    attempts: int
    length: int
    """Bytes of its body."""
    callback: str
    created_at: str
    finished_at: str
    kept_until: str


class WholeLetter(DeadLetter, frozen=True):
    """The same with what it calls the function with."""

    target: str
    """Path and query below the function."""
    headers: dict[str, list[str]]
    """Without the values of those that let their caller in somewhere."""
    body: str | None
    """As text, or in base64 where it is no UTF-8; null: it has more than 1 MiB, which ``?raw=1``
    gives."""
    body_encoding: str | msgspec.UnsetType = msgspec.UNSET


class Replayed(Struct, frozen=True):
    """Body of the answer to a replay."""

    replayed: list[str]
    """Ids of calls that are on their way again."""
    left: int = 0
    """How many more there are, for which there was no room, or whose body is gone."""
    reason: str = ""
    """Why."""


@bp.get("/system/dead-letters")
@owners(Scope.READ)
def list_() -> Response:
    """The newest first, of one function, one namespace or all."""
    gateway = here()
    limit = number("limit", LISTED, 1, MOST_DEAD)
    namespace = request.args.get("namespace", "")
    function = _function(namespace)
    visible = caller().visible(names.space_of(function) if function else namespace)
    found = gateway.store.dead_letters(
        limit, namespace, function, visible if caller().limited else None
    )
    return _json([DeadLetter(**_fields(each)) for each in found])


@bp.get("/system/dead-letters/<id_>")
@owners(Scope.READ)
def get(id_: str) -> Response:
    """One; with ``?raw=1`` its body as it came."""
    gateway = here()
    _require(gateway, id_, Scope.READ)
    kept = gateway.store.dead_letter(id_)
    body = body_of(kept.call, gateway.bodies)
    if flag("raw"):
        return raw(gateway, kept, body, "application/octet-stream")
    headers = [(n, "…" if n.lower() in _HIDDEN else value) for n, value in kept.call.headers]
    whole = WholeLetter(
        **_fields(kept),
        target=kept.call.target,
        headers=as_map(headers),
        **shown(body),
    )
    return _json(whole)


@bp.post("/system/dead-letters/<id_>/replay")
@owners(Scope.DEPLOY)
def replay(id_: str) -> Response:
    """Has it made anew under the same id, with a new series of attempts."""
    gateway = here()
    _require(gateway, id_, Scope.DEPLOY)
    _replay(gateway, id_)
    return _json(Replayed([id_]), 202)


@bp.post("/system/dead-letters/replay")
@owners(Scope.DEPLOY)
def replay_all() -> Response:
    """All of ``function``, the oldest first, as far as the queue has room."""
    gateway = here()
    function = _function(request.args.get("namespace", ""))
    if not function:
        raise InvalidRequest("name the function whose dead letters are to be replayed: ?function=")
    caller().require(Scope.DEPLOY, names.space_of(function))
    ids = [each.call.id for each in gateway.store.dead_letters(MOST_DEAD, function=function)]
    done: list[str] = []
    left, reason = 0, ""
    for number_, id_ in enumerate(reversed(ids)):
        try:
            _replay(gateway, id_)
            done.append(id_)
        except Unavailable as error:  # the queue is full
            if not done:
                raise
            left, reason = left + len(ids) - number_, str(error)
            break
        except Conflict as error:
            if gateway.store.is_dead_letter(id_):  # else another was quicker
                left, reason = left + 1, str(error)
        except NotFound as error:  # of the function: of all; of the letter: another was quicker
            if gateway.store.function(function) is None:
                raise
            reason = reason or str(error)
    return _json(Replayed(done, left, reason if left else ""), 202)


@bp.delete("/system/dead-letters/<id_>")
@owners(Scope.DEPLOY)
def remove(id_: str) -> Response:
    gateway = here()
    _require(gateway, id_, Scope.DEPLOY)
    gateway.bodies.remove(gateway.store.remove_dead_letter(id_))
    log.info("dead_letter_removed", call=id_)
    return Response(status=204)


def _require(gateway: Gateway, id_: str, scope: Scope) -> None:
    """The caller may do this with the call of that id, dead or not; raises as
    ``Caller.require``."""
    kept = gateway.store.kept_call(_id(id_))
    caller().require(scope, names.space_of(kept.of) if kept else "", no_letter(id_))


def _replay(gateway: Gateway, id_: str) -> None:
    """
    Raises:
        NotFound: there is none, or no such function any more.
        Conflict: its body is gone, or it is on its way already.
        Unavailable: the queue has no room.
    """
    kept = gateway.store.kept_call(id_)
    if kept is not None:  # else it is told as what it is, below
        if gateway.store.function(kept.of) is None:
            raise NotFound(f"there is no function {kept.of}: the dead letter {id_} waits for it")
        try:
            body_of(kept.call, gateway.bodies).open().close()
        except NotFound as error:
            raise Conflict(f"{id_} cannot be made again: {error}") from error
    gateway.bodies.remove(gateway.store.replay_dead_letter(id_, gateway.settings.async_queue))
    log.info("dead_letter_replayed", call=id_)


def _fields(kept: KeptCall) -> dict[str, Any]:
    return {
        "id": kept.call.id,
        "function": kept.of,
        "reason": kept.reason,
        "status": kept.status,
        "attempts": kept.attempts,
        "length": kept.sent,
        "callback": kept.call.callback,
        "created_at": kept.created,
        "finished_at": kept.finished,
        "kept_until": kept.until_text,
    }


def _function(namespace: str) -> str:
    """``name.namespace`` as the query says it, or ''."""
    given = request.args.get("function", "")
    if namespace:
        names.namespace(namespace)
    return names.function_key(given, namespace) if given else ""


def _id(given: str) -> str:
    if not MADE_ID.fullmatch(given):
        raise InvalidRequest(f"{given[:80]!r} is no call's id: those are UUIDs in lower case")
    return given


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, content_type="application/json")

"""Who signed in: a signed cookie, no record. It says who they are at their forge, and holds no
token of the forge's.

Its path is ``/system``: browsers send it to nothing else of this origin, so that functions, which
share it, never see it. It is good for twelve hours, whatever becomes of the memberships meanwhile;
another key in ``<state>/session-key`` ends all of them.
"""

from __future__ import annotations

from typing import Any

import msgspec
from flask import Response, request
from itsdangerous import BadData, URLSafeTimedSerializer

from core.scopes import ALL, Scope
from gateway.callers import Caller, Role
from gateway.context import Gateway

COOKIE = "slipway-session"
PATH = "/system"
SECONDS = 12 * 3600
MOST = 100
"""Of organisations in one session: browsers keep 4 KiB of a cookie."""
_READ_ONLY = frozenset({Scope.READ})


class Session(msgspec.Struct, frozen=True):
    """What the cookie says. Ids are those of the forge."""

    forge: str
    """``github`` or ``gitlab``."""
    url: str
    """The forge's, as namespaces' holders have it."""
    id: str
    """Of the user."""
    login: str
    owns: list[str]
    """Of owners that they decide for: themselves, organisations."""
    member: list[str]
    """Of organisations that they only belong to."""


def current(gateway: Gateway) -> Caller | None:
    """Of this request's cookie; None: there is none that is good."""
    cookie = request.cookies.get(COOKIE, "") if request.path.startswith(f"{PATH}/") else ""
    if not cookie:
        return None
    try:
        said = _serializer(gateway).loads(cookie, max_age=SECONDS)
        session = msgspec.convert(said, Session)
    except (BadData, msgspec.ValidationError):
        return None
    return as_caller(gateway, session)


def as_caller(gateway: Gateway, session: Session) -> Caller:
    """With the namespaces that their owners hold now."""
    linked = ((owner, space) for owner, space in gateway.store.owners().items())
    held = ((holder, space) for space, holder in gateway.store.holders().items())
    grants: dict[str, frozenset[Scope]] = {}
    for owner, namespace in (*held, *linked):
        url, _, id_ = owner.rpartition("#")
        if url != session.url or "--" in namespace:
            continue
        if id_ in session.owns:
            grants[namespace] = ALL
        elif id_ in session.member:
            grants.setdefault(namespace, _READ_ONLY)
    return Caller(Role.SESSION, f"{session.login} of {session.url}", grants)


def begin(gateway: Gateway, response: Response, session: Session) -> None:
    told: Any = msgspec.to_builtins(session)
    _cookie(gateway, response, str(_serializer(gateway).dumps(told)), SECONDS)


def end(gateway: Gateway, response: Response) -> None:
    _cookie(gateway, response, "", 0)


def _cookie(gateway: Gateway, response: Response, value: str, seconds: int) -> None:
    response.set_cookie(
        COOKIE,
        value,
        max_age=seconds,
        path=PATH,
        secure=gateway.settings.user_url.startswith("https:"),
        httponly=True,
        samesite="Lax",
    )


def _serializer(gateway: Gateway) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(gateway.session_key, salt="session")

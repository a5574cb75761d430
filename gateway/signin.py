"""``/login``: signing in through GitHub or GitLab.

A sign-in under way is in a signed cookie of the browser that began it: it is good for ten minutes,
once, and for the forge that it was begun for. Back from the forge, the code is traded for who it
is, and the session's cookie is set (gateway/sessions.py).
"""

from __future__ import annotations

import html
import re
import secrets
from typing import Any
from urllib.parse import quote

import msgspec
from flask import Blueprint, Response, request
from itsdangerous import BadData, URLSafeTimedSerializer

from core import logging
from core.errors import InvalidRequest, NotAllowed, NotFound
from core.models import Struct
from core.scopes import Scope
from core.signing import same_secret
from forges.signin import SignIn, challenge, ways
from gateway import sessions
from gateway.auth import WITH_PASSWORD, refuse_other_sites
from gateway.callers import Role, caller, owners
from gateway.context import Gateway, here

bp = Blueprint("signin", __name__)
log = logging.get()

COOKIE = "slipway-login"
PATH = "/login"
SECONDS = 600
AFTERWARDS = "/system/whoami"
_LOCAL = re.compile(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]{0,1000}")
"""A path of ours: browsers read ``//host`` and ``/\\host`` as another host."""
_PAGE = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Begun(msgspec.Struct, frozen=True):
    """What the cookie of a sign-in says."""

    forge: str
    state: str
    verifier: str
    """Of PKCE."""
    afterwards: str
    """The path to go on to."""


class Whoami(Struct, frozen=True):
    """Body of ``GET /system/whoami``."""

    role: Role
    name: str
    namespaces: dict[str, list[Scope]]
    """Owner's namespace → scopes there; of the admin none is told, as all are theirs."""


@bp.get("/login")
def choose() -> Response:
    """A page with the forges that this installation knows. Raises NotFound: it knows none."""
    found = list(ways(here().settings))
    if not found:
        raise NotFound(
            "nobody can sign in here: the administrator has set up neither GitHub nor GitLab for it"
        )
    then = _afterwards()
    query = f"?next={quote(then, safe='')}"
    links = "".join(
        f'<p><a href="/login/{each.name}{html.escape(query)}">Sign in with {each.title}</a></p>'
        for each in found
    )
    mark = "&" if "?" in then else "?"
    asked = html.escape(f"{then}{mark}{WITH_PASSWORD}=yes")
    links += f'<p><a href="{asked}">With the administrator\'s password, or a token as one</a></p>'
    page = f'<!doctype html><html lang="en"><title>Slipway</title><h1>Slipway</h1>{links}</html>'
    return Response(page, content_type="text/html; charset=utf-8", headers=_PAGE)


@bp.get("/login/<forge>")
def begin(forge: str) -> Response:
    """Sends the browser to the forge."""
    gateway, way = here(), _way(forge)
    begun = Begun(forge, secrets.token_urlsafe(32), secrets.token_urlsafe(48), _afterwards())
    url = way.page(begun.state, challenge(begun.verifier), _back(gateway, forge))
    response = _to(url)
    told: Any = msgspec.to_builtins(begun)
    _remember(gateway, response, str(_serializer(gateway).dumps(told)), SECONDS)
    return response


@bp.get("/login/<forge>/callback")
def finish(forge: str) -> Response:
    """The browser is back.

    Raises:
        InvalidRequest: not this browser began it, or not now, or it was here already.
        NotAllowed: the user or the forge says no.
    """
    gateway, way = here(), _way(forge)
    begun = _begun(gateway, forge)
    if request.args.get("error"):
        raise NotAllowed(f"{way.title} did not sign you in: begin again at /login")
    code = request.args.get("code", "")
    if not 0 < len(code) <= 1000:
        raise InvalidRequest(f"{way.title} sent no code: begin again at /login")
    if not gateway.store.once(begun.state, SECONDS):
        raise InvalidRequest("this sign-in was used already: begin again at /login")
    give_back = gateway.pools.signins.take()
    try:
        person = way.who(code, begun.verifier, _back(gateway, forge))
    finally:
        give_back()
    session = sessions.Session(
        forge=way.name,
        url=way.url,
        id=person.id,
        login=person.login[:100],
        owns=list(person.owns[: sessions.MOST]),
        member=list(person.member[: sessions.MOST - len(person.owns[: sessions.MOST])]),
    )
    log.info("signed_in", forge=forge, id=person.id, login=session.login)
    response = _to(begun.afterwards)
    _remember(gateway, response, "", 0)
    sessions.begin(gateway, response, session)
    return response


@bp.post("/logout")
def end() -> Response:
    """Takes the session's cookie back."""
    refuse_other_sites()
    response = Response("you are signed out\n", content_type="text/plain; charset=utf-8")
    sessions.end(here(), response)
    return response


@bp.get("/system/whoami")
@owners()
def whoami() -> Response:
    """Who asks, and what they may where."""
    who = caller()
    grants = {
        space: [each for each in Scope if each in scopes] for space, scopes in who.grants.items()
    }
    told = Whoami(role=who.role, name=who.name, namespaces=grants)
    return Response(
        msgspec.json.encode(told),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def _way(name: str) -> SignIn:
    for each in ways(here().settings):
        if each.name == name:
            return each
    raise NotFound(f"nobody can sign in with {name[:40]!r} here: see /login")


def _afterwards() -> str:
    """Where to go on to: never to another host."""
    given = request.args.get("next", "")
    return given if _LOCAL.fullmatch(given) else AFTERWARDS


def _back(gateway: Gateway, forge: str) -> str:
    """As the forge knows it; never what a request says."""
    return f"{gateway.settings.user_url}/login/{forge}/callback"


def _begun(gateway: Gateway, forge: str) -> Begun:
    try:
        said = _serializer(gateway).loads(request.cookies.get(COOKIE, ""), max_age=SECONDS)
        begun = msgspec.convert(said, Begun)
        if begun.forge == forge and same_secret(request.args.get("state", ""), begun.state):
            return begun
    except (BadData, msgspec.ValidationError):
        pass
    raise InvalidRequest(
        "this sign-in was not begun in this browser, or more than ten minutes ago: begin again at "
        f"{gateway.settings.user_url}/login"
    )


def _remember(gateway: Gateway, response: Response, value: str, seconds: int) -> None:
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
    return URLSafeTimedSerializer(gateway.session_key, salt="login")


def _to(url: str) -> Response:
    return Response("", 302, {"Location": url, **_PAGE}, content_type="text/plain; charset=utf-8")

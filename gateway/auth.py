"""Who asks: the admin by HTTP Basic, the builder by its token, an owner by a token or by having
signed in. What they may: gateway/callers.py, and each view.

``/function/*``, ``/webhooks/*``, ``/healthz`` and ``/sealing-key`` are open; ``/internal/*`` has
tokens of its own.
"""

from __future__ import annotations

import base64
from urllib.parse import quote, urlsplit

from flask import current_app, g, redirect, request
from werkzeug.wrappers import Response

from core.errors import BadCredentials, NotAllowed
from core.scopes import ALL
from core.signing import same_secret
from core.store.tokens import FORM
from forges.signin import ways
from gateway import sessions
from gateway.callers import ADMIN, BUILDER, NOBODY, Caller, Role, opened
from gateway.context import Gateway, here

PRIVATE = ("/system", "/git", "/metrics", "/setup")
_BUILDER_MAY = {"releases.put_artifacts", "remote.upload_pack"}
_READS = {"GET", "HEAD", "OPTIONS"}
_PAGES = {"public.private_page"}
"""What checks at forges link to: there people come with a browser, and know no password."""
WITH_PASSWORD = "password"
"""In the query of a page: it is to be asked for, and not who one is at a forge."""


def is_private(path: str) -> bool:
    return any(path == each or path.startswith(f"{each}/") for each in PRIVATE)


def guard() -> Response | None:
    """Runs before every request; answers it where a browser is to sign in first.

    Raises:
        BadCredentials: nobody we know asks for what is private.
        NotAllowed: it is not for who asks, or a page of another site writes.
    """
    if not is_private(request.path):
        return None
    who = identify(here(), request.headers.get("Authorization", ""))
    g.caller = who
    if who.role is Role.NOBODY:
        if _signs_in_first():
            return redirect(f"/login?next={quote(request.path, safe='')}", 303)
        raise BadCredentials("invalid credentials")
    if who.role is Role.BUILDER and not _builder_may():
        raise NotAllowed("the builder's token is for handing over artifacts only")
    if who.limited and request.endpoint:  # else it is told that there is no such route
        _let_in(who, request.endpoint)
    if request.method not in _READS:
        refuse_other_sites()
    return None


def identify(gateway: Gateway, authorization: str) -> Caller:
    """Who asks, by the ``Authorization`` header, or where there is none by the session's cookie."""
    if not authorization:
        return sessions.current(gateway) or NOBODY
    if ours := _ours(gateway, authorization):
        return ours
    found = gateway.store.token_of(_secret(authorization))
    if found is None:
        return NOBODY
    grants = {found.namespace: frozenset(found.scopes)}
    return Caller(Role.TOKEN, f"the token {found.id} of {found.namespace}", grants, token=found.id)


def is_builder(gateway: Gateway, authorization: str) -> bool:
    return _ours(gateway, authorization) is BUILDER


def holds_ours(gateway: Gateway, authorization: str) -> bool:
    """Whether it holds credentials of Slipway's own, which are not for functions: of owners'
    tokens all that have the form. Asks nobody."""
    return bool(_ours(gateway, authorization) or FORM.fullmatch(_secret(authorization)))


def refuse_other_sites() -> None:
    """A page that is not ours must not act with the credentials of who looks at it.

    Browsers send ``Origin`` and ``Sec-Fetch-Site``; other clients send neither.
    """
    origin = request.headers.get("Origin")
    site = request.headers.get("Sec-Fetch-Site", "none")
    if site not in ("same-origin", "none") or (origin and not _same_host(origin, request.host)):
        raise NotAllowed("a page of another origin asked for this: it is refused")


def _signs_in_first() -> bool:
    given = request.headers.get("Authorization") or WITH_PASSWORD in request.args
    return request.endpoint in _PAGES and not given and any(ways(here().settings))


def _let_in(who: Caller, endpoint: str) -> None:
    """Raises NotAllowed: the route is not opened to owners, or to none with these scopes."""
    scopes = opened(current_app.view_functions[endpoint])
    if scopes is None:
        raise NotAllowed("this is for the administrator alone")
    has = ALL if not who.grants else frozenset().union(*who.grants.values())
    if scopes and not scopes & has:
        raise NotAllowed(f"{who.name} has not the scope {' or '.join(sorted(scopes))}")


def _ours(gateway: Gateway, authorization: str) -> Caller | None:
    """The admin or the builder, if it is one of the two."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return BUILDER if same_secret(value.strip(), gateway.builder_token) else None
    user, password = _basic(authorization)
    both = [same_secret(user, "admin"), same_secret(password, gateway.password)]
    return ADMIN if all(both) else None


def _secret(authorization: str) -> str:
    """What may be an owner's token: a bearer's, or the password of anybody but the admin, as git's
    credential helpers and other clients send it."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    user, password = _basic(authorization)
    return "" if user == "admin" else password


def _basic(authorization: str) -> tuple[str, str]:
    """(user, password) of HTTP Basic (RFC 7617); ('', '') where it is none."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        given = base64.b64decode(value.strip(), validate=True).decode()
    except ValueError:  # not base64, not ASCII, or not UTF-8 inside
        return "", ""
    user, _, password = given.partition(":")
    return user, password


def _builder_may() -> bool:
    fetches = request.endpoint == "remote.info_refs" and (
        request.args.get("service") == "git-upload-pack"
    )
    return fetches or request.endpoint in _BUILDER_MAY


def _same_host(origin: str, host: str) -> bool:
    try:
        ours, theirs = urlsplit(f"//{host}"), urlsplit(origin)
        standard = {"http": 80, "https": 443}.get(theirs.scheme)
        return (
            standard is not None
            and theirs.hostname == ours.hostname
            and (theirs.port or standard) == (ours.port or standard)
        )
    except ValueError:
        return False

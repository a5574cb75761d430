"""Who asks, and whether they may: the admin by HTTP Basic, the builder by its token.

``/function/*``, ``/webhooks/*``, ``/healthz`` and ``/sealing-key`` are open; ``/internal/*`` has
tokens of its own.
"""

from __future__ import annotations

import base64
from urllib.parse import urlsplit

from flask import request

from core.errors import BadCredentials, NotAllowed
from core.signing import same_secret
from gateway.context import Gateway, here

ADMIN, BUILDER, NOBODY = "admin", "builder", ""
PRIVATE = ("/system", "/git", "/metrics", "/setup")
_BUILDER_MAY = {"releases.put_artifacts", "remote.upload_pack"}
_READS = {"GET", "HEAD", "OPTIONS"}


def is_private(path: str) -> bool:
    return any(path == each or path.startswith(f"{each}/") for each in PRIVATE)


def guard() -> None:
    """Runs before every request.

    Raises:
        BadCredentials: nobody we know asks for what is private.
        NotAllowed: the builder asks for what is not its own, or a page of another site writes.
    """
    if not is_private(request.path):
        return
    who = caller(here(), request.headers.get("Authorization", ""))
    if who == NOBODY:
        raise BadCredentials("invalid credentials")
    if who == BUILDER and not _builder_may():
        raise NotAllowed("the builder's token is for handing over artifacts only")
    if request.method not in _READS:
        refuse_other_sites()


def caller(gateway: Gateway, authorization: str) -> str:
    """Whose credentials an ``Authorization`` header holds: ADMIN, BUILDER or NOBODY."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return BUILDER if same_secret(value.strip(), gateway.builder_token) else NOBODY
    if scheme.lower() != "basic":
        return NOBODY
    try:
        given = base64.b64decode(value.strip(), validate=True).decode()
    except ValueError:  # not base64, not ASCII, or not UTF-8 inside
        return NOBODY
    user, _, password = given.partition(":")
    both = [same_secret(user, "admin"), same_secret(password, gateway.password)]
    return ADMIN if all(both) else NOBODY


def refuse_other_sites() -> None:
    """A page that is not ours must not act with the admin's credentials.

    Browsers send ``Origin`` and ``Sec-Fetch-Site``; other clients send neither.
    """
    origin = request.headers.get("Origin")
    site = request.headers.get("Sec-Fetch-Site", "none")
    if site not in ("same-origin", "none") or (origin and not _same_host(origin, request.host)):
        raise NotAllowed("a page of another origin asked for this: it is refused")


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

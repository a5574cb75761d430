"""``/system/tokens``: owners' tokens, made, listed, revoked.

The admin makes them for anybody, who signed in as an owner for that owner. A token sees those of
its owner, makes none and revokes none but itself: one that leaks must not leave another behind, or
shut the others out.
"""

from __future__ import annotations

import msgspec
from flask import Blueprint, Response, request

from core import logging, names
from core.errors import NotAllowed
from core.models import Struct
from core.scopes import Scope
from core.store.tokens import no_token
from gateway.callers import caller, owners
from gateway.context import here
from gateway.query import rfc_3339
from gateway.streams import decoded

bp = Blueprint("tokens", __name__)
log = logging.get()


class TokenWanted(Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /system/tokens``."""

    namespace: str
    """Of the owner."""
    description: str = ""
    """One line: what it is for, who has it."""
    scopes: list[Scope] | None = None
    """What it is good for; absent: all."""
    expires_at: str | None = None
    """RFC 3339; absent: never."""


@bp.get("/system/tokens")
@owners(Scope.READ)
def list_tokens() -> Response:
    """All that the caller may see, or those of one namespace, the oldest first; no token itself."""
    namespace = request.args.get("namespace", "")
    if namespace:
        names.namespace(namespace)
    visible = caller().visible(namespace)
    found = [each for each in here().store.tokens() if visible(each.namespace)]
    return Response(msgspec.json.encode(found), content_type="application/json")


@bp.post("/system/tokens")
@owners()
def create() -> Response:
    """The answer alone has the token."""
    who = caller()
    wanted = decoded(request.environ, TokenWanted)
    namespace = names.owner_namespace(wanted.namespace)
    if not who.holds(namespace):
        who.require(Scope.READ, namespace)
        raise NotAllowed(
            "tokens are made by the admin, or by who signed in as the owner or an administrator "
            "of the organisation"
        )
    scopes = list(Scope) if wanted.scopes is None else wanted.scopes
    expires = rfc_3339("expiresAt", wanted.expires_at) if wanted.expires_at else None
    made = here().store.create_token(namespace, scopes, wanted.description, expires)
    log.info("token_created", id=made.id, namespace=namespace, scopes=made.scopes, by=who.name)
    return Response(
        msgspec.json.encode(made),
        201,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


@bp.delete("/system/tokens/<id_>")
@owners()
def revoke(id_: str) -> Response:
    """It opens nothing from the next request on; what has begun with it goes on."""
    who, store = caller(), here().store
    found = store.token(names.token_id(id_))
    if not who.knows(found.namespace):
        raise no_token(id_)
    if found.id != who.token and not who.holds(found.namespace):
        raise NotAllowed(
            "a token is revoked by itself, by the admin, or by who signed in as the owner"
        )
    store.revoke_token(id_)
    log.info("token_revoked", id=id_, namespace=found.namespace, by=who.name)
    return Response(status=204)

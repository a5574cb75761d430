"""Owners at forges and their namespaces. An owner has the namespace of its login, which the first
to come holds; here the admin gives another one, or has two owners share one."""

from __future__ import annotations

import msgspec
from flask import Blueprint, Response, request

from core import logging, names
from core.errors import InvalidRequest
from core.models import Struct
from gateway.context import here
from gateway.streams import decoded

bp = Blueprint("owners", __name__, url_prefix="/system/owners")
log = logging.get()

MAX_OWNER = 300


class LinkedOwner(Struct, frozen=True, forbid_unknown_fields=True):
    """An owner at a forge, and the namespace that it was given."""

    owner: str
    """``<forge URL>#<owner id>``, as the refusal of its push names it."""
    namespace: str


class UnlinkedOwner(Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``DELETE /system/owners``."""

    owner: str


@bp.get("")
def list_owners() -> Response:
    found = [LinkedOwner(owner=each, namespace=of) for each, of in here().store.owners().items()]
    return Response(msgspec.json.encode(found), content_type="application/json")


@bp.put("")
def link() -> Response:
    """Gives an owner a namespace. One that somebody else holds is shared by both from now on."""
    given = decoded(request.environ, LinkedOwner)
    names.owner_namespace(given.namespace)
    here().store.link_owner(_checked(given.owner), given.namespace)
    log.info("owner_linked", owner=given.owner, namespace=given.namespace)
    return Response(status=202)


@bp.delete("")
def unlink() -> Response:
    """Takes it back; what is deployed stays."""
    owner = _checked(decoded(request.environ, UnlinkedOwner).owner)
    here().store.unlink_owner(owner)
    log.info("owner_unlinked", owner=owner)
    return Response(status=202)


def _checked(owner: str) -> str:
    url, mark, id_ = owner.rpartition("#")
    settings = here().settings
    forges = (settings.github_url, settings.gitlab_url, settings.gitea_url)
    if not mark or not id_ or url not in forges or len(owner) > MAX_OWNER:
        raise InvalidRequest(
            f"{owner[:80]!r} is no owner: write <forge URL>#<owner id>, with one of "
            f"{', '.join(forges)}"
        )
    return owner

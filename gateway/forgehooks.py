"""Webhooks of single repositories: where no App or system hook speaks for all of them, each gets a
secret of its own, which counts for that repository alone."""

from __future__ import annotations

import secrets

import msgspec
from flask import Blueprint, Response, request

from core import logging
from core.errors import InvalidRequest
from core.models import Struct
from core.store.forges import Hook, new_hook
from forges import known
from gateway.context import here
from gateway.streams import decoded

bp = Blueprint("forgehooks", __name__, url_prefix="/system/hooks")
log = logging.get()

MAX_NAME = 500


class WantedHook(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /system/hooks``."""

    forge: str
    repository: str
    """Its full name at the forge: ``owner/name``."""


class ListedHook(Struct, frozen=True):
    """A hook as it is shown."""

    id: str
    forge: str
    repository: str
    url: str
    """What is entered at the forge as the webhook's address."""
    created_at: str
    bound: bool
    """Whether an event came already, whose repository is the one that it counts for."""


class NewHook(ListedHook, frozen=True):
    secret: str
    """What is entered as its secret: told this once."""


@bp.get("")
def list_hooks() -> Response:
    """The oldest first; secrets are not told again."""
    base = here().settings.user_url
    return _json([_shown(each, base) for each in here().store.hooks()])


@bp.post("")
def create() -> Response:
    """Makes one; its secret is told in this answer and never again."""
    gateway = here()
    wanted = decoded(request.environ, WantedHook)
    if wanted.forge not in known.NAMES:
        raise InvalidRequest(f"forge is {wanted.forge[:40]!r}: write {', '.join(known.NAMES)}")
    owner, slash, name = wanted.repository.partition("/")
    if not (owner and slash and name) or len(wanted.repository) > MAX_NAME:
        raise InvalidRequest("repository is not owner/name: write its full name at the forge")
    id_, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    key = gateway.store.sealing_key(gateway.settings.secrets_key)
    hook = new_hook(id_, wanted.forge, wanted.repository, key.seal(secret.encode(), f"hook {id_}"))
    gateway.store.add_hook(hook)
    log.info("hook_made", id=id_, forge=wanted.forge, repository=wanted.repository)
    shown = _shown(hook, gateway.settings.user_url)
    return _json(NewHook(**msgspec.structs.asdict(shown), secret=secret), 201)


@bp.delete("/<id_>")
def delete(id_: str) -> Response:
    """Events that are signed with its secret are refused from now on."""
    here().store.delete_hook(id_)
    log.info("hook_deleted", id=id_)
    return Response(status=202)


def _shown(hook: Hook, base: str) -> ListedHook:
    return ListedHook(
        id=hook.id,
        forge=hook.forge,
        repository=hook.full_name,
        url=f"{base}/webhooks/{hook.forge}/{hook.id}",
        created_at=hook.created_at,
        bound=bool(hook.forge_id),
    )


def _json(value: object, status: int = 200) -> Response:
    return Response(
        msgspec.json.encode(value),
        status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )

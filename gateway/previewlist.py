"""``/system/previews``: which requests have previews, and the word that lets a fork's be built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
from flask import Blueprint, Response, request

from core import logging, names
from core.errors import InvalidRequest
from core.models import State, Struct
from core.previews import owner_of, refusal
from core.repositories import Repository, Request
from core.scopes import Scope
from core.settings import Settings
from core.store import Store
from gateway import previews
from gateway.callers import caller, owners
from gateway.context import here
from gateway.streams import decoded

bp = Blueprint("previews", __name__, url_prefix="/system/previews")
log = logging.get()


class Preview(Struct, frozen=True):
    """One request, and what of it runs here."""

    namespace: str
    """Of the repository that it is to go into; ``repository`` is that one's name."""
    repository: str
    number: int
    title: str
    url: str
    """Its page at the forge."""
    state: Literal["waiting", "building", "live", "failed", "gone"]
    """``waiting``: for approval."""
    reason: str
    """Why it is not live."""
    commit: str
    """The request's head, as far as we know."""
    fork: bool
    needs_approval: bool
    release: str
    """Id of its newest one; empty: there is none."""
    preview_namespace: str
    """Where its functions are."""
    functions: list[str]
    """Their URLs."""
    updated_at: str
    """When we heard of its last push or its end."""
    full: str
    """Why no further request of its repository, of forks where it is of one, has a preview; empty:
    there is room."""


class Approval(msgspec.Struct, forbid_unknown_fields=True):
    """Body of an approval: the commit that was looked at."""

    commit: str


@bp.get("")
@owners(Scope.READ)
def list_previews() -> Response:
    """``?namespace=``: of one owner."""
    gateway = here()
    space = request.args.get("namespace", "")
    if space:
        names.namespace(space)
    visible = caller().visible("")
    if space:
        caller().require(Scope.READ, space)
    there: dict[str, list[Repository]] = {}
    for each in gateway.store.previews():
        there.setdefault(each.parent, []).append(each)
    found = [
        _shown(gateway.settings, gateway.store, each, each.request, same)
        for same in there.values()
        for each in same
        if each.request and space in ("", owner_of(each), each.namespace)
        if visible(each.namespace)
    ]
    found.sort(key=lambda each: (each.namespace, each.repository, -each.number))
    return _json(found)


@bp.post("/<namespace>/<repository>/<number>/approve")
@owners(Scope.DEPLOY)
def approve(namespace: str, repository: str, number: str) -> Response:
    """Builds exactly the commit in the body, if it still is the request's head."""
    gateway = here()
    caller().require(Scope.DEPLOY, names.namespace(namespace))
    names.repository_name(repository)
    if not (number.isascii() and number.isdecimal() and 0 < len(number) <= 10):
        raise InvalidRequest(f"{number[:40]!r} is not the number of a request")
    commit = decoded(request.environ, Approval, 2**12).commit
    store = gateway.store
    approved = previews.approve(
        gateway.settings, store, f"{namespace}/{repository}", int(number), commit
    )
    previews.released(gateway.settings, store, approved)
    log.info("preview_approved", repository=approved.parent, number=int(number), commit=commit)
    assert approved.request is not None  # approve found it
    same = store.children(approved.parent)
    return _json(_shown(gateway.settings, store, approved, approved.request, same), 202)


def _shown(
    settings: Settings, store: Store, preview: Repository, of: Request, same: Sequence[Repository]
) -> Preview:
    """``same``: all previews of its repository."""
    newest = store.newest_release(preview.key)
    live = store.live_release(preview.key)
    rows = store.answering(settings, [store.release(live)])[0].functions if live else []
    state: Literal["waiting", "building", "live", "failed", "gone"] = "building"
    rules = store.fork_rules(settings.policy, preview)
    reason = refusal(preview, of.commit, rules)
    if preview.gone:
        state, reason, rows = "gone", preview.gone, []
    elif reason:
        state = "waiting"
    elif newest and newest.state is State.LIVE:
        state = "live"
    elif newest and newest.state.final:
        state, reason = "failed", newest.reason
    return Preview(
        namespace=owner_of(preview),
        repository=preview.name,
        number=of.number,
        title=of.title,
        url=of.url,
        state=state,
        reason=reason,
        commit=of.commit,
        fork=of.fork,
        needs_approval=state == "waiting",
        release=newest.id if newest else "",
        preview_namespace=preview.namespace,
        functions=[row.url for row in rows if row.url],
        updated_at=of.updated_at,
        full=previews.full(same, rules, fork=of.fork),
    )


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, content_type="application/json")

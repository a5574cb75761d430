"""Why a function is what it is: what its release changed, by name and never by value."""

from __future__ import annotations

import msgspec
from flask import Blueprint, Response, request

from core import names
from core.errors import NotFound
from core.models import Build, Change, FunctionRecord, FunctionRow, Struct
from core.scopes import Scope
from core.store import Store
from gateway.callers import caller, owners
from gateway.context import here

bp = Blueprint("why", __name__)


class Why(Struct, frozen=True):
    """What the release that a function is of changed of it."""

    name: str
    namespace: str
    release: str
    """Empty where it was deployed by API."""
    commit: str
    since: str
    """The release that was live before; empty where there was none, or it is not known."""
    build: Build | None
    """Null where it is not known."""
    changes: list[Change]
    summary: str
    """The same in one line, for people."""


@bp.get("/system/function/<name>/why")
@owners(Scope.READ)
def why(name: str) -> Response:
    """``<name>?namespace=<namespace>`` or ``<name>.<namespace>``."""
    key = names.function_key(name, request.args.get("namespace", ""))
    caller().require(Scope.READ, names.space_of(key))
    store = here().store
    record = store.function(key)
    if record is None:
        raise NotFound(f"there is no function {key}: see 'slipway list'")
    row = _row(store, record)
    told = Why(
        name=record.spec.name,
        namespace=record.spec.namespace,
        release=record.release,
        commit=record.spec.commit or "",
        since=row.since if row else "",
        build=row.build if row else None,
        changes=(row.why if row else None) or [],
        summary=_summary(record, row),
    )
    return Response(msgspec.json.encode(told), content_type="application/json")


def _row(store: Store, record: FunctionRecord) -> FunctionRow | None:
    if not record.release:
        return None
    try:
        release = store.release(record.release)
    except NotFound:  # it is too old to be kept
        return None
    return next((row for row in release.functions if row.name == record.spec.name), None)


def _summary(record: FunctionRecord, row: FunctionRow | None) -> str:
    if not record.release:
        return "deployed by API: nothing was built here, and no release before it is known"
    pinned = f"; rolled back to it by {record.pinned}" if record.pinned else ""
    if row is None or row.why is None:
        return f"not known: {record.release} was planned before this was looked at{pinned}"
    told = ", ".join(map(str, row.why)) or f"nothing changed since {row.since}"
    return f"{told}{pinned}"

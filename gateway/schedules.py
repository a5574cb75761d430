"""``GET /system/schedules``: the functions that are called on a schedule, the next one first."""

from __future__ import annotations

import msgspec
from flask import Blueprint, Response, request

from core import names
from core.schedules import ScheduleStatus, status
from core.scopes import Scope
from gateway.callers import caller, owners
from gateway.context import here

bp = Blueprint("schedules", __name__)


class FunctionSchedule(ScheduleStatus, frozen=True, kw_only=True):
    """The schedule of one function."""

    name: str
    namespace: str


@bp.get("/system/schedules")
@owners(Scope.READ)
def list_schedules() -> Response:
    """Of one namespace or all; those that are never called, as their schedule is wrong, last."""
    namespace = request.args.get("namespace", "")
    if namespace:
        names.namespace(namespace)
    visible = caller().visible(namespace)
    store = here().store
    planned = store.planned()
    found = [
        FunctionSchedule(
            name=record.spec.name, namespace=record.spec.namespace, **msgspec.structs.asdict(told)
        )
        for key, record in store.functions().items()
        if visible(record.spec.namespace)
        if (told := status(record.spec.annotations, planned.get(key)))
    ]
    found.sort(key=lambda each: (each.next is None, each.next, each.name, each.namespace))
    return Response(msgspec.json.encode(found), content_type="application/json")

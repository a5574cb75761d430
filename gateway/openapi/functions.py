"""Functions: deployed, listed, scaled, called."""

from __future__ import annotations

from core.openfaas import (
    Alerts,
    FunctionDeletion,
    FunctionDeployment,
    FunctionStatus,
    Scale,
)
from gateway.calls import CallStatus
from gateway.logreading import Message
from gateway.openapi import limits
from gateway.openapi.operation import (
    ACCEPTED,
    ANY,
    NAMESPACE,
    NDJSON,
    OF_FUNCTION,
    OF_NAMESPACE,
    Answer,
    Operation,
    Query,
)
from gateway.schedules import FunctionSchedule
from gateway.why import Why


def functions() -> list[Operation]:
    tag = "functions"
    return [
        Operation(
            method="GET",
            path="/system/functions",
            id="listFunctions",
            tag=tag,
            summary="All functions, by name",
            query=(OF_NAMESPACE,),
            answers=(Answer(status=200, description="Functions", type=list[FunctionStatus]),),
            errors=(400,),
        ),
        Operation(
            method="POST",
            path="/system/functions",
            id="createFunction",
            tag=tag,
            summary="Deploys a function that is not there",
            query=(NAMESPACE,),
            body=FunctionDeployment,
            answers=(ACCEPTED,),
            errors=(400, 409, 413, 501),
        ),
        Operation(
            method="PUT",
            path="/system/functions",
            id="updateFunction",
            tag=tag,
            summary="Deploys a function anew; the old one serves until the new one is healthy",
            query=(NAMESPACE,),
            body=FunctionDeployment,
            answers=(ACCEPTED,),
            errors=(400, 404, 409, 413, 501),
        ),
        Operation(
            method="DELETE",
            path="/system/functions",
            id="deleteFunction",
            tag=tag,
            summary="Removes a function that was deployed by API",
            query=(NAMESPACE,),
            body=FunctionDeletion,
            answers=(ACCEPTED,),
            errors=(400, 404, 409, 413),
        ),
        Operation(
            method="GET",
            path="/system/function/{name}",
            id="getFunction",
            tag=tag,
            summary="One function, by `name` and namespace or by `name.namespace`",
            query=(
                OF_FUNCTION,
                Query(
                    name="usage",
                    description="`1` or `true`: also what its replicas use, for which it may "
                    "take four seconds; absent where it cannot be measured",
                ),
            ),
            answers=(Answer(status=200, description="The function", type=FunctionStatus),),
            errors=(400, 404),
        ),
        Operation(
            method="GET",
            path="/system/function/{name}/why",
            id="whyFunction",
            tag=tag,
            summary="What the release that a function is of changed: names, never values",
            query=(OF_FUNCTION,),
            answers=(Answer(status=200, description="What changed", type=Why),),
            errors=(400, 404),
        ),
        Operation(
            method="GET",
            path="/system/schedules",
            id="listSchedules",
            tag=tag,
            summary="Functions that are called on a schedule, the next one first",
            query=(OF_NAMESPACE,),
            answers=(Answer(status=200, description="Schedules", type=list[FunctionSchedule]),),
            errors=(400,),
        ),
        Operation(
            method="POST",
            path="/system/scale-function/{name}",
            id="scaleFunction",
            tag=tag,
            summary="Sets the number of replicas; a release sets it anew",
            query=(NAMESPACE,),
            body=Scale,
            answers=(ACCEPTED,),
            errors=(400, 404, 413),
        ),
        Operation(
            method="POST",
            path="/system/alert",
            id="alert",
            tag=tag,
            who="admin",
            summary="Scales by the alerts of Prometheus' Alertmanager",
            body=Alerts,
            answers=(Answer(status=200, description="Every alert was heard"),),
            errors=(400, 404, 413),
        ),
        Operation(
            method="GET",
            path="/system/logs",
            id="logs",
            tag=tag,
            summary="What a function wrote, a JSON value a line; live with `follow`",
            query=(
                Query(
                    name="name",
                    description="`name` or `name.namespace`",
                    limit=limits.FUNCTION,
                    required=True,
                ),
                OF_FUNCTION,
                Query(
                    name="instance",
                    description="lines of this replica alone",
                    limit=limits.REPLICA,
                ),
                Query(
                    name="tail",
                    description="the last so many lines that are kept; 0 or less: all",
                    type=int,
                    limit=limits.LINES,
                ),
                Query(
                    name="since",
                    description="lines written at that time or later",
                    format="date-time",
                ),
                Query(name="follow", description="go on with what is written from now", type=bool),
            ),
            answers=(Answer(status=200, description="Lines", type=Message, media=NDJSON),),
            errors=(400, 404),
        ),
    ]


def calls() -> list[Operation]:
    tag = "calls"
    told = {
        "X-Call-Id": "Names the call in logs, and in the answer's callback",
        "X-Start-Time": "When the call came, in nanoseconds since 1970",
        "X-Served-By": "`slipway/` and its version",
    }
    answer = Answer(
        status=200,
        description="What the function answers, whatever that is",
        media=ANY,
        headers=told,
    )
    accepted = Answer(status=202, description="It is kept, and made later", headers=told)
    callback = Query(
        name="X-Callback-Url",
        description="gets the function's answer by POST",
        format="uri",
        where="header",
    )
    called = [
        Operation(
            method=method,
            path=path,
            id=f"call{'Below' if 'path' in path else ''}{method.title()}",
            tag=tag,
            summary="Calls a function and waits; every other method there is works as well",
            who="open",
            takes_bytes=method not in ("GET", "HEAD", "OPTIONS"),
            answers=(answer,),
            errors=(400, 404, 501, 502, 504),
        )
        for path in ("/function/{name}", "/function/{name}/{path}")
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    ]
    later = [
        Operation(
            method="POST",
            path=path,
            id=f"callLater{'Below' if 'path' in path else ''}",
            tag=tag,
            summary="Keeps a call of a function, and answers at once",
            who="open",
            query=(callback,),
            takes_bytes=True,
            answers=(accepted,),
            errors=(400, 404, 413),
        )
        for path in ("/async-function/{name}", "/async-function/{name}/{path}")
    ]
    raw = Query(
        name="raw",
        type=bool,
        description="only the body that the function answered, with its content type",
    )
    kept = [
        Operation(
            method="GET",
            path="/async-function/{name}",
            id="readLater",
            tag=tag,
            summary="What became of a kept call, whose id stands for `name`",
            who="open",
            named=limits.CALL,
            query=(raw,),
            answers=(
                Answer(
                    status=200,
                    description="Its state, and its answer; with `raw` that one's body alone",
                    type=CallStatus,
                    or_bytes=True,
                ),
            ),
            errors=(400, 404, 405, 409),
        ),
        Operation(
            method="DELETE",
            path="/async-function/{name}",
            id="cancelLater",
            tag=tag,
            summary="Ends a kept call, whose id stands for `name`",
            who="open",
            named=limits.CALL,
            answers=(Answer(status=202, description="It is not made, or not to its end"),),
            errors=(404, 405, 409),
        ),
    ]
    return [*called, *later, *kept]

"""Asynchronous calls that failed for good."""

from __future__ import annotations

from dataclasses import replace

from gateway.deadletters import DeadLetter, Replayed, WholeLetter
from gateway.openapi import limits
from gateway.openapi.operation import (
    OF_FUNCTION,
    OF_NAMESPACE,
    Answer,
    Operation,
    Query,
)


def dead_letters() -> list[Operation]:
    tag = "dead letters"
    function = Query(
        name="function",
        description="`name` or `name.namespace`: only those of this function",
        limit=limits.FUNCTION,
    )
    return [
        Operation(
            method="GET",
            path="/system/dead-letters",
            id="listDeadLetters",
            tag=tag,
            summary="Asynchronous calls that failed for good, the newest first",
            query=(
                OF_NAMESPACE,
                function,
                Query(
                    name="limit",
                    description="the most that are listed; 100 where it is not given",
                    type=int,
                    limit=limits.LETTERS,
                ),
            ),
            answers=(Answer(status=200, description="Dead letters", type=list[DeadLetter]),),
            errors=(400,),
        ),
        Operation(
            method="GET",
            path="/system/dead-letters/{id}",
            id="getDeadLetter",
            tag=tag,
            named=limits.CALL,
            summary="One of them, with what it calls the function with",
            query=(
                Query(name="raw", type=bool, description="only the body of the call, as it came"),
            ),
            answers=(
                Answer(
                    status=200,
                    description="The dead letter; with `raw` its body alone",
                    type=WholeLetter,
                    or_bytes=True,
                ),
            ),
            errors=(400, 404),
        ),
        Operation(
            method="POST",
            path="/system/dead-letters/{id}/replay",
            id="replayDeadLetter",
            tag=tag,
            named=limits.CALL,
            summary="Has it made anew under the same id, with a new series of attempts",
            answers=(Answer(status=202, description="It is on its way", type=Replayed),),
            errors=(400, 404, 409),
        ),
        Operation(
            method="POST",
            path="/system/dead-letters/replay",
            id="replayDeadLetters",
            tag=tag,
            summary="The same of all of one function, as far as the queue has room",
            query=(OF_FUNCTION, replace(function, required=True)),
            answers=(Answer(status=202, description="They are on their way", type=Replayed),),
            errors=(400, 404),
        ),
        Operation(
            method="DELETE",
            path="/system/dead-letters/{id}",
            id="removeDeadLetter",
            tag=tag,
            named=limits.CALL,
            summary="Removes one for ever",
            answers=(Answer(status=204, description="It is gone"),),
            errors=(400, 404),
        ),
    ]

"""The installation itself."""

from __future__ import annotations

from typing import Any

from core.openfaas import (
    SystemInfo,
)
from gateway.health import Health
from gateway.openapi.operation import (
    PROMETHEUS,
    Answer,
    Operation,
)
from gateway.prune import Prune, PruneReport


def system() -> list[Operation]:
    tag = "system"
    return [
        Operation(
            method="GET",
            path="/system/info",
            id="info",
            tag=tag,
            summary="What this is",
            answers=(Answer(status=200, description="Versions", type=SystemInfo),),
        ),
        Operation(
            method="GET",
            path="/system/openapi.json",
            id="openapi",
            tag=tag,
            summary="This description",
            answers=(Answer(status=200, description="OpenAPI 3.1", type=dict[str, Any]),),
        ),
        Operation(
            method="POST",
            path="/system/prune",
            id="prune",
            tag=tag,
            who="admin",
            summary="Removes what nothing needs any more, or says what that would be",
            body=Prune,
            answers=(Answer(status=200, description="What went, or would go", type=PruneReport),),
            errors=(400, 413),
        ),
        Operation(
            method="GET",
            path="/metrics",
            id="metrics",
            tag=tag,
            summary="What was counted, in Prometheus' text format",
            answers=(Answer(status=200, description="Metrics", media=PROMETHEUS),),
        ),
        Operation(
            method="GET",
            path="/healthz",
            id="healthz",
            tag=tag,
            summary="Whether every part works",
            who="open",
            answers=(
                Answer(status=200, description="All answer", type=Health),
                Answer(status=503, description="Some do not", type=Health),
            ),
        ),
    ]

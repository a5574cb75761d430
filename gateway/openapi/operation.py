"""What is said of one operation: who may ask, what it takes, what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from gateway.openapi import limits
from gateway.openapi.limits import Limit

JSON = "application/json"
NDJSON = "application/x-ndjson"
TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"
SVG = "image/svg+xml; charset=utf-8"
PROMETHEUS = CONTENT_TYPE_PLAIN_0_0_4
ANY = "*/*"


@dataclass(frozen=True, kw_only=True)
class Query:
    """A parameter of the query, or a header."""

    name: str
    description: str
    type: Any = str
    format: str = ""
    limit: Limit = field(default_factory=dict)
    required: bool = False
    where: Literal["query", "header"] = "query"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """``type`` as JSON, or as ``media``; a medium alone is text or bytes; neither: no body.
    ``headers``: name → what it says, of those that are always there."""

    status: int
    description: str
    type: Any = None
    media: str = ""
    or_text: bool = False
    or_bytes: bool = False
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Operation:
    method: str
    path: str
    id: str
    tag: str
    summary: str
    who: Literal["admin", "owner", "builder", "open"] = "owner"
    """``owner``: of what is theirs, and the admin of all."""
    named: Limit = field(default_factory=lambda: limits.FUNCTION)
    """What may stand for ``name`` or ``id`` in the path."""
    parts: dict[str, Limit] = field(default_factory=dict)
    """The same of others that stand there."""
    query: tuple[Query, ...] = ()
    body: Any = None
    takes_bytes: bool = False
    answers: tuple[Answer, ...]
    errors: tuple[int, ...] = ()
    """Beside those of ``_always``."""

    def __post_init__(self) -> None:
        always = {503} | ({401, 403} if self.who != "open" else set())
        always |= {404} if self.who == "owner" else set()
        object.__setattr__(self, "errors", tuple(sorted({*self.errors, *always})))


NAMESPACE = Query(
    name="namespace",
    description="`openfaas-fn` where none is named; the body's counts before it",
    limit=limits.LABEL,
)
OF_NAMESPACE = Query(
    name="namespace", description="only those of this namespace; else all", limit=limits.LABEL
)
OF_FUNCTION = Query(
    name="namespace",
    description="of the function, where the name has none",
    limit=limits.LABEL,
)
ACCEPTED = Answer(status=202, description="It is the desired state now; the runtime follows.")

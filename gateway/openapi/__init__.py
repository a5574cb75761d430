"""``GET /system/openapi.json``: the API described, from the types that the views themselves read.

Format: OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1.0), schemas as msgspec writes them. What
there is, is in ``operations.py``; tests compare that with the routes, and answers with it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import msgspec
from flask import Blueprint, Response

from gateway.callers import owners
from gateway.openapi import limits
from gateway.openapi.operation import Answer, Operation, Query
from gateway.openapi.operations import OPERATIONS
from gateway.problems import PROBLEM, Problem
from gateway.sessions import COOKIE

bp = Blueprint("openapi", __name__)

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
_SECURITY: dict[str, list[dict[str, list[str]]]] = {
    "admin": [{"admin": []}],
    "owner": [{"owner": []}, {"session": []}, {"admin": []}],
    "builder": [{"builder": []}, {"admin": []}],
    "open": [],
}
_ERRORS = {
    400: "The request cannot be understood; the text says which field, and what it may be.",
    401: "Nobody that is known asks.",
    403: "Who asks may not do this.",
    404: "What the request names is not there, or not for who asks.",
    405: "The path does not take this method; Allow names those it takes.",
    409: "It does not go together with what is there; the text names what stands against it.",
    413: "The body is larger than is allowed.",
    422: "The name or the value is none that this can have.",
    501: "This installation cannot do that; the text says why.",
    502: "The function failed to answer.",
    503: "Not now: a part is away or busy. Retry-After says when to ask again.",
    504: "The function did not answer in time.",
}


@bp.get("/system/openapi.json")
@owners()
def serve() -> Response:
    return Response(_encoded(), content_type=JSON)


@functools.cache
def _encoded() -> bytes:
    return msgspec.json.encode(document())


def document() -> dict[str, Any]:
    """The description as one JSON value."""
    paths: dict[str, dict[str, Any]] = {}
    schemas = _schemas()
    for operation in OPERATIONS:
        described = _operation(operation, schemas)
        paths.setdefault(operation.path, {})[operation.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Slipway",
            "version": metadata.version("slipway"),
            "description": "OpenFaaS' API, and what Slipway adds: releases and variables.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {
                "admin": {"type": "http", "scheme": "basic"},
                "builder": {"type": "http", "scheme": "bearer"},
                "owner": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An owner's token; also as the password of HTTP Basic.",
                },
                "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
            },
        },
    }


class _Schemas:
    """JSON schemas of types; those of structs are named components."""

    def __init__(self, types: list[Any]) -> None:
        found, self.components = msgspec.json.schema_components(
            types, ref_template="#/components/schemas/{name}"
        )
        limits.put_into(self.components)
        self._of = {repr(each): schema for each, schema in zip(types, found, strict=True)}

    def of(self, type_: Any) -> dict[str, Any]:
        return self._of[repr(type_)]


def _schemas() -> _Schemas:
    types: list[Any] = [Problem]
    for operation in OPERATIONS:
        types += [query.type for query in operation.query]
        types += [answer.type for answer in operation.answers if answer.type]
        types += [operation.body] if operation.body else []
    return _Schemas(types)


def _operation(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "security": _SECURITY[operation.who],
        "parameters": list(_parameters(operation, schemas)),
        "responses": {
            **{str(status): _error(status, schemas) for status in operation.errors},
            **{str(each.status): _answer(each, schemas) for each in operation.answers},
        },
    }
    if operation.body is not None:
        described["requestBody"] = {
            "required": True,
            "content": {JSON: {"schema": schemas.of(operation.body)}},
        }
    elif operation.takes_bytes:
        described["requestBody"] = {"content": {"*/*": {"schema": {}}}}
    return described


def _parameters(operation: Operation, schemas: _Schemas) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"\{([\w-]+)\}", operation.path):
        limit = operation.parts.get(name, {} if name in ("path", "hook") else operation.named)
        schema = {"type": "string", "minLength": 1, **limit}
        yield {"name": name, "in": "path", "required": True, "schema": schema}
    for query in operation.query:
        yield _query(query, schemas)


def _query(query: Query, schemas: _Schemas) -> dict[str, Any]:
    schema = {**schemas.of(query.type), **query.limit}
    if query.format:
        schema["format"] = query.format
    return {
        "name": query.name,
        "in": query.where,
        "description": query.description,
        "required": query.required,
        "schema": schema,
    }


def _answer(answer: Answer, schemas: _Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.description}
    content: dict[str, Any] = {}
    if answer.type:
        content[answer.media or JSON] = {"schema": schemas.of(answer.type)}
    elif answer.media:
        content[answer.media] = {"schema": {"type": "string"}}
    if answer.or_text:
        content[TEXT] = {"schema": {"type": "string"}}
    if answer.or_bytes:
        content["*/*"] = {"schema": {}}
    if content:
        described["content"] = content
    if answer.headers:
        described["headers"] = {
            name: {"description": text, "required": True, "schema": {"type": "string"}}
            for name, text in answer.headers.items()
        }
    return described


def _error(status: int, schemas: _Schemas) -> dict[str, Any]:
    return {
        "description": _ERRORS[status],
        "content": {
            TEXT: {"schema": {"type": "string"}},
            PROBLEM: {"schema": schemas.of(Problem)},
        },
    }

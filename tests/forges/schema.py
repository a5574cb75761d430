"""Whether a request is one that a forge's own published description allows.

Reads OpenAPI 3 (GitHub) and Swagger 2 (GitLab, Gitea). Stricter than those say: a field or a
parameter that is not described is a mistake, as forges drop it without a word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

import jsonschema_rs

_JSON = "application/json"
_MIXED = ("allOf", "anyOf", "oneOf", "not")
_PLACES = ("definitions", "components")


@dataclass(frozen=True)
class _Operation:
    method: str
    template: str
    path: re.Pattern[str]
    parameters: dict[tuple[str, str], dict[str, Any]]
    """(where, name) → the parameter."""
    body: dict[str, Any] | None
    """JSON schema; None: it takes no body."""
    body_required: bool


class Description:
    """The operations of one description; its paths are below ``basePath`` where it has one."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._shared = {each: _plain(document[each]) for each in _PLACES if each in document}
        self._operations = sorted(
            (
                self._operation(path, method, item)
                for path, item in document["paths"].items()
                for method in item
                if method != "parameters"
            ),
            key=lambda each: each.template.count("{"),
        )

    @classmethod
    def of(cls, path: Path) -> Description:
        return cls(json.loads(path.read_text()))

    def mistakes(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> list[str]:
        """What is wrong with a request; empty: nothing. ``target``: path and query as sent."""
        path, _, query = target.partition("?")
        found = [each for each in self._operations if each.path.fullmatch(path)]
        if not found:
            return [f"{method} {path}: there is no such path"]
        # The most literal template counts: /issues/comments/{id} before /issues/{number}/{what}.
        same = [each for each in found if each.method == method]
        if not same:
            return [f"{method} {path}: it takes {', '.join(each.method for each in found)}"]
        operation = same[0]
        wrong = self._in_path(operation, path) + self._in_query(operation, query)
        wrong += self._in_body(operation, headers, body)
        return [f"{method} {operation.template}: {each}" for each in wrong]

    def _operation(self, path: str, method: str, item: Mapping[str, Any]) -> _Operation:
        described = item[method]
        all_ = [
            self._resolve(each)
            for each in (*item.get("parameters", ()), *described.get("parameters", ()))
        ]
        parameters = {(each["in"], each["name"]): each for each in all_ if each["in"] != "body"}
        body, required = self._body(described, all_)
        return _Operation(
            method=method.upper(),
            template=path,
            path=_pattern(self._document.get("basePath", "").rstrip("/") + path, parameters),
            parameters=parameters,
            body=body,
            body_required=required,
        )

    def _body(
        self, described: Mapping[str, Any], parameters: list[dict[str, Any]]
    ) -> tuple[dict[str, Any] | None, bool]:
        for each in parameters:
            if each["in"] == "body":
                return each["schema"], bool(each.get("required"))
        fields = {each["name"]: each for each in parameters if each["in"] == "formData"}
        if fields:  # GitLab describes its bodies so, and takes them as JSON
            needed = [name for name, each in fields.items() if each.get("required") is True]
            schema: dict[str, Any] = {
                "type": "object",
                "properties": {
                    name: {key: each[key] for key in ("type", "enum", "items") if key in each}
                    for name, each in fields.items()
                },
            }
            return schema | ({"required": needed} if needed else {}), bool(needed)
        if "requestBody" not in described:
            return None, False
        told = self._resolve(described["requestBody"])
        return told["content"][_JSON]["schema"], bool(told.get("required"))

    def _in_path(self, operation: _Operation, path: str) -> list[str]:
        match = operation.path.fullmatch(path)
        assert match is not None
        wrong = []
        for name, given in zip(
            re.findall(r"{([^}]+)}", operation.template), match.groups(), strict=True
        ):
            parameter = operation.parameters.get(("path", name))
            if parameter is None:
                wrong.append(f"the description lacks the parameter {name}")
            else:
                wrong += self._value(parameter, unquote(given))
        return wrong

    def _in_query(self, operation: _Operation, query: str) -> list[str]:
        wrong, seen = [], set()
        for name, value in parse_qsl(query, keep_blank_values=True):
            parameter = operation.parameters.get(("query", name))
            seen.add(name)
            if parameter is None:
                wrong.append(f"it takes no {name!r} in its query")
            else:
                wrong += self._value(parameter, value)
        for (where, name), parameter in operation.parameters.items():
            if where == "query" and parameter.get("required") and name not in seen:
                wrong.append(f"{name!r} is missing in its query")
        return wrong

    def _value(self, parameter: Mapping[str, Any], text: str) -> list[str]:
        schema = parameter.get("schema", parameter)
        value: Any = text
        if schema.get("type") in ("integer", "number", "boolean"):
            try:
                value = json.loads(text)
            except ValueError:
                value = text
        elif schema.get("type") == "array":
            value = text.split(",")
        kept = ("type", "enum", "items", "format", "minimum", "maximum", "pattern", "oneOf", "$ref")
        return self._against({key: schema[key] for key in kept if key in schema}, value, text)

    def _in_body(self, operation: _Operation, headers: Mapping[str, str], body: bytes) -> list[str]:
        if not body:
            return ["its body is missing"] if operation.body_required else []
        if operation.body is None:
            return ["it takes no body"]
        if headers.get("Content-Type", "").partition(";")[0] != _JSON:
            return [f"its body is {headers.get('Content-Type')!r}, not {_JSON}"]
        try:
            value = json.loads(body)
        except ValueError as error:
            return [f"its body is not JSON: {error}"]
        return self._against(operation.body, value, "its body")

    def _against(self, schema: Mapping[str, Any], value: Any, what: str) -> list[str]:
        whole = {"allOf": [_plain(schema)], **self._shared}
        checker = jsonschema_rs.Draft4Validator(whole, validate_formats=True)
        return [
            f"{what}: {'/'.join(map(str, each.instance_path))}: {each.message[-300:]}"
            for each in checker.iter_errors(value)
        ]

    def _resolve(self, value: Mapping[str, Any]) -> dict[str, Any]:
        if "$ref" not in value:
            return dict(value)
        found: Any = self._document
        for part in value["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        return self._resolve(found)


def _pattern(path: str, parameters: Mapping[tuple[str, str], Mapping[str, Any]]) -> re.Pattern[str]:
    made = ""
    for part in re.split(r"({[^}]+})", path):
        if not part.startswith("{"):
            made += re.escape(part)
            continue
        several = parameters.get(("path", part[1:-1]), {}).get("x-multi-segment")
        made += "(.+)" if several else "([^/]+)"
    return re.compile(made)


def _plain(schema: Any, mixed: bool = False) -> Any:
    """JSON schema of what OpenAPI calls a schema: ``nullable``, and no fields but the described.
    ``mixed``: beside it stand others that describe the same value."""
    if isinstance(schema, list):
        return [_plain(each, mixed) for each in schema]
    if not isinstance(schema, dict):
        return schema
    beside = mixed or any(each in schema for each in _MIXED)
    made = {
        key: (
            {name: _plain(each) for name, each in value.items()}
            if key == "properties"
            else _plain(value, beside if key in _MIXED else False)
        )
        for key, value in schema.items()
        if key not in ("nullable", "default", "example", "discriminator")
    }
    if isinstance(made.get("properties"), dict) and not beside:
        made.setdefault("additionalProperties", False)
    return {"anyOf": [made, {"type": "null"}]} if schema.get("nullable") is True else made

"""Cuts a forge's API description to the operations that are used: what a request must look like.

    python -m tests.forges.cut description.json paths.txt > cut.json

``paths.txt``: ``<method> <path>`` a line, as the description writes them. Answers, examples and
prose are left out; what the rest refers to comes along.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

_LEFT_OUT = {
    *("description", "summary", "examples", "example", "externalDocs", "tags", "responses"),
    *("x-github", "x-octokit", "security", "title", "servers"),
}
_NAMES = {"properties", "parameters", "schemas", "definitions", "paths", "components"}
"""Below these, keys are names that somebody chose."""


def cut(description: dict[str, Any], wanted: list[tuple[str, str]]) -> dict[str, Any]:
    """The same description with the wanted operations alone.

    Raises:
        KeyError: it has no such operation.
    """
    kept: dict[str, Any] = {
        name: description[name]
        for name in ("openapi", "swagger", "basePath", "consumes")
        if name in description
    }
    told = {"title": description["info"]["title"], "version": description["info"]["version"]}
    kept["info"] = told
    for method, path in wanted:
        item = description["paths"][path]
        place = kept.setdefault("paths", {}).setdefault(path, {})
        place[method] = _bare(item[method])
        if "parameters" in item:
            place["parameters"] = _bare(item["parameters"])
    todo = _references(kept["paths"])
    while todo:
        reference = todo.pop()
        *way, name = reference.removeprefix("#/").split("/")
        found, place = description, kept
        for part in way:
            found, place = found[part], place.setdefault(part, {})
        if name not in place:
            place[name] = _bare(found[name])
            todo |= _references(place[name])
    return kept


def _bare(value: Any, names: bool = False) -> Any:
    if isinstance(value, list):
        return [_bare(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _bare(each, key in _NAMES and not names)
        for key, each in value.items()
        if names or key not in _LEFT_OUT
    }


def _references(value: Any) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(_references, value))
    if not isinstance(value, dict):
        return set()
    own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
    return own.union(*map(_references, value.values()))


if __name__ == "__main__":
    lines = Path(sys.argv[2]).read_text().splitlines()
    wanted = [(method.lower(), path) for method, _, path in (each.partition(" ") for each in lines)]
    json.dump(cut(json.loads(Path(sys.argv[1]).read_text()), wanted), sys.stdout, indent=1)
    print()

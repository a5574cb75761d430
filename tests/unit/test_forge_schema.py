"""What the test servers that stand for forges find wrong with a request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.forges.cut import cut
from tests.forges.schema import Description

GITHUB = Description.of(Path(__file__).parents[1] / "projects" / "github" / "api.json")
SWAGGER = Description(
    {
        "swagger": "2.0",
        "basePath": "/api/v1",
        "paths": {
            "/repos/{owner}/{repo}/statuses/{sha}": {
                "post": {
                    "parameters": [
                        {"in": "path", "name": "owner", "type": "string", "required": True},
                        {"in": "path", "name": "repo", "type": "string", "required": True},
                        {"in": "path", "name": "sha", "type": "string", "required": True},
                        {"in": "body", "name": "body", "schema": {"$ref": "#/definitions/Status"}},
                    ]
                }
            },
            "/projects/{id}/statuses": {
                "post": {
                    "parameters": [
                        {"in": "path", "name": "id", "type": "string", "required": True},
                        {
                            "in": "formData",
                            "name": "state",
                            "type": "string",
                            "enum": ["running", "success"],
                            "required": True,
                        },
                    ]
                }
            },
        },
        "definitions": {
            "Status": {
                "type": "object",
                "properties": {"state": {"type": "string"}, "context": {"type": "string"}},
            }
        },
    }
)
CHECK = {"name": "slipway", "head_sha": "a" * 40}
RUNS = "/repos/ann/site/check-runs"


def asked(
    description: Description, method: str, target: str, body: Any = None, kind: str = ""
) -> list[str]:
    sent = b"" if body is None else json.dumps(body).encode()
    return description.mistakes(method, target, {"Content-Type": kind or "application/json"}, sent)


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("POST", RUNS, CHECK),
        ("POST", RUNS, {**CHECK, "started_at": "2026-01-01T00:00:00Z"}),
        ("GET", "/repos/ann/site/git/ref/heads/feature/x%20y", None),
        ("GET", "/repos/ann/site/pulls?state=open&per_page=100", None),
        ("PATCH", "/repos/ann/site/issues/comments/5", {"body": "x"}),
        ("POST", "/app/installations/7/access_tokens", None),
        ("POST", f"/repos/ann/site/statuses/{'a' * 40}", {"state": "error", "target_url": None}),
    ],
)
def test_what_is_described_is_taken(method: str, target: str, body: Any) -> None:
    assert asked(GITHUB, method, target, body) == []


@pytest.mark.parametrize(
    ("method", "target", "body", "said"),
    [
        ("POST", "/repos/ann/site/checks", CHECK, "no such path"),
        ("DELETE", RUNS, None, "it takes POST"),
        ("POST", RUNS, None, "its body is missing"),
        ("POST", RUNS, {"name": "slipway"}, "head_sha"),
        ("POST", RUNS, {**CHECK, "name": 1}, "string"),
        ("POST", RUNS, {**CHECK, "status": "done"}, "done"),
        ("POST", RUNS, {**CHECK, "started_at": "today"}, "date-time"),
        ("POST", RUNS, {**CHECK, "output": {"title": "x"}}, "summary"),
        ("POST", RUNS, {**CHECK, "output": {"title": "", "summary": "", "log": ""}}, "log"),
        ("POST", RUNS, {**CHECK, "colour": "red"}, "colour"),
        ("POST", RUNS, {**CHECK, "output": {"title": "", "summary": "x" * 65536}}, "65535"),
        ("GET", "/repos/ann/site/pulls?state=ajar", None, "ajar"),
        ("GET", "/repos/ann/site/pulls?page=first", None, "integer"),
        ("GET", "/repos/ann/site/pulls?sorted=yes", None, "'sorted'"),
        ("GET", "/repos/ann/site/pulls", CHECK, "no body"),
        ("PATCH", "/repos/ann/site/issues/comments/five", {"body": "x"}, "integer"),
        ("POST", "/app/installations/7/access_tokens", {"repository_ids": ["7"]}, "integer"),
    ],
)
def test_what_is_not_is_told(method: str, target: str, body: Any, said: str) -> None:
    found = asked(GITHUB, method, target, body)
    assert len(found) == 1
    assert said in found[0]


def test_a_body_is_json() -> None:
    assert (
        "not JSON" in GITHUB.mistakes("POST", RUNS, {"Content-Type": "application/json"}, b"{")[0]
    )
    form = asked(GITHUB, "POST", RUNS, CHECK, "application/x-www-form-urlencoded")
    assert "not application/json" in form[0]


def test_swagger_2_is_read_as_well() -> None:
    statuses = "/api/v1/repos/ann/site/statuses/abc"
    assert asked(SWAGGER, "POST", statuses, {"state": "success"}) == []
    assert "colour" in asked(SWAGGER, "POST", statuses, {"colour": "red"})[0]
    assert "no such path" in asked(SWAGGER, "POST", "/repos/ann/site/statuses/abc", {})[0]
    project = "/api/v1/projects/ann%2Fsite/statuses"
    assert asked(SWAGGER, "POST", project, {"state": "running"}) == []
    assert "ajar" in asked(SWAGGER, "POST", project, {"state": "ajar"})[0]
    assert "state" in asked(SWAGGER, "POST", project, {})[0]
    assert "missing" in asked(SWAGGER, "POST", project)[0]


def test_a_description_is_cut_to_what_is_used() -> None:
    whole = {
        "swagger": "2.0",
        "info": {"title": "x", "version": "1", "description": "long"},
        "paths": {
            "/a": {"get": {"summary": "x", "responses": {}, "parameters": []}, "put": {}},
            "/b": {"post": {"parameters": [{"in": "body", "schema": {"$ref": "#/definitions/B"}}]}},
        },
        "definitions": {
            "B": {
                "properties": {"description": {"type": "string"}, "c": {"$ref": "#/definitions/C"}}
            },
            "C": {"description": "prose", "type": "string"},
            "D": {"type": "string"},
        },
    }
    found = cut(whole, [("get", "/a"), ("post", "/b")])
    assert found["paths"]["/a"] == {"get": {"parameters": []}}
    assert set(found["definitions"]) == {"B", "C"}
    assert found["definitions"]["C"] == {"type": "string"}
    assert "description" in found["definitions"]["B"]["properties"]
    with pytest.raises(KeyError):
        cut(whole, [("get", "/nowhere")])

"""The description of the API and the API itself: neither has what the other lacks."""

from __future__ import annotations

import re

import pytest

from core import images, names
from core.errors import InvalidRequest
from core.models import Struct
from core.settings import Settings
from core.store import Store
from gateway.app import create_app
from gateway.callers import opened
from gateway.context import Gateway
from gateway.openapi import document
from gateway.openapi.operations import OPERATIONS

ELSEWHERE = ("/git/", "/internal/")
"""git's own protocol, and what parts of one installation say to one another."""
CALLS = ("/function/", "/async-function/")
"""Told apart by more than Flask's rules can: see the test of their own."""
FRONT = "/"


@pytest.fixture
def app(settings: Settings, store: Store) -> Gateway:
    return create_app(settings, store)


@pytest.fixture
def routes(app: Gateway) -> set[tuple[str, str]]:
    """(method, path) of every rule of the application, except for calls."""
    return {
        (method, re.sub(r"<(?:[^:<>]*:)?([^<>]+)>", r"{\1}", rule.rule).replace("{id_}", "{id}"))
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
        if method not in ("HEAD", "OPTIONS")
        and rule.rule != FRONT
        and not rule.rule.startswith((*ELSEWHERE, *CALLS))
    }


def test_every_route_is_described_and_the_other_way_round(routes: set[tuple[str, str]]) -> None:
    described = {(each.method, each.path) for each in OPERATIONS if not each.path.startswith(CALLS)}
    assert described == routes


def test_the_description_says_for_whom_each_is(app: Gateway) -> None:
    """As the views say it, which is what counts."""
    said = {(each.method, each.path): each.who for each in OPERATIONS}
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:[^:<>]*:)?([^<>]+)>", r"{\1}", rule.rule).replace("{id_}", "{id}")
        for method in rule.methods or ():
            who = said.get((method, path))
            if who in ("admin", "owner"):
                marked = opened(app.view_functions[rule.endpoint]) is not None
                assert (who == "owner") is marked, (method, path)


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("/async-function/{name}", "/async-function/1b4e28ba-2fa1-41d2-883f-0016d3cca427"),
        ("/async-function/{name}/{path}", "/async-function/x/y"),
        ("/function/{name}", "/function/x"),
        ("/function/{name}/{path}", "/function/x/y"),
    ],
)
def test_calls_are_described_with_their_methods(app: Gateway, path: str, given: str) -> None:
    """Functions get every method there is, which the description says in words."""
    client = app.test_client()
    answered = {
        method
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "PROPFIND")
        if client.open(given, method=method, environ_overrides={"RAW_URI": given}).status_code
        != 405
    }
    described = {each.method for each in OPERATIONS if each.path == path}
    if path.startswith("/function/"):
        assert answered == {*described, "PROPFIND"}
    else:
        assert described == answered


def test_calls_and_only_they_are_below_their_paths() -> None:
    assert {each.path for each in OPERATIONS if each.path.startswith(CALLS)} == {
        *("/async-function/{name}", "/async-function/{name}/{path}"),
        *("/function/{name}", "/function/{name}/{path}"),
    }


@pytest.mark.parametrize("value", ["a", "a-1", "A", "-a", "a.b", "a" * 63, "a" * 64, "", "a\n"])
def test_patterns_take_what_the_code_takes(value: str) -> None:
    properties = document()["components"]["schemas"]["FunctionDeployment"]["properties"]
    for field, read in (("service", names.function_name), ("image", images.parts)):
        try:
            read(value)
            taken = True
        except InvalidRequest:
            taken = False
        schema = properties[field]
        # ECMA's '$' is the very end.
        found = re.search(schema["pattern"].replace("$", r"\Z"), value)
        assert (found is not None) == taken, field


def test_ids_are_there_once() -> None:
    ids = [each.id for each in OPERATIONS]
    assert len(ids) == len(set(ids))


def test_every_reference_leads_somewhere() -> None:
    described = document()
    text = repr(described)
    named = set(re.findall(r"#/components/schemas/(\w+)", text))
    assert named == set(described["components"]["schemas"])
    assert issubclass(OPERATIONS[1].body, Struct)


def test_fields_have_the_names_of_the_wire() -> None:
    schemas = document()["components"]["schemas"]
    assert "envProcess" in schemas["FunctionDeployment"]["properties"]
    assert schemas["FunctionDeployment"]["required"] == ["service", "image"]
    assert "availableReplicas" in schemas["FunctionStatus"]["required"]

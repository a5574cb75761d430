"""The description of the API and the API itself: neither has what the other lacks."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from core.models import Struct
from core.settings import Settings
from core.store import Store, connect
from gateway.app import create_app
from gateway.openapi import document
from gateway.openapi.operations import OPERATIONS

ELSEWHERE = ("/git/", "/internal/")
"""git's own protocol, and what parts of one installation say to one another."""
BY_HAND = {"/function/", "/async-function/", "/"}
"""Told apart by more than Flask's rules can; and the front page."""


@pytest.fixture
def routes(settings: Settings, valkey: str) -> Iterator[set[tuple[str, str]]]:
    """(method, path) of every rule of the application."""
    connection = connect(valkey)
    app = create_app(settings, Store(connection))
    yield {
        (method, re.sub(r"<(?:[^:<>]*:)?([^<>]+)>", r"{\1}", rule.rule).replace("{id_}", "{id}"))
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
        if method not in ("HEAD", "OPTIONS")
        and rule.rule not in BY_HAND
        and not rule.rule.startswith(ELSEWHERE)
    }
    connection.close()


def test_every_route_is_described_and_the_other_way_round(routes: set[tuple[str, str]]) -> None:
    described = {
        (each.method, each.path)
        for each in OPERATIONS
        if not each.path.startswith(("/function/", "/async-function/"))
    }
    assert described == routes


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

"""Each forge's real events with every field removed, retyped and over-long, by turns.

A parser gives an event or refuses the request, and of what it gives everything is safe.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from core.errors import InvalidRequest
from forges.events import Ignored
from tests.forges.examples import WEBHOOKS, Example, examples, safe

REMOVED = object()
RETYPED: tuple[Any, ...] = (
    *(None, True, 0, -1, 2**63, 10**400, 1.5, "", [], {}, [[]], {"id": 1}, ["x"]),
    *(
        "12",
        "..",
        "../x",
        "a/../b",
        "-x",
        "/",
        "a b",
        "x\x00y",
        "a\nb",
        "é",
        "\ud800",
        "javascript:x",
    ),
)
LONG: tuple[Any, ...] = ("x" * 300_000, "a/" * 100_000, "-" * 5_000, [0] * 10_000)
EXAMPLES = list(examples())
READ = [each for each in EXAMPLES if each.file not in ("ping", "star")]
"""Those of whose kind the body is looked at."""
Place = tuple[str | int, ...]


def places(value: Any, here: Place = ()) -> Iterator[Place]:
    """Every field of every object and list; of lists the first element stands for all."""
    items: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value[:1]))
    for key, inner in items:
        yield (*here, key)
        yield from places(inner, (*here, key))


def changed(payload: Any, place: Place, value: Any) -> Any:
    made = copy.copy(payload)
    if len(place) > 1:
        made[place[0]] = changed(made[place[0]], place[1:], value)
    elif value is REMOVED:
        del made[place[0]]
    else:
        made[place[0]] = value
    return made


def refused(example: Example, payload: Any) -> bool:
    try:
        event = example.read(payload)
    except InvalidRequest as error:
        told = str(error)
    else:
        safe(event)
        return False
    assert 0 < len(told) < 1000
    return True


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_the_examples_are_read_and_safe(example: Example) -> None:
    safe(example.read())


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_no_field_makes_harm(example: Example) -> None:
    known = {"full_name", "path_with_namespace", "ref", "after", "sha", "id", "number", "iid"}
    counted = 0
    for place in places(example.payload):
        for value in (REMOVED, *RETYPED):
            counted += refused(example, changed(example.payload, place, value))
        if place[-1] in known or len(place) < 3:
            for value in LONG:
                counted += refused(example, changed(example.payload, place, value))
    if example in READ and not isinstance(example.read(), Ignored):
        assert counted > 20, "nothing of it was checked"


@pytest.mark.parametrize("example", READ, ids=str)
def test_what_is_no_object_is_refused(example: Example) -> None:
    for value in (None, 1, "x", [], [[]], True):
        with pytest.raises(InvalidRequest):
            example.read([value])
    for body in (b"", b"{", b"1", b"\xff", b"payload=%7B%7D", b"[" * 100_000, b'{"a":' * 100_000):
        with pytest.raises(InvalidRequest):
            WEBHOOKS[example.forge].read(example.headers, body)

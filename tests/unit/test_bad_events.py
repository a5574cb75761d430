"""Each forge's real events with every field removed, retyped and over-long, by turns.

A parser gives an event or refuses the request, and of what it gives everything is safe.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from core.errors import InvalidRequest
from forges.events import Ignored
from tests.forges.examples import WEBHOOKS, Example, examples, safe

REMOVED = object()
MARK = "here it is"


def _as_json(*values: Any) -> tuple[bytes, ...]:
    return tuple(json.dumps(each).encode() for each in values)


RETYPED = _as_json(
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
LONG = _as_json("x" * 20_000, "a/" * 5_000, "-" * 3_000, [0] * 3_000, int("9" * 4000))
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


def around(payload: Any, place: Place) -> tuple[bytes, bytes]:
    """The payload as JSON, before and behind the value at a place."""
    before, _, behind = json.dumps(_changed(payload, place, MARK)).partition(f'"{MARK}"')
    return before.encode(), behind.encode()


def _changed(payload: Any, place: Place, value: Any) -> Any:
    made = copy.copy(payload)
    if len(place) > 1:
        made[place[0]] = _changed(made[place[0]], place[1:], value)
    elif value is REMOVED:
        del made[place[0]]
    else:
        made[place[0]] = value
    return made


def refused(example: Example, body: bytes) -> bool:
    try:
        event = WEBHOOKS[example.forge].read(example.headers, body)
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
    counted = 0
    for place in places(example.payload):
        without = json.dumps(_changed(example.payload, place, REMOVED)).encode()
        counted += refused(example, without)
        before, behind = around(example.payload, place)
        for value in RETYPED + LONG:
            counted += refused(example, before + value + behind)
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

"""Cases out of the API's own description, good and bad ones, against a real gateway and store.

``SLIPWAY_FUZZ_CASES`` requests altogether or a few more (``make fuzz``: 10,000), by
``SLIPWAY_FUZZ_SEED``: the same seed gives the same cases. No answer may be a 500, or one that the
description does not know; and every success that an operation describes must be seen, so that the
cases get beyond what looks at their form.

A run that broke off goes on: an operation that is done is noted in the file ``SLIPWAY_FUZZ_DONE``,
and passed over the next time. ``make fuzz`` has one for each seed and number of cases, and removes
it once all are done.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import strategies
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from gateway.openapi import document
from gateway.openapi.operation import Operation
from gateway.openapi.operations import OPERATIONS
from tests.fuzz.good import Request, mixed
from tests.fuzz.world import World, world

CASES = int(os.environ.get("SLIPWAY_FUZZ_CASES", "500"))
SEED = int(os.environ.get("SLIPWAY_FUZZ_SEED", "1"))
DONE = os.environ.get("SLIPWAY_FUZZ_DONE", "")

load_all_checks()
schema = schemathesis.openapi.from_dict(document())


def varied(operation: Operation) -> bool:
    """Whether two requests of it can differ."""
    return bool("{" in operation.path or operation.query or operation.body or operation.takes_bytes)


EACH = -(-CASES // sum(varied(each) for each in OPERATIONS))


@pytest.fixture(scope="module", name="world")
def world_(valkey: str) -> Iterator[World]:
    with world(valkey) as made:
        yield made


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.id)
def test_no_answer_is_a_500_or_unknown(
    operation: Operation, world: World, record_property: Callable[[str, object], None]
) -> None:
    if DONE and Path(DONE).exists() and operation.id in Path(DONE).read_text().split():
        pytest.skip(f"done before, as {DONE} says")
    statuses: dict[str, int] = {}
    record_property("statuses", statuses)
    described = schema[operation.path][operation.method]

    def ask(request: Request) -> None:
        world.restore()
        case = described.Case(
            path_parameters=request.path,
            query=request.query,
            headers=request.headers,
            body=request.body,
            media_type=request.media,
        )
        auth = None if request.anonymous else world.gateway.auth
        answer = case.call(base_url=world.gateway.url, auth=auth, timeout=30)
        status = str(answer.status_code)
        statuses[status] = statuses.get(status, 0) + 1
        assert answer.status_code not in (500, 502, 504), answer.text
        case.validate_response(
            answer,
            checks=[
                status_code_conformance,
                content_type_conformance,
                response_headers_conformance,
                response_schema_conformance,
            ],
        )

    good = world.good.get(operation.id, [Request()])
    for each in good:
        ask(each)
    if varied(operation):
        _ask_mixtures(described, good, ask)
    wanted = {str(each.status) for each in operation.answers if each.status < 400}
    assert wanted <= statuses.keys(), "no request had this success"
    if DONE:
        Path(DONE).parent.mkdir(exist_ok=True)
        with Path(DONE).open("a") as file:
            file.write(f"{operation.id}\n")


def _ask_mixtures(described: Any, good: list[Request], ask: Callable[[Request], None]) -> None:
    """With those that are good, ``EACH`` requests."""

    @hypothesis.seed(SEED)
    @hypothesis.settings(
        max_examples=max(EACH - len(good), 1),
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(
        case=strategies.one_of([described.as_strategy(mode) for mode in GenerationMode]),
        chance=strategies.randoms(use_true_random=False),
    )
    def cases(case: schemathesis.Case[Any], chance: random.Random) -> None:
        ask(mixed(_parts(case), chance.choice(good), chance))

    cases()


def _parts(case: schemathesis.Case[Any]) -> Request:
    """Nothing is followed: a quiet log has no end."""
    return Request(
        path=dict(case.path_parameters or {}),
        query={name: value for name, value in (case.query or {}).items() if name != "follow"},
        headers=dict(case.headers or {}),
        body=case.body,
        media=case.media_type,
    )

"""When an asynchronous call is tried again, and what its annotations may say."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from core import retries
from core.deployments import spec_of
from core.errors import InvalidRequest, InvalidStack
from core.models import CallState
from core.openfaas import FunctionDeployment
from core.retries import ATTEMPTS, CODES, MAX_WAIT, MIN_WAIT, Policy, policy_of
from core.stackfile import parse
from gateway.bodies import Body
from gateway.making import Answer, failed
from gateway.outcomes import outcome_of


def test_without_annotations_it_is_as_in_the_paid_edition() -> None:
    assert (
        policy_of(None)
        == policy_of({})
        == Policy(10, frozenset({429, 502, 500, 504, 408}), 10, 120)
    )


def test_annotations_are_read_as_they_are_written() -> None:
    told = {ATTEMPTS: "3", CODES: "503, 429", MIN_WAIT: "500ms", MAX_WAIT: "1m30s"}
    assert policy_of(told) == Policy(3, frozenset({503, 429}), 0.5, 90)
    assert policy_of({ATTEMPTS: "0"}).attempts == 0
    assert policy_of({MAX_WAIT: "2"}) == Policy(min_wait=2, max_wait=2)


WRONG = [
    (ATTEMPTS, "-1"),
    (ATTEMPTS, "many"),
    (ATTEMPTS, "101"),
    (ATTEMPTS, "9" * 5000),
    (ATTEMPTS, "1.5"),
    (ATTEMPTS, "²"),
    (ATTEMPTS, ""),
    (CODES, "200"),
    (CODES, "5xx"),
    (CODES, ""),
    (CODES, "500;502"),
    (CODES, ",".join(["500"] * 51)),
    (MIN_WAIT, "-1s"),
    (MIN_WAIT, "soon"),
    (MAX_WAIT, "25h"),
    (MAX_WAIT, "9" * 400),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_what_is_wrong_is_told_at_push_and_deploy_and_counts_as_absent(
    name: str, value: str
) -> None:
    text = (
        "provider:\n  name: openfaas\nfunctions:\n  f:\n    lang: node\n    handler: ./f\n"
        f"    annotations:\n      {name}: '{value}'\n"
    )
    with pytest.raises(InvalidStack, match=f"line 8: f.annotations.{name}.*: write"):
        parse(text.encode(), "stack.yml", max_functions=9)
    with pytest.raises(InvalidRequest, match=f"annotations: {name} is .*: write"):
        spec_of(deployment({name: value}), "ann", "d")
    assert policy_of({name: value}) == Policy()


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({MIN_WAIT: "2m", MAX_WAIT: "60s"}, "which is above"),
        ({MIN_WAIT: "121s"}, f"set {MAX_WAIT} as well"),
    ],
)
def test_a_least_wait_above_the_longest_is_a_mistake(told: dict[str, str], why: str) -> None:
    lines = "".join(f"      {name}: {value}\n" for name, value in told.items())
    text = (
        "provider:\n  name: openfaas\nfunctions:\n  f:\n    lang: node\n    handler: ./f\n"
        f"    annotations:\n{lines}"
    )
    with pytest.raises(InvalidStack, match=f"line 8: f.annotations.{MIN_WAIT}: .*{why}"):
        parse(text.encode(), "stack.yml", max_functions=9)
    with pytest.raises(InvalidRequest, match=why):
        spec_of(deployment(told), "ann", "d")
    policy = policy_of(told)
    assert policy.min_wait <= policy.max_wait


def deployment(annotations: dict[str, str]) -> FunctionDeployment:
    return FunctionDeployment(service="f", image="example.org/f:1", annotations=annotations)


def test_waits_double_within_their_bounds_and_differ() -> None:
    policy = Policy(min_wait=10, max_wait=120)
    for retry, low, high in ((1, 10, 20), (2, 20, 40), (3, 40, 80), (4, 60, 120), (10**9, 60, 120)):
        waits = [policy.wait(retry) for _ in range(200)]
        assert low <= min(waits) < max(waits) <= high
        assert max(waits) - min(waits) > (high - low) / 2, "jitter"


def test_what_the_function_asks_for_counts_within_the_longest_wait() -> None:
    policy = Policy(min_wait=10, max_wait=120)
    assert all(3 <= policy.wait(1, 3.0) <= 3.3 for _ in range(100))
    assert policy.wait(1, 1e9) == 120
    assert policy.wait(1, 0.0) == 0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("9" * 40, None),
    ],
)
def test_retry_after_in_seconds(value: str, expected: float | None) -> None:
    assert retries.retry_after(value) == expected


def test_retry_after_as_a_date() -> None:
    found = retries.retry_after(formatdate(time.time() + 60, usegmt=True))
    assert found is not None
    assert 50 < found <= 60
    assert retries.retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retries.retry_after("Wed, 99 Oct 99999 07:28:00 GMT") is None


def answer(status: int, **headers: str) -> Answer:
    return Answer(status, list(headers.items()), Body.of(b"text"))


POLICY = Policy(attempts=2, codes=frozenset({429, 500, 503}), min_wait=1, max_wait=4)


def test_what_an_answer_comes_to() -> None:
    for status in (200, 204, 301, 400, 404, 501, 502):
        assert outcome_of(answer(status), POLICY, 0).state is CallState.DONE, status
    tried = outcome_of(answer(500), POLICY, 0)
    assert (tried.state, tried.reason) == (CallState.QUEUED, "the function answered 500")
    assert 1 <= tried.wait <= 2
    last = outcome_of(answer(500), POLICY, 2)
    assert (last.state, "2 more times" in last.reason) == (CallState.FAILED, True)


def test_retry_after_counts_on_429_and_503_of_the_function_alone() -> None:
    after = {"retry-after": "3"}
    for status, low, high in ((429, 3, 3.3), (503, 3, 3.3), (500, 1, 2)):
        assert low <= outcome_of(answer(status, **after), POLICY, 0).wait <= high, status
    ours = answer(503, **after, **{"X-OpenFaaS-Internal": "proxy"})
    assert 1 <= outcome_of(ours, POLICY, 0).wait <= 2


def test_what_the_platform_could_not_do_is_tried_again_whatever_the_codes_are() -> None:
    for status in (500, 502, 503, 504, 507):
        assert outcome_of(failed(status, "why"), POLICY, 0).state is CallState.QUEUED, status
    gone = outcome_of(failed(404, "no function"), POLICY, 0)
    assert (gone.state, gone.reason) == (CallState.FAILED, "404: no function")
    hopeless = failed(502, "too large", hopeless=True)
    assert outcome_of(hopeless, POLICY, 0).state is CallState.FAILED
    spoofed = answer(200, **{"X-OpenFaaS-Internal": "proxy"})
    assert outcome_of(spoofed, POLICY, 0).state is CallState.DONE

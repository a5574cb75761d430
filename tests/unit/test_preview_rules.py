"""What is other in a preview: what functions may say, which commits may be built."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.names import NO_COMMIT, request_number
from core.previews import SCHEDULED, ForkRules, bound, closed, networked, pushed, refusal
from core.repositories import Repository, Request

A, B = "a" * 40, "b" * 40
OWN = Repository(
    namespace="alice--pr-5",
    name="shop",
    source="github",
    parent="alice/shop",
    request=Request(number=5, commit=A),
)
FORK = msgspec.structs.replace(OWN, request=Request(number=5, commit=A, fork=True))
ASK, ALWAYS = ForkRules(), ForkRules(fork_previews="always", fork_network=True)
NAMES = st.sampled_from(
    [
        "com.openfaas.scale.zero",
        "com.openfaas.scale.min",
        "com.openfaas.scale.max",
        "com.openfaas.scale.type",
        "com.slipway.egress",
        "com.slipway.takes-over",
        SCHEDULED,
        "topic",
        "schedule",
        "other",
    ]
)
VALUES = st.sampled_from(["true", "false", "1", "9", "cron-function", "a, cron-function,b", ""])
TEXTS = st.none() | st.dictionaries(NAMES, VALUES)


@given(TEXTS, TEXTS, st.none() | st.lists(st.just("token")), st.sampled_from([OWN, FORK]))
def test_what_is_bound_once_is_bound(
    labels: dict[str, str] | None,
    annotations: dict[str, str] | None,
    secrets: list[str] | None,
    preview: Repository,
) -> None:
    """The gateway does to what the builder did the same again."""
    once = bound(preview, ASK, labels, annotations, secrets)
    again = bound(preview, ASK, once.labels, once.annotations, once.secrets)
    assert (again.labels, again.annotations, again.secrets) == (
        once.labels,
        once.annotations,
        once.secrets,
    )
    assert again.warnings == []


@given(TEXTS, TEXTS, st.none() | st.lists(st.just("token")))
def test_a_fork_has_no_choice(
    labels: dict[str, str] | None, annotations: dict[str, str] | None, secrets: list[str] | None
) -> None:
    may = bound(FORK, ASK, labels, annotations, secrets)
    assert not may.secrets
    told, notes = may.labels or {}, may.annotations or {}
    assert (told["com.openfaas.scale.zero"], told["com.openfaas.scale.max"]) == ("true", "1")
    assert "com.openfaas.scale.min" not in told
    assert notes["com.slipway.egress"] == "false"
    assert "com.slipway.takes-over" not in notes
    assert "cron-function" not in notes.get("topic", "")


@given(TEXTS, TEXTS)
def test_what_is_no_preview_is_left_as_it_is(
    labels: dict[str, str] | None, annotations: dict[str, str] | None
) -> None:
    plain = msgspec.structs.replace(OWN, request=None)
    may = bound(plain, ASK, labels, annotations, ["token"])
    assert (may.labels, may.annotations, may.secrets) == (labels, annotations, ["token"])


def test_a_preview_says_itself_how_it_is_scaled_and_scheduled() -> None:
    labels = {"com.openfaas.scale.zero": "false", "com.openfaas.scale.min": "2"}
    notes = {"topic": "cron-function", "schedule": "0 * * * *", SCHEDULED: "true"}
    may = bound(OWN, ASK, labels, notes, ["token"])
    assert (may.labels, may.annotations, may.secrets) == (labels, notes, ["token"])
    assert bound(OWN, ASK, None, {"topic": "cron-function"}, None).annotations == {}


def test_whose_secrets_it_has() -> None:
    assert OWN.secrets_namespace == "alice--preview"
    assert FORK.secrets_namespace == ""
    assert msgspec.structs.replace(OWN, request=None, parent="").secrets_namespace == "alice--pr-5"


@pytest.mark.parametrize(
    ("preview", "commit", "rules", "told"),
    [
        (OWN, B, ASK, ""),
        (FORK, A, ASK, f"slipway approve alice/shop 5 --commit {A}"),
        (FORK, A, ALWAYS, ""),
        (FORK, A, ForkRules(fork_previews="never"), "fork-previews"),
        (msgspec.structs.replace(OWN, gone="closed"), A, ASK, "closed"),
        (msgspec.structs.replace(OWN, gone="closed"), NO_COMMIT, ASK, ""),
    ],
)
def test_which_commits_may_be_built(
    preview: Repository, commit: str, rules: ForkRules, told: str
) -> None:
    found = refusal(preview, commit, rules)
    assert told in found
    assert bool(found) == bool(told)


def test_approved_is_one_commit() -> None:
    request = Request(number=5, commit=B, fork=True, approved=A)
    preview = msgspec.structs.replace(FORK, request=request)
    assert refusal(preview, A, ASK) == ""
    assert refusal(preview, B, ASK)
    assert not refusal(preview, NO_COMMIT, ALWAYS)


def test_a_network_is_the_policy_s_to_give() -> None:
    assert networked(OWN, ASK)
    assert not networked(FORK, ASK)
    assert networked(FORK, ALWAYS)


def test_what_is_closed_is_not_pushed_to() -> None:
    done = closed(OWN, "closed")
    assert done is not None
    assert closed(done, "again") is None
    assert pushed(done, B) is None
    assert pushed(OWN, A) is None
    moved = pushed(msgspec.structs.replace(OWN, gone="too old"), B)
    assert moved is not None
    assert moved.gone == ""


@pytest.mark.parametrize(
    ("reference", "number"),
    [
        ("refs/pull/5/head", 5),
        ("refs/merge-requests/12/head", 12),
        ("refs/pull/0/head", 0),
        ("refs/pull/5/merge", 0),
        ("refs/heads/refs/pull/5/head", 0),
        ("refs/pull/5/head\n", 0),
        ("refs/pull/../head", 0),
        ("refs/pull/٥/head", 0),  # noqa: RUF001 - no digit of git's
    ],
)
def test_where_requests_lie(reference: str, number: int) -> None:
    assert request_number(reference) == number

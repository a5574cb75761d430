from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import names
from core.errors import InvalidRequest

HOSTILE = [
    "",
    "..",
    "a/b",
    "A",
    "a" * 64,
    "-a",
    "a-",
    "a.b",
    "a b",
    "a\n",
    "ä",
    "a_b",
    "%2e",
    "a\0",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_function_name_is_a_label(value: str) -> None:
    with pytest.raises(InvalidRequest, match="not a function name"):
        names.function_name(value)


@pytest.mark.parametrize("value", ["a", "a1", "hello-world", "a" * 63, "0"])
def test_labels_pass_as_they_are(value: str) -> None:
    assert names.function_name(value) == value
    assert names.namespace(value) == value


@pytest.mark.parametrize("value", ["openfaas", "openfaas-fn", "system", "slipway", "kube-x"])
def test_reserved_namespaces_have_no_owner(value: str) -> None:
    with pytest.raises(InvalidRequest, match="reserved"):
        names.owner_namespace(value)


def test_two_dashes_are_kept_for_derived_namespaces() -> None:
    with pytest.raises(InvalidRequest, match="derived"):
        names.owner_namespace("alice--pr-1")
    assert names.namespace("alice--pr-1") == "alice--pr-1"


def test_a_derived_namespace_leads_back_to_its_owner() -> None:
    long, longer = "a" * 63, "a" * 62 + "b"
    known = ["ann", "ann--staging", "bob", long, longer]
    for owner in ("ann", "bob", long, longer):
        derived = names.derived_namespace(owner, "staging")
        assert names.owner_of(derived, [*known, derived]) == owner
    assert names.owner_of("eve--staging", known) == "eve"
    for nobodys in ("ann--staging--x", "ann---staging", "--"):
        assert names.owner_of(nobodys, known) == nobodys, "one is derived from owners alone"
    assert names.owner_of("ann", known) == "ann"


LABELS = st.from_regex(names.LABEL, fullmatch=True)
OWNERS = LABELS.filter(lambda each: "--" not in each)
LONG = st.from_regex(r"[a-z0-9]{22,63}", fullmatch=True)
SUFFIXES = st.from_regex(r"[a-z0-9]{1,40}", fullmatch=True)


@given(owner=OWNERS | LONG, other=OWNERS | LONG, suffix=SUFFIXES, again=SUFFIXES)
def test_no_two_owners_share_a_namespace(owner: str, other: str, suffix: str, again: str) -> None:
    derived = names.derived_namespace(owner, suffix)
    # And whoever is called like what is seen of it.
    cut = [derived[:end] for end in range(1, len(derived)) if names.LABEL.fullmatch(derived[:end])]
    for each in {other, owner, derived[: derived.index("--")], *cut}:
        assert names.is_of(derived, each) is (each == owner)
        if each != owner and "--" not in each:
            assert names.derived_namespace(each, again) != derived
            assert names.owner_of(derived, [each]) != each
    assert names.owner_of(derived, [other, derived, owner]) == owner


@given(owner=LONG, suffix=st.from_regex(r"[a-z0-9]{40}", fullmatch=True))
def test_a_name_that_was_cut_is_nobody_s(owner: str, suffix: str) -> None:
    derived = names.derived_namespace(owner, suffix)
    assert len(derived) <= 63
    assert not names.is_of(derived, derived.partition("--")[0])
    assert names.owner_of(derived, [derived.partition("--")[0]]) == derived


@pytest.mark.parametrize("value", ["staging", "demo-2", "pr", "pr-x", "a" * 40])
def test_environments_have_names(value: str) -> None:
    assert names.environment_name(value) == value


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("", "not the name of an environment"),
        ("Staging", "not the name of an environment"),
        ("a--b", "not the name of an environment"),
        ("-a", "not the name of an environment"),
        ("a" * 41, "at most 40"),
        ("production", "no environment can be called 'production'"),
        ("preview", "no environment can be called 'preview'"),
        ("pr-7", "those of previews"),
        ("pr-7-0a1b2c3d", "those of previews"),
    ],
)
def test_what_no_environment_is_called(value: str, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        names.environment_name(value)


BRANCHES = [
    *("develop", "release/demo", "a", "feature/ü", "x.y", "a./b", "refs", "1.0"),
    *("", "-x", "@", "a..b", "a/", "/a", "a//b", ".a", "a/.b", "a.", "a.lock", "a.lock/b"),
    *("a b", "a\tb", "a~1", "a^", "a:b", "a?", "a*", "a[b", "a\\b", "a@{b", "a\x7f", "a\n"),
]


@pytest.mark.parametrize("value", BRANCHES)
def test_branches_are_those_that_git_allows(value: str) -> None:
    git = subprocess.run(
        ["git", "check-ref-format", "--branch", value], capture_output=True, check=False
    )
    if git.returncode == 0:
        assert names.branch(value) == value
        return
    with pytest.raises(InvalidRequest, match="not the name of a branch"):
        names.branch(value)


def test_branches_are_written_without_refs() -> None:
    with pytest.raises(InvalidRequest, match="write the branch's name alone"):
        names.branch("refs/heads/develop")
    with pytest.raises(InvalidRequest):
        names.branch("a" * 300)


@pytest.mark.parametrize(
    "value",
    ["", ".", "..", "a..b", "a/b", "-a", ".git", "a.git", "a.lock", "a" * 201, "a\n", "a b"],
)
def test_hostile_repository_names_are_refused(value: str) -> None:
    with pytest.raises(InvalidRequest, match="not a repository name"):
        names.repository_name(value)


@pytest.mark.parametrize("value", ["fns", "My.Repo", "_x", "a-b_c.d"])
def test_repository_names_of_forges_pass(value: str) -> None:
    assert names.repository_name(value) == value


def test_a_function_splits_at_the_last_dot() -> None:
    assert names.split_function("hello.alice") == ("hello", "alice")
    assert names.split_function("hello") == ("hello", "openfaas-fn")
    with pytest.raises(InvalidRequest):
        names.split_function("a.b.c")


def test_the_name_and_the_owner_never_run_together() -> None:
    assert names.join_function("b-c", "a") != names.join_function("c", "a-b")


def test_an_error_shows_a_long_name_cut_and_escaped() -> None:
    with pytest.raises(InvalidRequest) as caught:
        names.function_name("x\x1b[31m" * 100)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_commits_are_full_ids() -> None:
    assert names.commit("a" * 40) == "a" * 40
    for value in ("a" * 39, "A" * 40, "--upload-pack=x", "HEAD", "g" * 40):
        with pytest.raises(InvalidRequest):
            names.commit(value)

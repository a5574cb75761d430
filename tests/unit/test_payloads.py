"""What the events of all forges have in common, held against git itself."""

from __future__ import annotations

import subprocess

import pytest

from core.errors import InvalidRequest
from forges import payloads

BRANCHES = [
    *(
        "main",
        "feat/a",
        "a.b",
        "a-b",
        "feat/-x",
        "a./b",
        "ü/日本",
        "@",
        "a@b",
        "a{b",
        "a#b",
        "100%",
    ),
    *("-x", "", "/", "a//b", "a/", "/a", ".a", "a/.b", "a..b", "a.lock", "a.lock/b", "a.", "a b"),
    *(
        "a~b",
        "a^b",
        "a:b",
        "a?b",
        "a*b",
        "a[b",
        "a\\b",
        "a@{b",
        "a\x7fb",
        "a\tb",
        "--upload-pack=x",
    ),
]


def accepted(value: str) -> bool:
    try:
        return payloads.branch(value) == value
    except InvalidRequest:
        return False


@pytest.mark.parametrize("name", BRANCHES)
def test_a_branch_is_what_git_takes_for_one(name: str) -> None:
    checked = subprocess.run(
        ["git", "check-ref-format", "--branch", name], capture_output=True, check=False
    )
    assert accepted(name) is (checked.returncode == 0)


@pytest.mark.parametrize(
    "value",
    ["main", "refs/heads", "refs//x", "HEAD", "refs/heads/a\nb", f"refs/heads/{'a' * 2000}"],
)
def test_what_is_no_reference_is_refused(value: str) -> None:
    with pytest.raises(InvalidRequest, match="not a reference"):
        payloads.reference(value)


def test_a_branch_that_is_not_there_yet_is_none() -> None:
    assert payloads.known_branch(None) == payloads.known_branch("") == ""


def test_titles_are_short_lines() -> None:
    assert payloads.title("  a\n\tb  ") == "a b"
    assert len(payloads.title("x" * 10**6)) == 300


def test_only_addresses_of_the_web_stand_behind_links() -> None:
    good = ("http://example.com/a/1", "https://example.com:3000/a?b=c#d")
    bad = (
        "Http://example.com/",
        "javascript://x",
        "//example.com",
        "http:///x",
        "https://e x",
        "é",
    )
    assert [payloads.web_url(each) for each in (*good, *bad)] == [*good, *[""] * len(bad)]

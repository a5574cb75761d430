"""Full names at forges, and the names that their repositories have here."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core import names
from core.errors import InvalidRequest
from forges import paths


@pytest.mark.parametrize(
    ("full_name", "owner", "name"),
    [
        ("ann/fns", "ann", "fns"),
        ("Ann_1/Fns.v2", "Ann_1", "Fns.v2"),
        ("group/sub/project", "group", "sub--project"),
        ("a/b/c/d/e", "a", "b--c--d--e"),
        ("a.b/_x/y-z", "a.b", "_x--y-z"),
    ],
)
def test_names_stay_as_they_are_where_they_can(full_name: str, owner: str, name: str) -> None:
    assert paths.read(full_name, groups=True) == (owner, name)


@pytest.mark.parametrize(
    "full_name",
    [
        *("a/.github", "a/-", "a/-x", "a/..x", "a/x..y", "a/b.lock", f"a/{'x' * 201}"),
        *("a/b--c", "a/b-/c", f"a/{'b' * 100}/{'c' * 100}"),
    ],
)
def test_what_is_no_name_here_gets_one(full_name: str) -> None:
    name = paths.read(full_name, groups=True).name
    assert names.repository_name(name) == name
    assert name not in (full_name.partition("/")[2], full_name.partition("/")[2].replace("/", "--"))


def test_without_groups_two_dashes_mean_nothing() -> None:
    assert paths.read("ann/my--fns").name == "my--fns"


@pytest.mark.parametrize(
    "full_name",
    [
        *(
            "",
            "a",
            "/",
            "a/",
            "/b",
            "a//b",
            "a/b/",
            "../b",
            "a/..",
            "a/.",
            "a/../b",
            "./b",
            ".../b",
            "a/...",
        ),
        *(
            "a/b.git",
            "a.git/b",
            "-a/b",
            "a b/c",
            "a/b\n",
            "a/é",
            "a:b/c",
            "a/b?c",
            "a/b#c",
            "a/%2e",
        ),
        *("a/b\x00", "a\\b/c", "a@b/c", f"a/{'x' * 256}", "a" + "/b" * 600, "https://a/b"),
    ],
)
def test_what_is_no_full_name_is_refused(full_name: str) -> None:
    with pytest.raises(InvalidRequest, match="full name of a repository"):
        paths.read(full_name, groups=True)


def test_groups_are_gitlabs_alone() -> None:
    with pytest.raises(InvalidRequest, match="owner/name"):
        paths.read("a/b/c")


segment = st.from_regex(r"[-a-c_.]{1,4}", fullmatch=True)


@given(st.lists(segment, min_size=1, max_size=3), st.lists(segment, min_size=1, max_size=3))
@example(["b--c"], ["b", "c"])
@example(["b", "-c"], ["b-", "c"])
@example(["b.lock"], ["b.lock", "b"])
def test_two_paths_never_get_one_name(one: list[str], two: list[str]) -> None:
    found = []
    for rest in (one, two):
        try:
            found.append(paths.read("/".join(["owner", *rest]), groups=True).name)
        except InvalidRequest:
            return
    assert (found[0] == found[1]) is (one == two)
    for each in found:
        assert names.repository_name(each) == each

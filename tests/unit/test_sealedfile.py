"""``sealed.yml``: what is read, what is told, and that one entry is written without the others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import sealedfile
from core.errors import InvalidRequest, InvalidStack
from core.sealedbox import Place, seal
from tests.unit.test_sealedbox import OURS

ONE, TWO, THREE = (seal(OURS.public, Place("a", "git:1", "n"), each) for each in (b"1", b"2", b"3"))


def texts(text: str) -> dict[str, dict[str, str]]:
    found = sealedfile.read(text.encode())
    return {space: {n: each.text for n, each in names.items()} for space, names in found.items()}


def test_it_is_read_with_its_lines() -> None:
    text = f"# ours\nacme:\n  db-password: {ONE}\nacme--staging:\n\n  db.password: '{TWO}'\n"
    found = sealedfile.read(text.encode())
    assert found["acme"]["db-password"] == (ONE, 3)
    assert found["acme--staging"]["db.password"] == (TWO, 6)


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "acme:\n", "acme: {}\n"])
def test_one_without_anything_is_none(text: str) -> None:
    assert not any(sealedfile.read(text.encode()).values())


def test_all_mistakes_are_told_with_their_lines_and_no_value_is_shown() -> None:
    text = (
        "acme:\n  db-password: hunter2\n  Bad_Name: x\n  twice: y\n  twice: y\n  empty:\n"
        f"  list: [hunter3]\n  broken: {ONE[:-1]}!\nNot A Namespace: {{}}\nother: text\n"
    )
    with pytest.raises(InvalidStack) as told:
        sealedfile.read(text.encode())
    assert [each.line for each in told.value.mistakes] == [5, 2, 3, 4, 6, 7, 7, 8, 9, 10]
    shown = str(told.value)
    assert "line 2: acme.db-password: it is no sealed value" in shown
    assert "change it where it is used" in shown
    assert "hunter" not in shown
    assert ONE[30:60] not in shown


@pytest.mark.parametrize("text", ["- a\n", "text\n", "a: [\n", "!!python/object:x {}\n"])
def test_what_is_no_such_file_is_refused(text: str) -> None:
    with pytest.raises(InvalidStack):
        sealedfile.read(text.encode())


def test_the_names_of_a_namespace_are_counted() -> None:
    lines = "".join(f"  n{number}: {ONE}\n" for number in range(sealedfile.MAX_NAMES + 1))
    with pytest.raises(InvalidStack, match="257 names"):
        sealedfile.read(f"acme:\n{lines}".encode())
    rest = lines.partition("\n")[2]
    assert len(sealedfile.read(f"acme:\n{rest}".encode())["acme"]) == sealedfile.MAX_NAMES


def test_an_entry_is_written_and_the_rest_stays() -> None:
    text = sealedfile.with_entry("", "acme", "db-password", ONE)
    assert text == f"acme:\n  db-password: {ONE}\n"
    text = f"# keep me\n{text.rstrip()}  # and me not\n  other: {TWO}  # but me\n"
    text = sealedfile.with_entry(text, "acme", "db-password", THREE)
    assert text == f"# keep me\nacme:\n  db-password: {THREE}\n  other: {TWO}  # but me\n"
    text = sealedfile.with_entry(text, "acme--staging", "db-password", ONE)
    assert text.endswith(f"# but me\nacme--staging:\n  db-password: {ONE}\n")
    text = sealedfile.with_entry(text, "acme", "third", THREE)
    assert texts(text)["acme"] == {"db-password": THREE, "other": TWO, "third": THREE}
    assert "# keep me" in text
    assert "# but me" in text


@pytest.mark.parametrize(
    "before", ["acme:\n", "acme: # none yet\n", "acme:\n# none\nbob:\n  a: {0}"]
)
def test_a_namespace_without_entries_gets_its_first(before: str) -> None:
    after = sealedfile.with_entry(before.format(ONE), "acme", "new", TWO)
    assert texts(after)["acme"] == {"new": TWO}


@pytest.mark.parametrize("before", ["acme: {{a: {0}}}\n", "acme: &x\n  a: {0}\nbob: *x\n"])
def test_what_cannot_be_changed_by_lines_is_told_with_the_entry(before: str) -> None:
    with pytest.raises(InvalidRequest, match=f"yourself:\na: {TWO}"):
        sealedfile.with_entry(before.format(ONE), "acme", "a", TWO)


def test_a_file_with_mistakes_is_not_changed() -> None:
    with pytest.raises(InvalidStack):
        sealedfile.with_entry("acme:\n  db-password: hunter2\n", "acme", "other", ONE)


NAMES = st.sampled_from(["a", "b", "c-d", "e.f"])
SPACES = st.sampled_from(["acme", "acme--staging", "bob"])
LINES = st.lists(st.tuples(SPACES, NAMES, st.sampled_from([ONE, TWO, THREE])), max_size=12)


@given(LINES)
def test_any_row_of_entries_gives_the_last_of_each(entries: list[tuple[str, str, str]]) -> None:
    text, expected = "", {}
    for space, name, sealed in entries:
        text = sealedfile.with_entry(text, space, name, sealed)
        expected.setdefault(space, {})[name] = sealed
    assert texts(text) == expected

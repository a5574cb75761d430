"""``${…}`` as drone/envsubst documents it, with bounds and lines that are ours."""

from __future__ import annotations

import fnmatch
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import substitution
from core.errors import InvalidStack
from core.globs import Glob
from core.stackfile import parse
from core.substitution import Substituted, substitute

VARIABLES = {
    "letters": "abcdEFGH28ij",
    "upper": "ABCDEFGH28IJ",
    "path": "/home/bozo/ideas/thoughts.for.today",
    "z": "abcABC123ABCabc",
    "file": "bash.string.txt",
    "slashes": "foo/bar/baz",
    "foo": "foo",
    "accents": "éa",
    "minus": "-5",
    "star": "*.",
    "empty": "",
}


def fill(text: str, **variables: str) -> Substituted:
    return substitute(text, VARIABLES | variables, max_length=10**6)


def value(text: str) -> str:
    found = fill(text)
    assert found.mistakes == []
    return found.text


# What the readme and the tests of drone/envsubst list, and what follows from its code.
@pytest.mark.parametrize(
    ("written", "result"),
    [
        ("no variables", "no variables"),
        ("${letters}", "abcdEFGH28ij"),
        ("${#letters}", "12"),
        ("${#missing}", "0"),
        ("${#accents}", "3"),
        ("${letters^}", "AbcdEFGH28ij"),
        ("${letters^^}", "ABCDEFGH28IJ"),
        ("${upper,}", "aBCDEFGH28IJ"),
        ("${upper,,}", "abcdefgh28ij"),
        ("${accents^}", "Éa"),
        ("${missing^^}", ""),
        ("${path:11}", "ideas/thoughts.for.today"),
        ("${path:11:5}", "ideas"),
        ("${path:${minus}}", "today"),
        ("${path:99}", ""),
        ("${path:99:1}", ""),
        ("${path:0:99}", "/home/bozo/ideas/thoughts.for.today"),
        ("${path:x}", "/home/bozo/ideas/thoughts.for.today"),
        ("${accents:2}", "a"),
        ("${foo=abc}", "foo"),
        ("${missing=xyz}", "xyz"),
        ("${missing:=xyz}", "xyz"),
        ("${missing:-xyz}", "xyz"),
        ("${empty:-xyz}", "xyz"),
        ("${missing:-}", ""),
        ("${missing=${foo}-suffix}", "foo-suffix"),
        ("${missing=prefix${foo}-suffix}", "prefixfoo-suffix"),
        ("${missing=${letters^^}}", "ABCDEFGH28IJ"),
        ("${missing:-$$}", "$$"),
        ("${z/%abc/XYZ}", "abcABC123ABCXYZ"),
        ("${z/#abc/XYZ}", "XYZABC123ABCabc"),
        ("${z/#ABC/XYZ}", "abcABC123ABCabc"),
        ("${z//abc/xyz}", "xyzABC123ABCxyz"),
        ("${z/abc/xyz}", "xyzABC123ABCabc"),
        ("${z/abc/}", "ABC123ABCabc"),
        ("${z//${missing:-abc}/${foo}}", "fooABC123ABCfoo"),
        (r"${slashes/\//-}", "foo-bar/baz"),
        (r"${slashes//\//-}", "foo-bar-baz"),
        ("${file#*.}", "string.txt"),
        ("${file##*.}", "txt"),
        ("${file%.*}", "bash.string"),
        ("${file%%.*}", "bash"),
        ("${slashes#*/}", "bar/baz"),
        ("${slashes##*/}", "baz"),
        ("${path##*/}", "thoughts.for.today"),
        ("${file#${star}}", "string.txt"),
        ("${file#x}", "bash.string.txt"),
        ("${file#?}", "ash.string.txt"),
        ("${file#[a-c]}", "ash.string.txt"),
        ("${file#[^a-c]}", "bash.string.txt"),
        ("$${letters}", "${letters}"),
        ("$$$${letters}", "$${letters}"),
        ("${foo}$${foo$${foo}$foo${foo}", "foo${foo${foo}$foofoo"),
        ("100$ and $foo", "100$ and $foo"),
        (r"a\\b", r"a\\b"),
    ],
)
def test_forms(written: str, result: str) -> None:
    assert value(f"x {written} y") == f"x {result} y"


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("${foo-x}", "not substituted"),
        ("${foo+x}", "not substituted"),
        ("${foo:?x}", "not substituted"),
        ("${foo:+x}", "not substituted"),
        ("${foo^,}", "not substituted"),
        ("${foo bar}", "not substituted"),
        ("${}", "not substituted"),
        ("${1}", "not substituted"),
        ("${#}", "not substituted"),
        ("${#foo%x}", "not substituted"),
        ("${foo", "not substituted"),
        ("${foo:-x", "no closing"),
        ("${foo#", "no closing"),
        ("${foo#}", "no pattern"),
        ("${foo#[a}", "is not closed"),
        ("${foo/a}", "does not say what to put"),
        ("${path:0:${minus}}", "less than nothing"),
        ("${accents:1}", "cuts a character in two"),
        ("${missing:-" * 9 + "x" + "}" * 9, "levels deep"),
    ],
)
def test_what_is_no_form_is_a_mistake_in_its_line(written: str, why: str) -> None:
    [*_, mistake] = fill(f"one\n${{foo}}\n{written}\n").mistakes
    assert mistake.line == 3
    assert why in mistake.text


def test_one_that_is_not_set_is_warned_of_and_no_other_is() -> None:
    found = fill("a\n${missing}\n${empty}\n${missing:-x}${#missing}${foo}\n${path:x}")
    assert [(each.line, each.text[:11]) for each in found.warnings] == [
        (2, "${missing} "),
        (3, "${empty} is"),
        (5, "'x' is no n"),
    ]


# Lines.


def test_lines_are_those_that_were_written() -> None:
    text = "a\n${missing:-one\ntwo\nthree}\nb\r\n${foo}\u2028c\n"
    found = fill(text)
    assert found.text == "a\none\ntwo\nthree\nb\r\nfoo\u2028c\n"
    assert found.lines == [1, 2, 2, 2, 5, 6, 7, 8]
    gone = fill("a\n${foo:-one\ntwo\nthree}\nb\n")
    assert gone.text == "a\nfoo\nb\n"
    assert gone.lines == [1, 2, 5, 6]


def test_mistakes_behind_a_default_of_several_lines_have_their_own_lines() -> None:
    head = "provider: {name: openfaas}\nx-a: ${foo:-[\n\n\n]}\nfunctions:\n"
    with pytest.raises(InvalidStack) as caught:
        parse(f"{head}  Upper: {{lang: a, handler: b}}\n".encode(), "s", max_functions=9)
    assert [mistake.line for mistake in caught.value.mistakes] == [7]
    with pytest.raises(InvalidStack, match="line 7: this is not YAML"):
        parse(f"{head}  a: [}}\n".encode(), "s", max_functions=9, variables={"foo": "x"})


@given(st.text(alphabet="a\n\r{}$:-\u2028", max_size=60))
def test_every_line_of_the_result_has_a_line_of_the_text(text: str) -> None:
    found = substitute(text, {"a": "v"}, max_length=1000)
    if found.lines and not found.mistakes:
        assert found.lines == sorted(found.lines)
        assert found.lines[0] == 1


# Bounds.


@pytest.mark.parametrize(
    "text",
    [
        "${big}" * 100,
        "${missing:-${big}${big}}" * 50,
        "${big//a/${big}}",
        "${big//${missing}/${big}}",
        f"${{big#{'*a' * 499}*b}}" * 2000,
        f"${{big%%{'*a' * 499}*b}}" * 2000,
        "${missing:-" * 40_000,
        "${" * 400_000,
        "$$" * 400_000 + "${big}",
        "${big:0:1}" * 80_000,
        "${big/x/y}" * 80_000,
        "${#big}" * 80_000,
    ],
)
def test_what_would_grow_or_take_long_is_refused_soon(text: str) -> None:
    begun = time.monotonic()
    found = fill(text, big="a" * 16_000)
    assert time.monotonic() - begun < 200
    assert len(found.text) <= 10**6
    assert found.mistakes or text.startswith("$$")


def test_what_is_put_within_a_form_is_bounded_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    cased: list[int] = []

    def counted(value: str, _: str) -> str:
        cased.append(len(value))
        return value

    monkeypatch.setattr(substitution, "_cased", counted)
    for form in ("${big}", "${big^^}", "${missing:-${big}}"):
        tracemalloc.start()
        try:
            found = fill(f"${{missing:-{form * 8000}}}", big="a" * 16_000)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert "make more work" in found.mistakes[0].text
        assert peak < 20_000_000, "of 128 MB"
    assert 0 < sum(cased) <= 4 * 10**6


# Patterns.

PIECES = st.lists(
    st.sampled_from(["a", "b", "*", "?", "[ab]", "[!a]", "[a-c]", "\\*", "."]), max_size=6
)


def matches(pattern: str, text: str) -> bool:
    """By fnmatch, which has no escapes and negates with ``!``."""
    return fnmatch.fnmatchcase(text, pattern.replace("\\*", "[*]"))


@given(PIECES, st.text(alphabet="abc*.", max_size=8))
def test_patterns_cut_what_fnmatch_says_matches(pieces: list[str], text: str) -> None:
    pattern = "".join(pieces)
    glob = Glob(pattern)
    begin = [n for n in range(1, len(text) + 1) if matches(pattern, text[:n])]
    end = [n for n in range(1, len(text) + 1) if matches(pattern, text[len(text) - n :])]
    for longest, pick in ((False, min), (True, max)):
        cut = pick(begin, default=0)
        assert glob.cut(text, end=False, longest=longest) == text[cut:]
        cut = pick(end, default=0)
        assert glob.cut(text, end=True, longest=longest) == text[: len(text) - cut]


def test_patterns_that_are_none() -> None:
    for pattern in ("[", "[a", "a[", "\\", "[]"):
        with pytest.raises(ValueError, match="not closed"):
            Glob(pattern)
    with pytest.raises(ValueError, match="longer than 1000"):
        Glob("a" * 1001)

"""Which stack files of a commit count, and what they say together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from builder import buildsecrets, stacks
from builder.context import layout
from builder.key import build_key
from builder.source import Source
from builder.stacks import Stacks, read_stacks
from builder.templates import DOCKERFILE
from core.errors import Conflict, InvalidRequest, InvalidStack, NotFound, SlipwayError
from core.stackfile import StackFunction, TemplateSource
from tests.unit.repositories import LINK, SUBMODULE, BareRepository, Content

Commit = Callable[[dict[str, Content]], Source]


@pytest.fixture
def commit(tmp_path: Path) -> Iterator[Commit]:
    repository = BareRepository(tmp_path / "r.git")
    opened = []

    def commit(files: dict[str, Content]) -> Source:
        id_ = repository.commit(files)
        source = Source(repository.path, id_, max_files=20_000, max_bytes=2**20)
        opened.append(source)
        return source

    yield commit
    for each in opened:
        each.close()


def text(*functions: str, more: str = "") -> str:
    """A stack file; its functions begin in line 3, four lines each."""
    each = "".join(
        f"  {n}:\n    lang: py\n    handler: {n}\n    copy: [common]\n" for n in functions
    )
    return f"provider: {{name: openfaas}}\nfunctions:\n{each}{more}"


def found(source: Source, *, most: int = 200, **variables: str) -> Stacks:
    read = read_stacks(source, max_functions=most, variables=variables)
    read.refuse()
    return read


def paths(source: Source) -> list[str]:
    return [stack.path for stack in found(source).stacks]


def refusal(source: Source, *, most: int = 200) -> str:
    with pytest.raises(InvalidRequest) as caught:
        found(source, most=most)
    return str(caught.value)


# Which count.


@pytest.mark.parametrize(
    ("files", "counting"),
    [
        (["stack.yml"], ["stack.yml"]),
        (["stack.yml", "stack.yaml"], ["stack.yaml"]),
        (["stack.yml", "a/stack.yml", "b/stack.yaml"], ["stack.yml"]),
        (["a/stack.yml"], ["a/stack.yml"]),
        (["b/stack.yml", "a/b/c/stack.yaml"], ["a/b/c/stack.yaml", "b/stack.yml"]),
        (["a/stack.yml", "a/stack.yaml"], ["a/stack.yaml"]),
        (["a/stack.yml", "a/other.yml", "a/stack.yml.old"], ["a/stack.yml"]),
        (
            [
                *("a/stack.yml", "template/py/stack.yml", "a/template/stack.yml"),
                *("node_modules/x/stack.yml", "build/fn/stack.yml", ".github/stack.yml"),
                "1/2/3/4/5/6/7/8/9/stack.yml",
            ],
            ["a/stack.yml"],
        ),
    ],
)
def test_which_stack_files_count(commit: Commit, files: list[str], counting: list[str]) -> None:
    names = {path: text(f"f{n}") for n, path in enumerate(files)}
    assert paths(commit(dict(names))) == counting


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"README": "x"}, "has none at its root or below: add one"),
        ({"template/py/stack.yml": "x"}, "has none at its root or below"),
        ({"stack.yml": (LINK, "/etc/passwd")}, "is a symbolic link"),
        ({"stack.yml": (LINK, "/etc/passwd"), "a/stack.yml": text("a")}, "is a symbolic link"),
        ({"a/stack.yml": (LINK, "../../etc/passwd")}, "is a symbolic link"),
        ({"stack.yml/x": "y"}, "is a folder"),
        ({"stack.yml": b"#" * 10_000_000}, "10000000 bytes"),
        ({"stack.yml": (SUBMODULE, "1" * 40)}, "is a submodule"),
        ({f"d{n}/stack.yml": "" for n in range(51)}, "51 below, and 50 are allowed"),
    ],
)
def test_no_stack_file_that_could_count(
    commit: Commit, files: dict[str, Content], why: str
) -> None:
    with pytest.raises(InvalidStack, match=why):
        found(commit(files))


def test_the_root_file_names_others(commit: Commit) -> None:
    others = "x-stacks:\n  - ./api/stack.yml\n  - jobs/nightly.yml\n"
    files = {
        "stack.yml": text("a", more=others),
        "api/stack.yml": text("b"),
        "jobs/nightly.yml": text("c"),
        "more/stack.yml": text("d"),
    }
    assert paths(commit(dict(files))) == ["stack.yml", "api/stack.yml", "jobs/nightly.yml"]
    alone = "provider: {name: openfaas}\nx-stacks: [api/stack.yml]\n"
    assert paths(commit({**files, "stack.yml": alone})) == ["stack.yml", "api/stack.yml"]


@pytest.mark.parametrize(
    ("others", "why"),
    [
        ("[gone.yml]", "line 3: x-stacks: commit .* has no 'gone.yml': is it committed"),
        ("[../x.yml]", "line 3: x-stacks: '../x.yml' leads out of the repository"),
        ("[/etc/x.yml]", "line 3: x-stacks: '/etc/x.yml' is not a path within"),
        ("[sub]", "line 3: x-stacks: 'sub' is a folder"),
        ("[link.yml]", "line 3: x-stacks: 'link.yml' is a symbolic link"),
        ("[./stack.yml]", "line 3: x-stacks names stack.yml itself"),
        ("{a: b}", "line 3: x-stacks has to be a list"),
        (f"[{', '.join(f's{n}.yml' for n in range(60))}]", "line 3: x-stacks names 60 files"),
    ],
)
def test_names_of_others_that_are_wrong(commit: Commit, others: str, why: str) -> None:
    root = "provider: {name: openfaas}\nfunctions: {a: {lang: x, handler: y}}\n"
    source = commit(
        {
            "stack.yml": f"{root}x-stacks: {others}\n",
            "sub/stack.yml": f"{text('b')}x-stacks: [c.yml]\n",
            "link.yml": (LINK, "sub/stack.yml"),
        }
    )
    with pytest.raises(InvalidStack, match=why):
        found(source)


def test_only_the_root_names_others(commit: Commit) -> None:
    told = refusal(commit({"sub/stack.yml": text("b", more="x-stacks: [c.yml]\n")}))
    assert "sub/stack.yml has 1 mistake:\n  line 7: x-stacks counts in the stack file at" in told


# Environments.


def test_the_root_file_names_environments(commit: Commit) -> None:
    more = "x-environments:\n  staging: develop\n  demo: ${BRANCH}\n"
    source = commit({"stack.yml": text("a", more=more)})
    assert found(source, BRANCH="release/demo").environments == {
        "staging": "develop",
        "demo": "release/demo",
    }
    assert found(commit({"stack.yml": text("a", more="x-environments:\n")})).environments == {}


def test_mistakes_of_environments_are_told_with_their_lines(commit: Commit) -> None:
    lines = ("production: a", "pr-5: b", "a: 'b..c'", "b: refs/heads/x", "c:", "d: [x]", "e: ok")
    more = "x-environments:\n" + "".join(f"  {line}\n" for line in lines)
    told = refusal(commit({"stack.yml": text("a", more=more)}))
    for number, why in (
        (8, "no environment can be called 'production'"),
        (9, "those of previews"),
        (10, "'b..c' is not the name of a branch"),
        (11, "begins with refs/"),
        (12, "x-environments.c is ''"),
        (13, "x-environments.d has to be a single value"),
    ):
        assert any(f"line {number}: " in line and why in line for line in told.split("\n")), told
    assert "6 mistakes" in told


@pytest.mark.parametrize(
    ("environments", "why"),
    [
        ("[develop]", "line 7: x-environments has to be a mapping"),
        (str({f"e{n}": "b" for n in range(21)}), "line 7: x-environments names 21, and 20 are"),
    ],
)
def test_environments_that_are_none(commit: Commit, environments: str, why: str) -> None:
    with pytest.raises(InvalidStack, match=why):
        found(commit({"stack.yml": text("a", more=f"x-environments: {environments}\n")}))


def test_only_the_root_names_environments(commit: Commit) -> None:
    told = refusal(commit({"sub/stack.yml": text("b", more="x-environments: {a: b}\n")}))
    assert "line 7: x-environments counts in the stack file at the repository's root only" in told


def test_neither_the_deploy_branch_nor_what_an_owner_cannot_have(commit: Commit) -> None:
    more = "x-environments:\n  staging: main\n  demo: demo\n  fine: develop\n"
    read = read_stacks(commit({"stack.yml": text("a", more=more)}), max_functions=200, variables={})

    def check(name: str) -> None:
        if name == "demo":
            raise Conflict("ann--demo is somebody else's")

    read.check_environments("main", check)
    with pytest.raises(InvalidStack) as caught:
        read.refuse()
    assert [(each.line, each.text) for each in caught.value.mistakes] == [
        (
            8,
            "x-environments.staging: main is the deploy branch, which has no other: name another "
            "branch",
        ),
        (9, "x-environments.demo: ann--demo is somebody else's"),
    ]


# What they say.


def test_paths_are_from_the_file_and_copies_lie_where_they_did(commit: Commit) -> None:
    head = "provider: {name: openfaas}\nfunctions:\n  fn:\n    lang: dockerfile\n"
    own = f"{head}    handler: ./fn\n    copy: [common, data/x.json]\n"
    own += "    environment_file: [../e.yml]\n"
    inside = {"fn/Dockerfile": "FROM x", "common/a/b.txt": "b", "data/x.json": "{}"}
    deep: dict[str, Content] = {f"team/api/{path}": data for path, data in inside.items()}
    source = commit({"team/api/stack.yml": own, "team/e.yml": "environment: {}", **deep})
    [stack] = found(source).stacks
    [fn] = stack.functions
    assert stack.folder == "team/api"
    assert (fn.handler, fn.environment_file) == ("team/api/fn", ["team/e.yml"])
    assert fn.copy == ["team/api/common", "team/api/data/x.json"]
    expected = ["Dockerfile", "common/a/b.txt", "data/x.json"]
    assert list(layout(source, fn, None)) == expected

    flat = commit({"stack.yml": own.replace("../e", "e"), "e.yml": "environment: {}", **inside})
    [[moved]] = [stack.functions for stack in found(flat).stacks]
    assert list(layout(flat, moved, None)) == expected
    keys = {build_key(s, f, DOCKERFILE).digest for s, f in ((source, fn), (flat, moved))}
    assert len(keys) == 1, "a function that was moved as a whole is not built again"


@pytest.mark.parametrize(
    ("field", "why"),
    [
        ("handler: ../../fn", "leads out of the repository"),
        ("handler: /fn", "write it from 'sub'"),
        ("handler: ../.git/x", "git's own folder"),
        ("copy: [../common]", "is not below 'sub', the stack file's folder"),
        ("copy: ['.']", "is not below 'sub'"),
        ("environment_file: [../../e.yml]", "leads out"),
        ("build_secrets: {a: ../../etc/passwd}", "leads out"),
    ],
)
def test_paths_do_not_leave(commit: Commit, field: str, why: str) -> None:
    head = "provider: {name: openfaas}\nfunctions:\n  fn:\n    lang: py\n"
    handler = "" if field.startswith("handler") else "    handler: fn\n"
    told = refusal(commit({"sub/stack.yml": f"{head}{handler}    {field}\n"}))
    assert f"sub/stack.yml has 1 mistake:\n  line {6 if handler else 5}: fn." in told
    assert why in told


def test_one_name_in_two_files(commit: Commit) -> None:
    told = refusal(commit({"a/stack.yml": text("one", "two"), "b/stack.yml": text("three", "two")}))
    assert told == (
        "b/stack.yml has 1 mistake:\n"
        "  line 7: 'two' stands in a/stack.yml, line 7, already: rename or remove one"
    )


def test_all_mistakes_of_all_files_are_told_at_once(commit: Commit) -> None:
    told = refusal(
        commit(
            {
                "a/stack.yml": text("one", "Upper"),
                "b/stack.yml": "a: [\n",
                "c/stack.yml": text("one", "../two"),
                "d/stack.yml": b"\xff",
                "e/stack.yml": (LINK, "x"),
            }
        )
    )
    for line in (
        "a/stack.yml has 1 mistake:\n  line 7: 'Upper'",
        "b/stack.yml has 1 mistake:\n  line 2: this is not YAML",
        "c/stack.yml has 2 mistakes:\n  line 3: 'one' stands in a/stack.yml, line 3",
        "d/stack.yml has 1 mistake:\n  line 1: the file is not UTF-8",
        "e/stack.yml has 1 mistake:\n  'e/stack.yml' is a symbolic link",
    ):
        assert line in told


def test_the_number_of_functions_is_of_all_files(commit: Commit) -> None:
    files = {f"{n}/stack.yml": text(*(f"f{n}-{i}" for i in range(4))) for n in range(3)}
    assert len(found(commit(dict(files)), most=12).stacks) == 3
    assert "12 functions, more than the 11 allowed here" in refusal(commit(dict(files)), most=11)
    many = text(*(f"f{n}" for n in range(10_000)))
    assert "10000 functions are more than the 200 allowed" in refusal(commit({"stack.yml": many}))


def test_mistakes_that_are_told_are_bounded(commit: Commit) -> None:
    files: dict[str, Content] = {
        f"{n}/stack.yml": text(*(f"F{i}" for i in range(150))) for n in range(20)
    }
    assert refusal(commit(files)).count("is not a function name") == 100


def test_the_owners_variables_are_in_all_files(commit: Commit) -> None:
    each = text("${NAME}-a").replace("lang: py", "lang: ${LANG_:-node}")
    source = commit({"a/stack.yml": each, "b/stack.yml": each.replace("-a", "-b")})
    functions = [f for stack in found(source, NAME="x").stacks for f in stack.functions]
    assert [(each.name, each.lang) for each in functions] == [("x-a", "node"), ("x-b", "node")]


def test_templates_are_read_with_their_lines(commit: Commit) -> None:
    named = """configuration:
  templates:
    - name: golang-http
      source: https://example.com/go.git#v1
    - name: node
"""
    [stack] = found(commit({"stack.yml": text("a", more=named)})).stacks
    assert stack.templates == [
        TemplateSource("golang-http", "https://example.com/go.git#v1", 9),
        TemplateSource("node", "", 11),
    ]
    for wrong, why in {
        "configuration: {templates: {name: a}}": "has to be a list",
        "configuration: {templates: [{source: a}]}": "has no 'name:'",
        "configuration: {templates: [a]}": "has to be a mapping",
        f"configuration: {{templates: [{', '.join(['{name: a}'] * 101)}]}}": "100 are allowed",
    }.items():
        assert why in refusal(commit({"stack.yml": text("a", more=f"{wrong}\n")}))


def test_a_large_commit_is_looked_through_within_bounds(
    commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacks, "_MAX_SEEN", 1000)
    source = commit({f"d{n % 10}/{n}/x": "" for n in range(600)})
    assert "more than 1000 files and folders below it: add one there" in refusal(source)


# Build secrets.


def secretive(given: dict[str, str]) -> StackFunction:
    return StackFunction(
        name="fn", lines={"name": 1}, lang="dockerfile", folder="sub", build_secrets=given
    )


def owned(*names: str) -> Callable[[Sequence[str]], dict[str, str]]:
    def versions(wanted: Sequence[str]) -> dict[str, str]:
        if missing := [each for each in wanted if each not in names]:
            raise NotFound(f"no secret {', '.join(missing)}")
        return dict.fromkeys(wanted, "v1")

    return versions


def test_a_build_secret_is_a_file_of_the_commit_or_a_secret(commit: Commit, tmp_path: Path) -> None:
    source = commit({"sub/token": "from the commit", "other/token": "elsewhere"})
    fn = secretive({"a": "token", "b": "./token", "c": "api-key", "d": "../other/token"})
    stamps = [buildsecrets.stamp(source, fn, each, owned("api-key", "token")) for each in "abcd"]
    oid = source.tree_id("sub/token")
    other = source.tree_id("other/token")
    assert stamps == [f"file {oid}", f"file {oid}", "secret v1", f"file {other}"]
    (tmp_path / "memory").mkdir()
    asked: list[str] = []

    def value_of(name: str) -> bytes:
        asked.append(name)
        return f"<{name}>".encode()

    files = buildsecrets.write(source, fn, tmp_path / "s", tmp_path / "memory", value_of)
    for each in ("again", "and-again"):
        buildsecrets.write(source, fn, tmp_path / each, tmp_path / "memory", value_of)
    assert asked == ["api-key"], "once for all functions of a release"
    assert {each.name for each in (tmp_path / "s").iterdir()} == {"0", "1", "3"}
    assert [each.name for each in (tmp_path / "memory").iterdir()] == ["api-key"]
    assert [files[each].read_text() for each in "abcd"] == [
        *("from the commit", "from the commit", "<api-key>", "elsewhere")
    ]
    assert {each.stat().st_mode & 0o777 for each in files.values()} == {0o600}
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("gone", "no secret gone"),
        ("./gone", "has no file 'sub/gone', and it is no name of a secret"),
        ("link", "is a symbolic link"),
        ("folder", "is a folder: name a file"),
        ("huge", "512001 bytes, and 512000 are allowed"),
        ("../../etc/passwd", "has no file"),
        ("/etc/passwd", "has no file"),
    ],
)
def test_build_secrets_that_cannot_be(commit: Commit, given: str, why: str) -> None:
    source = commit(
        {
            "sub/link": (LINK, "../../../etc/passwd"),
            "sub/folder/x": "y",
            "sub/huge": b"x" * 512_001,
        }
    )
    with pytest.raises(SlipwayError, match=why):
        buildsecrets.stamp(source, secretive({"a": given}), "a", owned())

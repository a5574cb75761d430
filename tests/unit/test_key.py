"""The build key: what changes it, what does not, and what it says of itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.key import BuildKey, build_key, key_of, platform_inputs, why
from builder.source import Source
from builder.templates import Template, find_template
from core.models import Resources
from core.stackfile import StackFunction
from tests.unit.repositories import EXECUTABLE, BareRepository, Content

FILES: dict[str, Content] = {"fn/handler.py": "x", "common/lib.py": "y", "other/z": "z"}


@pytest.fixture
def repository(tmp_path: Path) -> BareRepository:
    return BareRepository(tmp_path / "repository.git")


@pytest.fixture
def template(tmp_path: Path) -> Template:
    folder = tmp_path / "templates" / "py"
    folder.mkdir(parents=True)
    (folder / "template.yml").write_text(
        "language: python\nfprocess: python3 index.py\n"
        "build_options:\n- {name: dev, packages: [gcc]}\n- {name: dev2, packages: [gcc]}\n"
    )
    return find_template("py", folder.parent)


@pytest.fixture
def function() -> StackFunction:
    return StackFunction(name="fn", lang="py", handler="fn", lines={"name": 1}, copy=["common"])


def key_at(
    repository: BareRepository, files: dict[str, Content], of: StackFunction, template: Template
) -> BuildKey:
    commit = repository.commit(files)
    with Source(repository.path, commit, max_files=99, max_bytes=9999) as source:
        return build_key(source, of, template)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"fn/handler.py": "x2"}, ["handler"]),
        ({"fn/handler.py": (EXECUTABLE, "x")}, ["handler"]),
        ({"fn/new": ""}, ["handler"]),
        ({"common/lib.py": "y2"}, ["copy common"]),
        ({"common/lib.py": "y2", "fn/new": ""}, ["copy common", "handler"]),
        ({"other/z": "z2", "README": "new"}, []),
        ({"fn/build/x": "", "fn/template": "y"}, []),
        ({"fn/build/x": "", "fn/deep/build": "y"}, ["handler"]),
        ({}, []),
    ],
)
def test_what_of_a_commit_counts(
    repository: BareRepository,
    template: Template,
    function: StackFunction,
    changed: dict[str, Content],
    named: list[str],
) -> None:
    before = key_at(repository, FILES, function, template)
    after = key_at(repository, {**FILES, **changed}, function, template)
    assert why(before.inputs, after.inputs) == named
    assert (before.digest == after.digest) == (not named)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"build_args": {"A": "1"}}, ["build_args A"]),
        ({"build_options": ["dev"]}, ["build_options"]),
        ({"copy": []}, ["copy common"]),
        ({"copy": ["common", "other"]}, ["copy other"]),
        ({"handler": "other"}, ["handler"]),
        ({"name": "renamed"}, []),
        ({"environment": {"A": "1"}, "labels": {"a": "b"}, "secrets": ["s"]}, []),
        ({"limits": Resources(memory="64Mi"), "fprocess": "x", "image": "y"}, []),
    ],
)
def test_what_of_a_stack_file_counts(
    repository: BareRepository,
    template: Template,
    function: StackFunction,
    fields: dict[str, object],
    named: list[str],
) -> None:
    before = key_at(repository, FILES, function, template)
    changed = msgspec.structs.replace(function, **fields)
    assert why(before.inputs, key_at(repository, FILES, changed, template).inputs) == named


def test_a_copied_file_counts_with_its_mode(
    repository: BareRepository, template: Template, function: StackFunction
) -> None:
    copying = msgspec.structs.replace(function, copy=["common/lib.py"])
    before = key_at(repository, FILES, copying, template)
    executable: dict[str, Content] = {**FILES, "common/lib.py": (EXECUTABLE, "y")}
    after = key_at(repository, executable, copying, template)
    assert why(before.inputs, after.inputs) == ["copy common/lib.py"]


def test_a_templates_samples_do_not_count(
    repository: BareRepository, template: Template, function: StackFunction
) -> None:
    before = key_at(repository, FILES, function, template)
    samples = template.folder / "function"
    samples.mkdir()
    for name in ("handler.py", "handler_test.py"):
        (samples / name).write_text("new")
    same = find_template("py", template.folder.parent)
    assert key_at(repository, FILES, function, same) == before
    (samples / "__init__.py").write_text("new")
    other = find_template("py", template.folder.parent)
    assert why(before.inputs, key_at(repository, FILES, function, other).inputs) == [
        "template files"
    ]


def test_a_template_counts_by_its_files(
    repository: BareRepository, template: Template, function: StackFunction
) -> None:
    before = key_at(repository, FILES, function, template)
    (template.folder / "index.py").write_text("new")
    after = key_at(repository, FILES, function, find_template("py", template.folder.parent))
    assert why(before.inputs, after.inputs) == ["template files"]


def test_options_that_add_the_same_are_the_same(
    repository: BareRepository, template: Template, function: StackFunction
) -> None:
    one, two = (msgspec.structs.replace(function, build_options=[o]) for o in ("dev", "dev2"))
    assert key_at(repository, FILES, one, template) == key_at(repository, FILES, two, template)


def test_values_of_build_arguments_are_not_kept() -> None:
    key = key_of({"build_args TOKEN": "hunter2"})
    assert "hunter2" not in str(key.inputs)
    assert key != key_of({"build_args TOKEN": "hunter3"})


def test_the_platform_is_named() -> None:
    assert set(platform_inputs()) == {"builder", "python", "node", "uv", "machine"}
    assert all(platform_inputs().values())


def test_further_inputs(
    repository: BareRepository, template: Template, function: StackFunction
) -> None:
    commit = repository.commit(FILES)
    with Source(repository.path, commit, max_files=99, max_bytes=9999) as source:
        plain = build_key(source, function, template)
        based = build_key(source, function, template, extra={"base image": "sha256:1"})
    assert why(plain.inputs, based.inputs) == ["base image"]


@pytest.fixture
def many(repository: BareRepository) -> Iterator[Source]:
    commit = repository.commit({f"f{n}/handler.py": str(n) for n in range(150)})
    with Source(repository.path, commit, max_files=99, max_bytes=9999) as source:
        yield source


def test_a_hundred_and_fifty_keys_are_quick(many: Source, template: Template) -> None:
    functions = [
        StackFunction(name=f"f{n}", lang="py", handler=f"f{n}", lines={"name": 1})
        for n in range(150)
    ]
    begun = time.process_time()
    keys = {build_key(many, each, template).digest for each in functions}
    assert time.process_time() - begun < 1  # seconds of our own CPU: about 0.05
    assert len(keys) == 150


inputs = st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=6)


@given(inputs, inputs)
def test_keys_are_equal_exactly_when_their_inputs_are(
    one: dict[str, str], two: dict[str, str]
) -> None:
    assert (key_of(one).digest == key_of(two).digest) == (one == two)
    assert key_of(one) == key_of(dict(reversed(one.items())))
    assert (why(one, two) == []) == (one == two)

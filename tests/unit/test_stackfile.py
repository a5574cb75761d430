"""Stack files, good and bad: what is read, and what the user is told."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import stackfile
from core.errors import InvalidStack
from core.models import Resources
from core.stackfile import Stack, StackFunction, parse, read_environment_file

HEAD = "version: 1.0\nprovider:\n  name: openfaas\n"


def read(text: str | bytes, **variables: str) -> Stack:
    data = text if isinstance(text, bytes) else text.encode()
    return parse(data, "stack.yml", max_functions=200, variables=variables)[0]


def one(fields: str, **variables: str) -> StackFunction:
    """The function with these fields beside its lang and handler; they begin in line 8."""
    body = "".join(f"    {line}\n" for line in fields.splitlines())
    text = f"{HEAD}functions:\n  fn:\n    lang: python3-http\n    handler: ./fn\n{body}"
    return read(text, **variables).functions[0]


def told(text: str | bytes, **variables: str) -> list[tuple[int, str]]:
    """The mistakes of a file as (line, text)."""
    with pytest.raises(InvalidStack) as caught:
        read(text, **variables)
    return [(mistake.line, mistake.text) for mistake in caught.value.mistakes]


def told_of(fields: str) -> list[tuple[int, str]]:
    """The mistakes of these fields, their own first line being 1."""
    with pytest.raises(InvalidStack) as caught:
        one(fields)
    return [(mistake.line - 7, mistake.text) for mistake in caught.value.mistakes]


def warned(text: str) -> list[tuple[int, str]]:
    _, warnings = parse(text.encode(), "stack.yml", max_functions=200)
    return [(warning.line, warning.text) for warning in warnings]


def function(name: str, more: str = "") -> str:
    return f"  {name}:\n    lang: python3-http\n    handler: ./{name}\n{more}"


# What is read.


def test_all_fields_are_carried() -> None:
    fn = one(
        """\
image: fn:latest
fprocess: python3 index.py
namespace: alice
environment:
  A: x
environment_file:
  - env.yml
  - ./more/env.yml
secrets: [key, my.other-key]
labels:
  com.example/x: y
annotations: {topic: t}
constraints: ["node.role == worker"]
limits: {memory: 128Mi, cpu: 500m}
requests: {cpu: 0.5}
readonly_root_filesystem: true
build_args: {GO111MODULE: off}
build_options: [dev]
copy: [./common/, data/x.json]
skip_build: false"""
    )
    assert fn.handler == "fn"
    assert (fn.image, fn.fprocess, fn.namespace) == ("fn:latest", "python3 index.py", "alice")
    assert fn.environment == {"A": "x"}
    assert fn.environment_file == ["env.yml", "more/env.yml"]
    assert fn.secrets == ["key", "my.other-key"]
    assert fn.labels == {"com.example/x": "y"}
    assert fn.annotations == {"topic": "t"}
    assert fn.constraints == ["node.role == worker"]
    assert fn.limits == Resources(memory="128Mi", cpu="500m")
    assert fn.requests == Resources(cpu="0.5")
    assert fn.readonly_root_filesystem is True
    assert fn.build_args == {"GO111MODULE": "off"}
    assert fn.build_options == ["dev"]
    assert fn.copy == ["common", "data/x.json"]
    assert fn.line("secrets") == 16
    assert fn.line("name") == fn.line("never written") == 5


def test_what_is_absent_stays_absent() -> None:
    fn = one("environment:\nlabels: ~\nlimits: null")
    for field in ("environment", "labels", "annotations", "secrets", "limits", "requests"):
        assert getattr(fn, field) is None, field
    assert fn.readonly_root_filesystem is None


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("on", "on"),
        ("1.10", "1.10"),
        ("0644", "0644"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("0x1F", "0x1F"),
        ("'null'", "null"),
        ('"a\\tb\\u00e9"', "a\tbé"),
        ("'it''s'", "it's"),
        ("!!str 5", "5"),
        ("", ""),
        ("~", ""),
        ("|\n  two\n  lines", "two\nlines\n"),
    ],
)
def test_values_come_back_as_written(written: str, value: str) -> None:
    indented = written.replace("\n", "\n  ")
    assert one(f"environment:\n  A: {indented}").environment == {"A": value}


def test_version_is_optional_and_the_order_is_kept() -> None:
    text = "provider: {name: openfaas}\nfunctions:\n" + function("b") + function("a")
    assert [each.name for each in read(text).functions] == ["b", "a"]


def test_byte_order_mark_and_windows_line_ends() -> None:
    text = b"\xef\xbb\xbf" + (HEAD + "functions:\n" + function("a")).replace("\n", "\r\n").encode()
    assert read(text).functions[0].handler == "a"


def test_build_args_as_a_list() -> None:
    assert one("build_args:\n- A=1\n- B=x=y\n- C=").build_args == {"A": "1", "B": "x=y", "C": ""}


def test_configuration_copy_is_every_functions() -> None:
    text = f"{HEAD}functions:\n{function('a')}{function('b', '    copy: [own]')}\n"
    a, b = read(f"{text}configuration:\n  copy:\n    - ./common\n").functions
    assert a.copy == ["common"]
    assert b.copy == ["common", "own"]
    assert a.line("copy") == 13


def test_merge_keys() -> None:
    text = f"""{HEAD}
x-env: &env
  environment: &variables {{A: on, B: "2"}}
x-base: &base
  lang: node
  limits: {{memory: 64Mi}}
functions:
  one:
    <<: [*base, *env]
    handler: one
  two:
    lang: python3-http
    <<: *base
    handler: two
    environment:
      <<: *variables
      A: off
"""
    one_, two = read(text).functions
    assert one_.lang == "node"
    assert one_.environment == {"A": "on", "B": "2"}
    assert two.lang == "python3-http", "what stands in the mapping itself wins"
    assert two.environment == {"A": "off", "B": "2"}
    assert warned(text) == []


# Substitution.


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("${X}", "x"),
        ("${X:-d}", "x"),
        ("${Y:-d}", "d"),
        ("${Y:=d}", "d"),
        ("${Y=d}", "d"),
        ("${EMPTY:-d}", "d"),
        ("${Y:-}", ""),
        ("a${X}b${X}c", "axbxc"),
        ("${Y:-${X}-suffix}", "x-suffix"),
        ("${Y:-pre${Z:-${X}}}", "prex"),
        ("$X", "$X"),
        ("$${X}", "${X}"),
        ("100$", "100$"),
        ("a}b", "a}b"),
    ],
)
def test_substitution(written: str, value: str) -> None:
    fn = one(f"environment:\n  A: '{written}'", X="x", EMPTY="")
    assert fn.environment == {"A": value}


def test_substitution_sees_no_variables_but_those_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_SECRET_OF_THE_BUILDER", "hunter2")
    text = f"{HEAD}functions:\n{function('a')}    fprocess: x${{SLIPWAY_SECRET_OF_THE_BUILDER}}\n"
    assert read(text).functions[0].fprocess == "x"
    assert warned(text) == [
        (
            8,
            "${SLIPWAY_SECRET_OF_THE_BUILDER} is not set and was read as empty: "
            "give it a default with ${SLIPWAY_SECRET_OF_THE_BUILDER:-…}",
        )
    ]


@pytest.mark.parametrize("form", ["${X-d}", "${X+d}", "${X:?d}", "${X:+d}", "${X@Q}", "${!X}"])
def test_other_forms_of_substitution_are_mistakes(form: str) -> None:
    [(line, text)] = told_of(f"fprocess: {form}")
    assert line == 1
    assert form in text
    assert "not substituted" in text


def test_an_unclosed_form_is_a_mistake() -> None:
    [(line, text)] = told_of("fprocess: ${X:-abc\nimage: x")
    assert (line, "no closing" in text) == (1, True)


def test_a_variable_of_several_lines_cannot_add_fields() -> None:
    [(line, text)] = told(f"{HEAD}functions: ${{X}}\n", X="\n  a: {}")
    assert (line, "several lines" in text) == (4, True)


def test_substitution_that_grows_is_bounded() -> None:
    [(_, text)] = told("${X}" * 1000, X="x" * 10_000)
    assert "too large" in text


# Mistakes, all at once, with lines.


def test_all_mistakes_are_told_at_once() -> None:
    text = """\
version: 2.0
provider:
  name: faas
functions:
  Upper:
    lang: node
    handler: up
  ok:
    handler: ../up
    limits: {memory: lots, cpu: -1}
  third:
    lang: node
    handler: /etc
    readonly_root_filesystem: maybe
    environment: [A]
    skip_build: true
    build_secrets: {x: ../../etc/passwd}
"""
    mistakes = told(text)
    assert [line for line, _ in mistakes] == [1, 3, 5, 8, 9, 10, 10, 13, 14, 15, 16, 17]
    with pytest.raises(InvalidStack, match=r"stack.yml has 12 mistakes:\n  line 1: version '2.0'"):
        read(text)


def test_what_counts_otherwise_here_is_warned_of() -> None:
    more = "    readonly_root_filesystem: false\n"
    text = f"{HEAD}functions:\n{function('a')}{more}"
    assert warned(text) == [
        (8, "a.readonly_root_filesystem: false has no effect: only /tmp can be written to")
    ]
    assert read(text).functions[0].readonly_root_filesystem is False
    assert not warned(text.replace("false", "true"))


@pytest.mark.parametrize("lang", ["dockerfile", "Dockerfile", "DockerFile"])
def test_dockerfile_is_known_in_any_case(lang: str) -> None:
    text = f"{HEAD}functions:\n  a:\n    lang: {lang}\n    handler: ./a\n"
    assert read(text).functions[0].lang == "dockerfile"


def test_what_is_right_is_read_beside_mistakes_so_that_it_is_looked_up_too() -> None:
    head = HEAD.replace("1.0", "2.0")
    text = f"{head}functions:\n{function('a')}  b: {{lang: node}}\n{function('c')}"
    reading = stackfile.read(text.encode(), "stack.yml", max_functions=200)
    assert [each.name for each in reading.stack.functions] == ["a", "c"]
    assert len(reading.mistakes) >= 2


def test_two_functions_of_one_name() -> None:
    text = f"{HEAD}functions:\n{function('a')}{function('b')}{function('a')}"
    assert told(text) == [
        (11, "'a' stands here twice: it is in line 5 already; rename or remove one")
    ]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("..", "not a function name"),
        ("a/b", "not a function name"),
        ("../x", "not a function name"),
        ("Hello", "lower-case"),
        ("a.b", "not a function name"),
        ("-a", "not a function name"),
        ('"a\\nb"', "not a function name"),
        ("x" * 200, "63 characters"),
        ("x" * 64, "63 characters"),
        ("''", "not a function name"),
        ("é", "not a function name"),
    ],
)
def test_names_of_functions(name: str, why: str) -> None:
    mistakes = told(f"{HEAD}functions:\n  {name}:\n    lang: x\n    handler: y\n")
    assert mistakes[0][0] == 5
    assert why in mistakes[0][1]
    assert len(mistakes[0][1]) < 300


def test_the_longest_name() -> None:
    assert read(f"{HEAD}functions:\n{function('x' * 63)}").functions[0].name == "x" * 63


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/etc", "not a path within the repository"),
        ("..", "leads out"),
        ("../other", "leads out"),
        ("a/../../b", "leads out"),
        ("./.git/hooks", "git's own folder"),
        ("a/.GIT/b", "git's own folder"),
        ('"a\\\\..\\\\b"', "not a path within the repository"),
        ('"a\\nb"', "one line"),
        ('"a\\0b"', "NUL"),
        ("'  '", "one line"),
        ("[a]", "single value"),
        ("x" * 5000, "one line"),
    ],
)
def test_handlers_outside_the_repository(path: str, why: str) -> None:
    [(line, text)] = told(f"{HEAD}functions:\n  fn:\n    lang: x\n    handler: {path}\n")
    assert line == 7
    assert why in text


def test_handlers_are_normalised() -> None:
    for written, path in {"./a/": "a", "a//b/./c": "a/b/c", "a/../b": "b", ".": "."}.items():
        text = f"{HEAD}functions:\n  fn:\n    lang: x\n    handler: {written}\n"
        assert read(text).functions[0].handler == path


@pytest.mark.parametrize(
    ("fields", "line", "why"),
    [
        ("environment:\n  'A=B': x", 2, "not a variable's name"),
        ("environment:\n  1A: x", 2, "not a variable's name"),
        ("environment:\n  A: [x]", 2, "single value"),
        ('environment:\n  A: "a\\0b"', 2, "NUL"),
        (f"environment:\n  A: {'x' * 140_000}", 2, "longer than"),
        ("environment: text", 1, "mapping"),
        ("secrets: [Bad_Name]", 1, "not the name of a secret"),
        ("secrets: [../../etc/passwd]", 1, "not the name of a secret"),
        ("secrets: key", 1, "list"),
        ("secrets: [[a]]", 1, "single value"),
        ("secrets:\n  - good\n  - Bad", 3, "not the name of a secret"),
        (f"secrets: [{', '.join(f's{n}' for n in range(257))}]", 1, "256 are allowed"),
        ("labels: [a]", 1, "mapping"),
        ("labels: {'': a}", 1, "not a name"),
        ("limits: {memory: 0}", 1, "memory"),
        ("limits:\n  memory: 12 apples", 2, "128Mi"),
        ("limits: {cpu: 0m}", 1, "cpu"),
        ("requests: {cpu: 1e3}", 1, "cpu"),
        ("limits: 128Mi", 1, "mapping"),
        ("namespace: Not_One", 1, "not a namespace"),
        ("build_args: [A]", 1, "NAME=value"),
        ("build_args: {'a b': c}", 1, "not the name of a build argument"),
        ("copy: ['.']", 1, "whole repository"),
        ("copy: [../x]", 1, "leads out"),
        ("environment_file: [/etc/passwd]", 1, "not a path within"),
        ("readonly_root_filesystem: 1", 1, "true or false"),
        ("build_secrets:\n  pip: ../../etc/passwd", 2, "leads out of the repository"),
        ("build_secrets:\n  pip: /etc/passwd", 2, "not a path within"),
        ("build_secrets:\n  'a,src=/etc/passwd': x", 2, "is not an id"),
        ("build_secrets: {registries: x}", 1, "is not an id"),
        ("build_secrets: [a]", 1, "mapping"),
        (f"build_secrets: {{{', '.join(f'i{n}: s' for n in range(33))}}}", 1, "32 are allowed"),
        ("skip_build: yes", 1, "no 'image:'"),
        ("image: ['']", 1, "single value"),
        ("fprocess: !!python/object/apply:os.system [id]", 1, "the tag"),
        ("labels: {a: 1, a: 2}", 1, "twice"),
        ("labels: {<<: text}", 1, "merges mappings"),
    ],
)
def test_mistakes_of_a_function(fields: str, line: int, why: str) -> None:
    mistakes = told_of(fields)
    assert mistakes[0][0] == line
    assert why in mistakes[0][1]


def test_paths_count_once_and_are_bounded() -> None:
    again = ", ".join(["d", "./d"] * 45_000)
    begun = time.monotonic()
    assert one(f"copy: [{again}]").copy == ["d"]
    assert time.monotonic() - begun < 60
    assert one("environment_file: [a, b, ./a]").environment_file == ["b", "a"], "later ones win"
    hundred = ", ".join(f"d{number}" for number in range(100))
    assert len(one(f"copy: [{hundred}, d0]").copy) == 100
    for key in ("copy", "environment_file"):
        [(line, why)] = told_of(f"fprocess: x\n{key}: [{hundred}, d100]")
        assert line == 2
        assert f"fn.{key} names 101 paths, and 100 are allowed: name folders" in why
    copies = f"configuration: {{copy: [d, e]}}\nfunctions:\n{function('a', '    copy: [e, f]')}"
    assert read(f"{HEAD}{copies}").functions[0].copy == ["d", "e", "f"]


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("com.slipway.egress", ["true", "false", "'False'"], ["no", "off", "0", "''", "flase"]),
        (
            "com.openfaas.health.http.path",
            ["/", "/ready?x=1", "/_/health"],
            ["ready", "''", "/a b", '"/a\\r\\nX: y"', "/ä", f"/{'x' * 1024}"],
        ),
        (
            "com.openfaas.health.http.initialDelay",
            ["30", "30s", "1m30s", "500ms"],
            ["soon", "-1s", "''", "9" * 400],
        ),
    ],
)
def test_annotations_that_mean_something(key: str, good: list[str], bad: list[str]) -> None:
    for value in good:
        assert (one(f"annotations: {{{key}: {value}}}").annotations or {})[key]
    for value in bad:
        [(line, why)] = told_of(f"annotations:\n  topic: {value}\n  {key}: {value}")
        assert line == 3
        assert f"fn.annotations.{key} is " in why
        assert "write " in why


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("min", ["-1", "many", "1.5", "9" * 400, "''"]),
        ("zero", ["maybe", "''"]),
        ("zero-duration", ["soon", "0s"]),
        ("type", ["queue"]),
        ("target", ["0", "-5"]),
    ],
)
def test_labels_by_which_a_function_is_scaled(key: str, bad: list[str]) -> None:
    key = f"com.openfaas.scale.{key}"
    for value in bad:
        [(line, why)] = told_of(f"labels:\n  team: {value}\n  {key}: {value}")
        assert line == 3
        assert f"fn.labels.{key} is " in why
        assert "write " in why
    [(line, why)] = told_of("labels:\n  com.openfaas.scale.max: 2\n  com.openfaas.scale.min: 3")
    assert (line, "above com.openfaas.scale.max, 2" in why) == (3, True)


def test_numbers_of_four_hundred_digits() -> None:
    many = "9" * 400
    found = told_of(f"limits: {{memory: {many}, cpu: {many}}}\nrequests: {{memory: {many}Gi}}")
    assert [line for line, _ in found] == [1, 1, 2]
    assert all("write a size" in why or "write CPUs" in why for _, why in found)
    assert one("requests: {cpu: 5000}").requests == Resources(cpu="5000")


def test_lang_and_handler_are_required() -> None:
    mistakes = told(f"{HEAD}functions:\n  a:\n    image: x\n  b:\n")
    assert [line for line, _ in mistakes] == [5, 5, 7, 7]
    assert "lang" in mistakes[0][1]


def test_too_many_functions() -> None:
    text = f"{HEAD}functions:\n" + "".join(function(f"f{number}") for number in range(4))
    with pytest.raises(InvalidStack, match="4 functions are more than the 3 allowed"):
        parse(text.encode(), "stack.yml", max_functions=3)


# Files that are no stack files.


@pytest.mark.parametrize(
    ("data", "line", "why"),
    [
        (b"", 0, "empty"),
        (b"# nothing\n", 0, "empty"),
        (b"functions: [a", 2, "not YAML"),
        (b"a: b: c", 1, "not YAML"),
        (b"\tx: 1", 1, "not YAML"),
        (b"a: 1\nb: \xff", 2, "UTF-8"),
        (b"a: \x01", 0, "not YAML"),
        (b"\x00\x00", 0, "not YAML"),
        (b"\x89PNG\r\n\x1a\n", 1, "UTF-8"),
        (b"- a\n- b\n", 1, "mapping"),
        (b"just text", 1, "mapping"),
        (b"a: 1\n---\nb: 2\n", 2, "second document"),
        (b"a: *nowhere", 1, "does not exist above it"),
        (b"a: &a [*a]", 1, "lies inside what it refers to"),
        (b"a: &a {<<: *a}", 1, "lies inside what it refers to"),
        (b"[" * 5000, 1, "nest"),  # newer libyaml refuses it first
        (b"a: " + b"{a: " * 100, 1, "levels deep"),
        (b"? [a]\n: b\n", 1, "plain text"),
        (b"x" * 10_000_000, 0, "10000000 bytes"),
        (b"a: [" + b"x," * 200_000 + b"]", 1, "more than 100000 values"),
        (b"provider: {name: openfaas}\n", 0, "or write 'functions: {}' to have none deployed"),
        (b"provider: {name: openfaas}\nfunctions: [a]\n", 2, "mapping"),
        (b"provider: {name: openfaas}\n", 0, "no 'functions:'"),
        (b"provider: {name: openfaas}\nfunctions:\nhi:\n  lang: node\n", 2, "indented"),
        (b"provider: {name: openfaas}\nfunctions:\n#  hi:\n", 2, "or write 'functions: {}'"),
        (b"provider: {name: openfaas}\nfunctions: null\n", 2, "or write 'functions: {}'"),
        (b"provider: openfaas\nfunctions: {a: }\n", 1, "mapping"),
    ],
)
def test_what_is_no_stack_file(data: bytes, line: int, why: str) -> None:
    begun = time.monotonic()
    mistakes = told(data)
    assert time.monotonic() - begun < 20
    assert any(at == line and why in text for at, text in mistakes), mistakes


def laughs(levels: int, width: int, merge: bool) -> str:
    """An exponential file: each level refers ``width`` times to the one below."""
    lines = ["a0: &a0 {k: v}" if merge else "a0: &a0 [x]"]
    for level in range(1, levels):
        many = ", ".join([f"*a{level - 1}"] * width)
        inner = f"{{<<: [{many}]}}" if merge else f"[{many}]"
        lines.append(f"a{level}: &a{level} {inner}")
    return "\n".join(lines)


@pytest.mark.parametrize("merge", [False, True])
def test_exploding_aliases(merge: bool) -> None:
    begun = time.monotonic()
    [(line, text)] = told(laughs(10, 9, merge))  # 81 aliases, 9**9 values
    assert "100000 values" in text
    assert line > 1
    [(_, text)] = told(laughs(60, 2, merge))  # 2**59 values, more than 100 aliases
    assert "values" in text or "aliases" in text
    assert time.monotonic() - begun < 60


def test_too_many_aliases() -> None:
    [(_, text)] = told("a: &a x\n" + "".join(f"k{i}: *a\n" for i in range(101)))
    assert "more than 100 aliases" in text


def test_aliases_weigh_by_their_bytes() -> None:
    blob = "x" * 300_000
    few, many = (", ".join(["*a"] * times) for times in (5, 9))
    read(f"{HEAD}x-a: &a {blob}\nx-b: [{few}]\nfunctions:\n{function('fn')}")
    for text in (
        f"a: &a {blob}\nb: [{many}]",
        f"a: &a {{k: {blob}}}\nb: [{', '.join(['{<<: *a}'] * 9)}]",
    ):
        [(line, why)] = told(text)
        assert line == 2
        assert "more than 2000000 bytes of text once its aliases are written out: repeat" in why


def test_a_file_full_of_mistakes_is_answered_in_bounds() -> None:
    assert len(told("".join(f"k{i}: !t x\n" for i in range(50_000)))) <= 200
    unknown = "".join(f"  k{i}: x\n" for i in range(40_000))
    _, warnings = parse(
        f"{HEAD}functions:\n{function('a')}configuration:\n{unknown}".encode(),
        "stack.yml",
        max_functions=9,
    )
    assert len(warnings) == 100


# Warnings.


def test_what_has_no_effect_is_warned_of() -> None:
    text = f"""{HEAD}functions:
  a:
    lang: x
    handler: y
    image: ghcr.io/me/a:latest
    lables: {{a: b}}
    platforms: linux/arm64
  b:
    lang: x
    handler: y
    image: me/b:latest
configuration:
  templates:
    - name: x
      source: https://example.com/x.git
unheard: of
"""
    warnings = warned(text)
    assert [line for line, _ in warnings] == [8, 9, 10, 19]
    assert "nothing is pushed to ghcr.io" in warnings[0][1]
    assert "did you mean 'labels'" in warnings[1][1]
    assert read(text).functions[0].platforms == "linux/arm64"


def test_labels_of_scaling_that_are_none_are_told() -> None:
    text = """\
provider:
  name: openfaas
functions:
  f:
    lang: x
    handler: f
    labels:
      com.openfaas.scale.targett: "5"
      com.openfaas.scale.0: "1"
      com.example.scale: "2"
"""
    (first, told), (second, all_) = warned(text)
    assert (first, second) == (8, 9)
    assert "did you mean com.openfaas.scale.target?" in told
    assert "zero-duration" in all_


# Environment files.


def test_environment_files() -> None:
    assert read_environment_file(b"environment:\n  A: on\n  B: ${A}\n", "e.yml") == {
        "A": "on",
        "B": "${A}",
    }
    assert read_environment_file(b"environment:\n", "e.yml") == {}
    for bad, why in {
        b"A: x": "no 'environment:'",
        b"": "no 'environment:'",
        b"environment: [a]": "mapping",
        b"environment: {'A B': c}": "not a variable's name",
        b"\xff": "UTF-8",
        b"a: [": "not YAML",
    }.items():
        with pytest.raises(InvalidStack, match=why):
            read_environment_file(bad, "e.yml")


# Anything at all.


@given(st.binary(max_size=400))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    try:
        read(data)
    except InvalidStack as error:
        if not error.mistakes:
            raise AssertionError from error


@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True),
        st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=40),
        max_size=5,
    )
)
def test_quoted_values_come_back(variables: dict[str, str]) -> None:
    quoted = "".join(
        "  {}: '{}'\n".format(name, value.replace("'", "''").replace("$", "$$"))
        for name, value in variables.items()
    )
    fn = one(f"environment:\n{quoted}" if quoted else "environment: {}")
    read_back = fn.environment or {}
    assert read_back.keys() == variables.keys()
    for name, value in variables.items():
        if value == value.strip() and "\u2028" not in value and "\u2029" not in value:
            assert read_back[name] == value


def test_a_file_that_says_so_has_no_functions() -> None:
    text = "provider: {name: openfaas}\nfunctions: {}\n"
    stack, warnings = parse(text.encode(), "stack.yml", max_functions=9)
    assert stack.functions == []
    assert [(each.line, "nothing is deployed" in each.text) for each in warnings] == [(2, True)]


def test_where_a_function_moves_from_is_the_name_of_a_repository() -> None:
    text = "provider: {{name: openfaas}}\nfunctions:\n  fn:\n    lang: node\n    handler: ./fn\n"
    text += "    annotations: {{com.slipway.takes-over: {}}}\n"
    stack, _ = parse(text.format("old-fns").encode(), "stack.yml", max_functions=9)
    assert stack.functions[0].takes_over == "old-fns"
    with pytest.raises(InvalidStack, match=r"line 6: .*without its owner"):
        parse(text.format("alice/fns").encode(), "stack.yml", max_functions=9)

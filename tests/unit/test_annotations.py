"""Failures at their places: out of what the real pytest, unittest and node print."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from builder import node_dependencies
from core.bundle import HOME
from core.errors import InvalidStack, Mistake
from forges import Annotation
from gateway.reports.annotations import MOST, of_stack, of_tests

PYTHON = {
    "handler.py": "def divide(a, b):\n    return a // b\n",
    "test_handler.py": (
        "import unittest\n"
        "from handler import divide\n"
        "\n"
        "def test_wrong():\n"
        "    print('a line: 1')\n"
        "    assert divide(4, 2) == 3\n"
        "\n"
        "def test_raises():\n"
        "    divide(1, 0)\n"
        "\n"
        "def test_fine():\n"
        "    assert divide(1, 1) == 1\n"
        "\n"
        "class Tests(unittest.TestCase):\n"
        "    def test_equal(self):\n"
        "        self.assertEqual(divide(4, 2), 5, 'no')\n"
    ),
}
OF_PYTEST = [
    Annotation(path="fns/hello/test_handler.py", line=6, message="assert 2 == 3\n+  where …"),
    Annotation(path="fns/hello/handler.py", line=2, message="ZeroDivisionError: …"),
    Annotation(path="fns/hello/test_handler.py", line=16, message="AssertionError: 2 != 5 : no"),
]
NODE = {
    "handler.js": "module.exports = (a) => a + 1;\n",
    "handler.test.js": (
        "const test = require('node:test');\n"
        "const assert = require('node:assert');\n"
        "const handler = require('./handler');\n"
        "test('adds', () => {\n"
        "  assert.strictEqual(handler(1), 3);\n"
        "});\n"
        "test('throws', () => { handler.x.y; });\n"
    ),
}
OF_NODE = [
    Annotation(path="fns/hello/handler.test.js", line=5, message="Expected values …"),
    Annotation(path="fns/hello/handler.test.js", line=7, message="Cannot read properties …"),
]


def printed(folder: Path, files: Mapping[str, str], argv: Sequence[str]) -> list[str]:
    """What a program prints of tests that fail, with the paths that it has in the sandbox."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    done = subprocess.run(
        argv,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "NO_COLOR": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode, done.stdout
    return done.stdout.replace(str(folder), f"{HOME}/function").splitlines()


def same(found: Sequence[Annotation], wanted: Sequence[Annotation]) -> None:
    assert [(each.path, each.line) for each in found] == [(w.path, w.line) for w in wanted], found
    for each, want in zip(found, wanted, strict=True):
        beginning = want.message.removesuffix("…")
        assert each.message.startswith(beginning) or beginning in each.message, each


PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no"]


@pytest.mark.parametrize("more", [[], ["--tb=short"], ["-vv"], ["-q"]])
def test_pytest(tmp_path: Path, more: list[str]) -> None:
    same(of_tests(printed(tmp_path, PYTHON, [*PYTEST, *more]), "fns/hello"), OF_PYTEST)


def test_pytest_where_nothing_can_be_collected(tmp_path: Path) -> None:
    files = {"sub/test_a.py": "\nimport nosuch\n", "sub/test_b.py": "def x(:\n    pass\n"}
    found = of_tests(printed(tmp_path, files, PYTEST), ".")
    same(
        found,
        [
            Annotation(path="sub/test_a.py", line=2, message="ModuleNotFoundError: …"),
            Annotation(path="sub/test_b.py", line=1, message="SyntaxError: invalid syntax"),
        ],
    )


def test_unittest(tmp_path: Path) -> None:
    lines = printed(tmp_path, PYTHON, [sys.executable, "-m", "unittest"])
    same(of_tests(lines, "fns/hello"), OF_PYTEST[2:])


@pytest.mark.parametrize("reporter", ["spec", "tap"])
def test_node(tmp_path: Path, reporter: str) -> None:
    node = node_dependencies.wheel() / "bin" / "node"
    argv = [str(node), "--test", f"--test-reporter={reporter}"]
    same(of_tests(printed(tmp_path, NODE, argv), "fns/hello"), OF_NODE)


def test_a_script_that_throws(tmp_path: Path) -> None:
    node = node_dependencies.wheel() / "bin" / "node"
    files = {"check.js": "require('node:assert').strictEqual(1, 2);\n"}
    (found,) = of_tests(printed(tmp_path, files, [str(node), "check.js"]), "h")
    assert (found.path, found.line) == ("h/check.js", 1)
    assert "1 !== 2" in found.message


def test_only_places_of_the_function_count() -> None:
    def of(*lines: str) -> list[tuple[str, int]]:
        return [(each.path, each.line) for each in of_tests(lines, "fns/hello")]

    error = "AssertionError: no"
    assert of('  File "/usr/lib/python3.11/x.py", line 3, in f', error) == []
    assert of('  File "/home/app/function/../../etc/x.py", line 3, in f', error) == []
    assert of("../x.py:3: AssertionError") == []
    assert of("node_modules/a/x.py:3: AssertionError") == []
    assert of("x.py:0: AssertionError") == []
    assert of("x.py:99999999999999999999: AssertionError") == []
    inner = '  File "/opt/slipway/layers/python/lib.py", line 9, in g'
    assert of('  File "/home/app/function/a/x.py", line 3, in f', inner, error) == [
        ("fns/hello/a/x.py", 3)
    ]
    assert of_tests(["x.py:3: AssertionError"], "") == [], "its folder is not known"


def test_what_is_printed_is_bounded_and_harmless() -> None:
    lines = [f"x.py:{n}: \x1b[31mAssertionError" for n in range(1, 100)]
    found = of_tests(lines, ".")
    assert len(found) == MOST
    assert found[0] == Annotation(path="x.py", line=1, message="AssertionError")
    assert of_tests(["(" * 100_000, "E " * 100_000, " Error" * 100_000] * 50, ".") == []
    long = ["E   " + "y" * 10_000] * 500 + ["x.py:3: AssertionError"]
    assert len(of_tests(long, ".")[0].message) < 5_000


def test_mistakes_of_stack_files() -> None:
    one = InvalidStack("stack.yml", [Mistake(3, "no such thing"), Mistake(0, "no functions")])
    other = InvalidStack("sub/stack.yml", [Mistake(7, "lang: \x07missing")])
    assert of_stack(f"{one}\n{other}") == [
        Annotation(path="stack.yml", line=3, message="no such thing"),
        Annotation(path="sub/stack.yml", line=7, message="lang: missing"),
    ]
    assert of_stack("a test: the tests failed\n  line 3: no") == []

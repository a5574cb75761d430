"""Why a step failed, as its release's closing line tells it."""

from __future__ import annotations

import pytest

from builder.reasons import LONGEST, cut, reason
from builder.testcommands import told_of
from core.settings import Settings
from gateway.progress import one_line

PYTEST = """\
============================= test session starts ==============================
platform linux -- Python 3.11.2, pytest-9.0.1, pluggy-1.6.0
rootdir: /home/app/function
collected 1 item

test_h.py F                                                              [100%]

=================================== FAILURES ===================================
____________________________________ test_x ____________________________________

    def test_x():
>       assert 'that' == 'this'
E       AssertionError: assert 'that' == 'this'
E
E         - this
E         + that

test_h.py:4: AssertionError
=========================== short test summary info ============================
FAILED test_h.py::test_x - AssertionError: assert 'that' == 'this'
============================== 1 failed in 0.02s ===============================
"""
NODE = """\
\N{INFORMATION SOURCE} duration_ms 105.894021

✖ failing tests:

test at a.test.js:1:52
✖ adds up (1.969567ms)
  AssertionError [ERR_ASSERTION]: Expected values to be strictly equal:

  2 !== 3

      at TestContext.<anonymous> (/home/app/function/a.test.js:1:88)
      at async Test.run (node:internal/test_runner/test:1404:7) {
    generatedMessage: true,
    code: 'ERR_ASSERTION',
    actual: 2,
    expected: 3,
    operator: 'strictEqual',
    diff: 'simple'
  }
"""
UV = """\
  \N{MULTIPLICATION SIGN} No solution found when resolving dependencies:
  ╰─▶ Because no-such-package-xyzzy-1 was not found in the package registry
      and you require no-such-package-xyzzy-1, we can conclude that your
      requirements are unsatisfiable.
"""
NPM_CI = """\
npm error code EUSAGE
npm error
npm error Missing: left-pad@1.3.0 from lock file
npm error
npm error Clean install a project
npm error
npm error Usage:
npm error npm ci
npm error   --install-links
"""


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (PYTEST, "FAILED test_h.py::test_x - AssertionError: assert 'that' == 'this'"),
        (PYTEST, "1 failed in 0.02s"),
        (NODE, "AssertionError [ERR_ASSERTION]: Expected values to be strictly equal: 2 !== 3"),
        (UV, "no-such-package-xyzzy-1 was not found in the package registry"),
        (NPM_CI, "it failed; npm error Missing: left-pad@1.3.0 from lock file"),
        ("x\n" * 1000 + "THE REAL ERROR\n", "; THE REAL ERROR"),
        ("the error\n" + "at f (/a/b.js:1:2)\n" * 100, "it failed; the error"),
        ("y" * 10_000, "it failed; yyyyyyyy"),
        ("", "it failed"),
    ],
)
def test_the_end_of_what_was_printed_is_told(output: str, told: str) -> None:
    found = reason("it failed", output.splitlines())
    assert len(one_line(found)) <= LONGEST
    shown = one_line(f"{'f' * 63} test: {found}")
    assert told in shown
    assert shown.endswith(found.splitlines()[-1]), "the closing line is not cut"


def test_a_long_cause_leaves_no_room() -> None:
    assert reason("x" * LONGEST, ["and more"]) == "x" * LONGEST
    assert cut("abcdef", 3) == "ab…"


def test_why_tests_failed() -> None:
    settings = Settings.from_env({})
    told = told_of("exited", 1, "pytest", settings, PYTEST.splitlines())
    assert told.startswith("the tests failed: pytest exited with status 1\n")
    told = told_of("exited", 1, "x" * 1000, settings, ["Network is unreachable", "the last"])
    assert "xxx… exited with status 1; tests run without a network" in told
    assert told.endswith("\nthe last")
    told = told_of("exited", 137, "pytest", settings, [])
    assert "were killed (exit status 137): they may have used more memory" in told
    told = told_of("output", 137, "pytest", settings, ["y"] * 25)
    assert f"they wrote more than {settings.build_output} bytes" in told

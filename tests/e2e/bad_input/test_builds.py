"""Builds that cannot end well: requirements, tests that run for ever, that flood, that eat."""

from __future__ import annotations

import time

import pytest

from tests.e2e.bad_input.victim import Victim, log_of
from tests.e2e.platform import handler, stack

NAME = "builds"
CHANGED = {f"{NAME}/handler.py": handler("changed")}
PASSING = "def test_it():\n    pass\n"


@pytest.fixture(scope="module", autouse=True)
def _pytest_is_there(victim: Victim) -> None:
    """pytest's layer is made once: downloading it is not what these tests measure."""
    victim.reset()
    victim.repository.commit({f"{NAME}/handler_test.py": PASSING})
    assert victim.push().last.startswith("slipway: live "), victim.platform.logs()


# -------------------------------------------------------------------------------- requirements


def test_requirements_that_contradict_each_other(victim: Victim) -> None:
    victim.refuses(
        {**CHANGED, f"{NAME}/requirements.txt": "humanize>=4\nhumanize<3\n"},
        f"{NAME} dependencies: the requirements do not resolve",
        "humanize>=4",
        "humanize<3",
        "your requirements are unsatisfiable",
    )


def test_a_version_that_there_is_not(victim: Victim) -> None:
    victim.refuses(
        {**CHANGED, f"{NAME}/requirements.txt": "humanize==99.99\n"},
        "the requirements do not resolve",
        "there is no version of humanize==99.99",
    )


def test_requirements_that_name_no_packages(victim: Victim) -> None:
    text = (
        "humanize @ git+https://localhost/a/b\nhttps://localhost/a.whl\n--index-url http://x/\n"
        "-e .\n-r /etc/passwd\n../other\n--pre\nhumanize; os_name == \n"
    )
    victim.refuses(
        {**CHANGED, f"{NAME}/requirements.txt": text},
        "requirements.txt has 8 mistakes",
        "line 1: 'humanize @ git+https://localhost/a/b' is a URL, a path or a repository",
        "keep its files in the function's folder",
        "line 2: 'https://localhost/a.whl' is a URL",
        "line 3: --index-url is not allowed: where packages come from is the installation's choice",
        "line 4: -e installs a source folder",
        "line 5: -r reads another file: copy that file's lines here instead",
        "line 6: '../other' is a URL, a path or a repository",
        "line 7: the option '--pre' is not allowed",
        "line 8: 'humanize; os_name ==' is not a requirement",
    )


def test_a_package_of_node_from_elsewhere(victim: Victim) -> None:
    victim.refuses(
        {
            "stack.yml": stack(NAME, lang="node"),
            f"{NAME}/handler.js": "module.exports = async () => 'x'\n",
            f"{NAME}/package.json": '{"dependencies": {"x": "git+ssh://git@localhost/x.git"}}\n',
        },
        "package.json",
        "git+ssh://git@localhost/x.git",
    )


# ----------------------------------------------------------------------------------- for ever


def test_tests_that_run_for_ever(victim: Victim) -> None:
    """Two functions at once: an endless loop, and a TEST_COMMAND that waits."""
    begun = time.monotonic()
    text = stack(NAME) + stack("waits", build_args="{TEST_COMMAND: sleep 3600}").split("\n", 4)[4]
    found = victim.refuses(
        {
            "stack.yml": text,
            f"{NAME}/handler_test.py": "def test_it():\n    while True:\n        pass\n",
            "waits/handler.py": handler("waiting"),
        },
        f"{NAME} test: the tests were ended after 10 s (SLIPWAY_BUILD_TIMEOUT)",
        "something in them waits or loops for ever",
    )
    assert time.monotonic() - begun < 25
    rows = {row["name"]: row["build"] for row in found["functions"]}
    assert rows == {NAME: "failed", "waits": "failed"}
    failed = {
        line["function"]
        for line in log_of(victim.platform, found["id"])[:-1]
        if "were ended after 10 s" in line["text"]
    }
    assert failed == {NAME, "waits"}, "each has its own line"
    assert victim.platform.call("waits.vic").status == 404


def test_a_test_command_that_wants_a_shell(victim: Victim) -> None:
    victim.refuses(
        {"stack.yml": stack(NAME, build_args='{TEST_COMMAND: "pytest && touch /tmp/x"}')},
        "TEST_COMMAND 'pytest && touch /tmp/x' wants a shell (&&)",
        "write a script into the function's folder",
    )


# ------------------------------------------------------------------------------------- bounds


def test_tests_that_print_a_gigabyte(victim: Victim) -> None:
    flood = (
        "import os\n\nline = b'x' * 99 + b'\\n'\n\ndef test_it(capfd):\n"
        "    with capfd.disabled():\n        for _ in range(2**30 // 10**6):\n"
        "            os.write(1, line * 10**4)\n"
    )
    found = victim.refuses(
        {f"{NAME}/handler_test.py": flood},
        f"{NAME} test: the tests were ended: they wrote more than 65536 bytes",
        "SLIPWAY_BUILD_OUTPUT",
    )
    kept = sum(len(line.get("text", "")) for line in log_of(victim.platform, found["id"]))
    assert kept < 2 * 65536


def test_tests_that_eat_memory(victim: Victim) -> None:
    victim.refuses(
        {f"{NAME}/handler_test.py": "def test_it():\n    assert len(bytearray(2**30)) == 1\n"},
        f"{NAME} test: the tests used more memory than 256 MiB (SLIPWAY_BUILD_MEMORY)",
    )


def test_tests_that_fork_without_end(victim: Victim) -> None:
    bomb = (
        "import os\n\ndef test_it():\n    while True:\n        try:\n            os.fork()\n"
        "        except OSError:\n            pass\n"
    )
    # Which of the bounds is met first is a race, and no matter.
    victim.refuses({f"{NAME}/handler_test.py": bomb}, f"{NAME} test: the tests ", "(SLIPWAY_BUILD_")


def test_tests_find_no_network_and_no_host(victim: Victim) -> None:
    port = victim.platform.port
    probe = (
        "import socket\n\ndef test_network():\n"
        f"    socket.create_connection(('127.0.0.1', {port}), 2)\n\n"
        f"def test_state():\n    open({str(victim.platform.settings.password_file)!r})\n\n"
        "def test_own_files():\n    open('handler.py', 'a')\n"
    )
    victim.refuses(
        {f"{NAME}/handler_test.py": probe},
        f"{NAME} test: the tests failed",
        "ConnectionRefusedError",
        "FileNotFoundError",
        "PermissionError",
    )

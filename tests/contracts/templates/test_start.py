"""The start: how it listens, what it says when it cannot, and the samples of the templates."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builder import templates
from tests.contracts.templates.server import (
    NODE,
    Start,
    each_template,
    handler_file,
)


@each_template
def test_without_a_socket_it_listens_on_its_port(start: Start, template: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = start(template, tcp=True, port=str(port))

    assert server.get("/teapot").status == 418
    server.terminate()
    assert server.ended() == 0


@each_template
def test_what_waits_in_the_backlog_during_the_start_is_served(start: Start, template: str) -> None:
    server = start(template, wait=False)

    assert server.get("/teapot").status == 418


@each_template
def test_what_the_handler_prints_is_in_the_log(start: Start, template: str) -> None:
    assert "the handler is imported" in start(template).log


BROKEN = {
    "python": {
        "there is no function/handler.py": {"other.py": ""},
        "syntax error in function/handler.py, line 2": {"handler.py": "x = 1\ndef handle(:\n"},
        "imports 'not_there_at_all', which is not there": {
            "handler.py": "import not_there_at_all\n"
        },
        "failed with ZeroDivisionError: division by zero": {"handler.py": "1/0\n"},
        "failed with SystemExit: 0": {"handler.py": "raise SystemExit(0)\n"},
        "defines no handle(": {"handler.py": "def other(): ...\n"},
        "handle in function/handler.py is not a function": {"handler.py": "handle = 3\n"},
        "and this template calls handle(": {"handler.py": "def handle(a, b, c): ...\n"},
    },
    "node": {
        "there is no function/handler.js": {"other.js": ""},
        "syntax error in function/handler.js, line 2": {"handler.js": "let x = 1\nlet x = = 2\n"},
        "needs not-there-at-all, which is not there": {
            "handler.js": "require('not-there-at-all')\n"
        },
        "needs ./other, which is not there: add the file": {"handler.js": "require('./other')\n"},
        "failed with TypeError: x is not a function": {"handler.js": "const x = 1\nx()\n"},
        "exports no function": {"handler.js": "module.exports = 3\n"},
    },
}


@pytest.mark.parametrize(
    ("template", "cause", "files"),
    [
        pytest.param(template, cause, files, id=f"{template}-{cause[:30]}", marks=marks)
        for template, language, marks in (
            ("python3-http", "python", pytest.mark.network),
            ("python3-flask", "python", pytest.mark.network),
            ("node", "node", ()),
        )
        for cause, files in BROKEN[language].items()
    ],
)
def test_what_cannot_start_says_why(
    start: Start, template: str, cause: str, files: dict[str, str]
) -> None:
    server = start(template, files, wait=False)

    assert server.ended() == 1
    *before, last = server.log.strip().splitlines()
    assert last.startswith("slipway: the function cannot start: ")
    assert cause in last
    for internal in ("importlib", "slipway_watchdog", "watchdog/loader"):
        assert template == "node" or not any(internal in line for line in before)
    assert not server.lock.exists()


@each_template
@pytest.mark.parametrize(
    ("name", "value"), [("exec_timeout", "soon"), ("max_inflight", "many"), ("write_timeout", "0")]
)
def test_a_wrong_variable_is_told(start: Start, template: str, name: str, value: str) -> None:
    server = start(template, wait=False, **{name: value})

    assert server.ended() == 1
    assert name in server.log.strip().splitlines()[-1]


@each_template
def test_sigterm_during_the_start_ends_it(start: Start, template: str) -> None:
    files = {"handler.py": "import time\nprint('begun')\ntime.sleep(60)\n"}
    if template == "node":
        wait = "await new Promise((resolve) => setTimeout(resolve, 60000))"
        files = {"handler.mjs": f"console.log('begun')\n{wait}\n"}
    server = start(template, files, wait=False)
    server.wait_for_log("begun")
    server.terminate()

    assert server.ended(5) == 0


@each_template
def test_a_start_is_quick(start: Start, template: str) -> None:
    begun = time.monotonic()
    start(template)

    assert time.monotonic() - begun < 3  # about 0.1 s; the bound is for a busy machine


# The samples


def test_the_samples_pass_their_own_tests(tmp_path: Path) -> None:
    for name in ("python3-http", "python3-flask"):
        folder = tmp_path / name / "function"
        shutil.copytree(templates.FOLDER / name / "function", folder)
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout
        assert "1 passed" in ended.stdout
    ended = subprocess.run(
        [str(NODE / "node"), "--test"],
        cwd=templates.FOLDER / "node" / "function",
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    assert "pass 1" in ended.stdout


@each_template
def test_the_samples_answer(start: Start, template: str) -> None:
    folder = templates.FOLDER / template / "function"
    files = {each.name: each.read_text() for each in folder.iterdir() if each.is_file()}
    server = start(template, files)

    answer = server.request("POST", "/", b"ahoy", Content_Type="text/plain")
    assert answer.status == 200
    assert "Hello from Slipway!" in answer.text


@pytest.mark.parametrize("template", ["python3-http", "python3-flask", "node"])
def test_the_description_is_complete(template: str) -> None:
    found = templates.find_template(template)

    assert found.language == template
    assert found.fprocess.split()[0] in ("python3", "node")
    assert found.welcome_message
    assert found.packages(["dev"])
    assert {"Dockerfile", f"function/{handler_file(template)}"} <= set(found.files)

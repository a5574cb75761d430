"""The functions' own tests, run for real in the sandbox, well and badly behaved ones."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from builder import dependencies, functiontests, node_dependencies
from builder.packagejson import Manifest
from builder.templates import Template
from core.errors import BuildFailed, TestFailed
from core.settings import Settings

SMALL = {"build_timeout": 20.0, "build_memory": 160 * 2**20, "build_output": 256 * 1024}


def template(name: str, fprocess: str) -> Template:
    return Template(name=name, folder=Path("/"), language=name, fprocess=fprocess, digest="")


PYTHON = template("python3-http", "python3 index.py")
NODE = template("node", "node index.js")


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    """One state folder for all: pytest's layer is made once."""
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    settings = replace(Settings.from_env({"SLIPWAY_STATE": str(folder)}), **SMALL)
    yield settings
    shutil.rmtree(folder)


@pytest.fixture
def python(settings: Settings) -> Settings:
    """With the layer of pytest there, so that small bounds are the tests' alone."""
    roomy = replace(settings, build_memory=2**30, build_timeout=120.0)
    functiontests.tool_layer(roomy, "pytest", print)
    return settings


class Log(list[str]):
    def __call__(self, line: str) -> None:
        self.append(line)


def app(folder: Path, files: dict[str, str]) -> Path:
    """A function's context, readable by the user that tests run as."""
    (folder / "function").mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        path = folder / "function" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    folder.chmod(0o755)
    return folder


def run(
    settings: Settings,
    folder: Path,
    of: Template = PYTHON,
    build_args: dict[str, str] | None = None,
    log: Log | None = None,
) -> bool:
    out = log if log is not None else Log()
    args = build_args or {}
    assert functiontests.has_tests(folder, of, args)
    layers = dependencies.install(settings, "alice", of, folder, out)
    return functiontests.run_tests(settings, "alice", "hello", folder, of, layers, args, out)


def failing(
    settings: Settings,
    folder: Path,
    of: Template = PYTHON,
    build_args: dict[str, str] | None = None,
    log: Log | None = None,
) -> str:
    with pytest.raises(TestFailed) as caught:
        run(settings, folder, of, build_args, log)
    assert (caught.value.function, caught.value.step) == ("hello", "test")
    return str(caught.value)


def python_test(folder: Path, body: str) -> Path:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return app(folder, {"handler_test.py": f"def test_it():\n{lines}"})


@pytest.mark.parametrize(
    ("files", "of", "args", "there"),
    [
        ({"handler.py": "", "contest.py": "", "test.txt": ""}, PYTHON, {}, False),
        ({"test_handler.py": ""}, PYTHON, {}, True),
        ({"a/b/handler_test.py": ""}, PYTHON, {}, True),
        ({"node_modules/x/test_x.py": "", ".git/test_x.py": ""}, PYTHON, {}, False),
        ({"handler.py": ""}, PYTHON, {"TEST_COMMAND": "pytest"}, True),
        ({"handler.py": ""}, PYTHON, {"TEST_COMMAND": " "}, False),
        ({"test_x.py": "", "handler.js": ""}, NODE, {}, False),
        ({"package.json": '{"scripts": {"test": "node --test"}}'}, NODE, {}, True),
        ({"package.json": '{"scripts": {"test": "exit 0"}}'}, NODE, {}, False),
        ({"package.json": "{}"}, NODE, {}, False),
        ({"test_x.py": ""}, template("static", "./serve"), {}, False),
    ],
)
def test_what_counts_as_tests(
    tmp_path: Path, files: dict[str, str], of: Template, args: dict[str, str], there: bool
) -> None:
    assert functiontests.has_tests(app(tmp_path, files), of, args) is there


@pytest.mark.network
def test_passing_tests_see_the_function_as_it_will_run(python: Settings, tmp_path: Path) -> None:
    log = Log()
    folder = app(
        tmp_path,
        {
            "__init__.py": "",
            "handler.py": "def handle(event, context):\n    return 'hi'\n",
            "handler_test.py": (
                "import os, sys\n"
                "from .handler import handle\n"
                "def test_answer():\n"
                "    assert handle(None, None) == 'hi'\n"
                "def test_surroundings():\n"
                "    assert os.getcwd() == '/home/app/function'\n"
                "    assert sys.executable.startswith('/')\n"
                "    assert os.environ['GREETING'] == 'hey'\n"
                "    assert not [n for n in os.environ if n.startswith('SLIPWAY')]\n"
            ),
        },
    )
    assert run(python, folder, build_args={"GREETING": "hey", "PATH": "/evil"}, log=log)
    assert any("2 passed" in line for line in log)


@pytest.mark.network
def test_a_second_run_is_quick_and_leaves_nothing(python: Settings, tmp_path: Path) -> None:
    folder = python_test(tmp_path, "pass")
    run(python, folder)
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        assert run(python, folder)
        seconds.append(time.perf_counter() - begun)
    assert min(seconds) < 3  # the environment of the first is made in about 6
    assert sorted(p.name for p in folder.rglob("*")) == ["function", "handler_test.py"]


@pytest.mark.network
def test_a_failing_test_stops_with_its_last_lines(python: Settings, tmp_path: Path) -> None:
    log = Log()
    told = failing(python, python_test(tmp_path, "x = 41\nassert x == 42"), log=log)
    assert told.startswith("the tests failed: pytest exited with status 1\n")
    assert "FAILED handler_test.py::test_it - assert 41 == 42\n1 failed in " in told
    assert "test session starts" not in told
    assert any("1 failed" in line for line in log)


@pytest.mark.network
def test_tests_that_cannot_be_read_fail(python: Settings, tmp_path: Path) -> None:
    told = failing(python, app(tmp_path, {"test_x.py": "import no_such_module\n"}))
    assert "No module named 'no_such_module'" in told


@pytest.mark.network
def test_no_tests_in_the_files_passes(python: Settings, tmp_path: Path) -> None:
    log = Log()
    assert run(python, app(tmp_path, {"test_x.py": "x = 1\n"}), log=log)
    assert "pytest found no tests in these files: that passes" in log


def test_skipping_is_told(settings: Settings, tmp_path: Path) -> None:
    log = Log()
    folder = python_test(tmp_path, "assert False")
    assert not run(settings, folder, build_args={"TEST_ENABLED": "false"}, log=log)
    assert log == ["tests are skipped: TEST_ENABLED is false"]


# Bounds


@pytest.mark.network
def test_for_ever_is_ended(python: Settings, tmp_path: Path) -> None:
    folder = python_test(
        tmp_path,
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork(): os._exit(0)\n"
        "time.sleep(600)",
    )
    begun = time.monotonic()
    told = failing(replace(python, build_timeout=2.0), folder)
    assert time.monotonic() - begun < 10
    assert "ended after 2 s (SLIPWAY_BUILD_TIMEOUT)" in told
    assert processes_of_tests() == []


@pytest.mark.network
def test_memory_is_bounded(python: Settings, tmp_path: Path) -> None:
    told = failing(python, python_test(tmp_path, "x = [bytearray(10**7) for _ in range(1000)]"))
    assert "more memory than 160 MiB (SLIPWAY_BUILD_MEMORY)" in told


@pytest.mark.network
def test_output_is_bounded(python: Settings, tmp_path: Path) -> None:
    log = Log()
    folder = python_test(tmp_path, "import os\nwhile True: os.write(2, b'x' * 99 + b'\\n')")
    told = failing(python, folder, build_args={"TEST_COMMAND": "pytest -s"}, log=log)
    assert "more than 262144 bytes (SLIPWAY_BUILD_OUTPUT)" in told
    assert sum(map(len, log)) < 300_000
    assert len(told) < 10_000


@pytest.mark.network
def test_forks_are_bounded(python: Settings, tmp_path: Path) -> None:
    folder = python_test(
        tmp_path,
        "import os, time\nwhile True:\n    if os.fork() == 0: time.sleep(600)\n",
    )
    told = failing(python, folder)
    assert "Resource temporarily unavailable" in told
    assert "at most 128 processes and threads run at once" in told
    assert processes_of_tests() == []


@pytest.mark.network
def test_there_is_no_network(python: Settings, tmp_path: Path) -> None:
    folder = python_test(
        tmp_path, "import socket\nsocket.create_connection(('198.51.100.7', 80), 5)"
    )
    told = failing(python, folder)
    assert "Network is unreachable" in told
    assert "tests run without a network" in told


@pytest.mark.network
def test_only_tmp_can_be_written_and_secrets_of_the_host_are_not_there(
    python: Settings, tmp_path: Path
) -> None:
    secret = python.state / "admin-password"
    secret.write_text("hunter2")
    folder = python_test(
        tmp_path,
        "import os, pathlib, pytest\n"
        "pathlib.Path('/tmp/mine').write_text('x')\n"
        "for path in ('/home/app/function/x', '/home/app/x', '/opt/slipway/layers/test/x', '/x'):\n"
        "    with pytest.raises(OSError): open(path, 'w')\n"
        f"for path in ('/etc/shadow', {str(secret)!r}, '/root/.bashrc'):\n"
        "    assert not os.path.exists(path)\n"
        "assert os.getuid() != 0\n"
        "assert len([p for p in os.listdir('/proc') if p.isdigit()]) < 5",
    )
    assert run(python, folder)


# TEST_COMMAND


@pytest.mark.network
def test_tox_runs_in_the_environment_that_is_there(python: Settings, tmp_path: Path) -> None:
    roomy = replace(python, build_memory=2**30, build_timeout=120.0)
    files = {
        "handler.py": "def handle(event, context):\n    return 1\n",
        "handler_test.py": (
            "from handler import handle\n\n\ndef test_it():\n    assert handle(0, 0) == 1\n"
        ),
        "tox.ini": (
            "[tox]\nenvlist = lint,test\nskipsdist = true\n"
            "[testenv:test]\ndeps =\n  flask\n  -rrequirements.txt\ncommands = pytest\n"
            "[testenv:lint]\ndeps = flake8\ncommands = flake8 .\n"
        ),
    }
    log = Log()
    assert run(roomy, app(tmp_path / "a", files), build_args={"TEST_COMMAND": "tox"}, log=log)
    assert any("1 passed" in line for line in log)
    ugly = {**files, "handler.py": "import os\n" + files["handler.py"]}
    told = failing(roomy, app(tmp_path / "b", ugly), build_args={"TEST_COMMAND": "tox -e lint"})
    assert "F401" in told


def test_any_program_but_no_shell_around_it(settings: Settings, tmp_path: Path) -> None:
    folder = app(tmp_path, {"check.sh": "echo from sh; exit $1\n"})
    log = Log()
    assert run(settings, folder, build_args={"TEST_COMMAND": "sh ./check.sh 0"}, log=log)
    assert log == ["from sh"]
    told = failing(settings, folder, build_args={"TEST_COMMAND": "sh ./check.sh 3"})
    assert "exited with status 3" in told
    told = failing(settings, folder, build_args={"TEST_COMMAND": "no-such-program x"})
    assert "there is no such program where tests run: no-such-program x" in told
    for command in ("pytest && rm -rf /", "a | b", "'open"):
        with pytest.raises(BuildFailed, match="TEST_COMMAND"):
            run(settings, folder, build_args={"TEST_COMMAND": command})


@pytest.mark.parametrize(("name", "value"), [("a b", "1"), ("A", "1\0--bind\0/\0/host"), ("", "")])
def test_build_arguments_cannot_become_options(
    settings: Settings, tmp_path: Path, name: str, value: str
) -> None:
    with pytest.raises(BuildFailed, match="cannot be a variable"):
        run(settings, app(tmp_path, {}), build_args={"TEST_COMMAND": "true", name: value})


# Node


def node_app(folder: Path, script: str, files: dict[str, str], **manifest: object) -> Path:
    content = {"scripts": {"test": script}, **manifest}
    return app(folder, {"package.json": json.dumps(content), **files})


@pytest.mark.parametrize("script", ["node --test", "npm run other && echo done"])
def test_node_tests(settings: Settings, tmp_path: Path, script: str) -> None:
    files = {
        "handler.js": "module.exports = async () => 1\n",
        "handler.test.js": (
            "const test = require('node:test'), assert = require('node:assert')\n"
            "test('it', async () => assert.equal(await require('./handler')(), WANTED))\n"
        ),
    }
    scripts = {"test": script, "other": "node --test"}
    for wanted in ("1", "2"):
        ready = {**files, "handler.test.js": files["handler.test.js"].replace("WANTED", wanted)}
        folder = node_app(tmp_path / wanted, script, ready, scripts=scripts)
        log = Log()
        if wanted == "1":
            assert run(replace(settings, build_memory=2**30), folder, NODE, log=log)
            assert any(re.search(r"pass 1$", line) for line in log)
        else:
            told = failing(replace(settings, build_memory=2**30), folder, NODE, log=log)
            assert "exited with status 1" in told
            assert any("1 == 2" in line for line in log)


@pytest.mark.network
def test_packages_that_only_tests_need(settings: Settings, tmp_path: Path) -> None:
    roomy = replace(settings, build_memory=2**30, build_timeout=120.0)
    files = {"handler.js": "", "check.js": "if (!require('is-odd')(3)) process.exit(1)\n"}
    needed = {"is-odd": "3.0.1"}
    folder = node_app(tmp_path, "node check.js", files, devDependencies=needed)
    assert dependencies.install(roomy, "alice", NODE, folder, Log()) == []
    assert run(roomy, folder, NODE)


def test_npm_is_found_where_it_is_said_to_be() -> None:
    assert (node_dependencies.npm_folder() / "bin/npm-cli.js").is_file()
    assert node_dependencies.install(Settings(), "alice", Manifest(), "", Log()) is None


def processes_of_tests() -> list[str]:
    """Command lines of pytest that a sandbox left behind, given a moment."""
    deadline = time.monotonic() + 5
    while True:
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit() and int(folder.name) != os.getpid():
                try:
                    words = (folder / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if b"no:cacheprovider" in words:
                    found.append(" ".join(w.decode() for w in words))
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)

"""A secret's way through the whole platform, and an installation's into a backup and out again."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.settings import ROOT
from tests.e2e.platform import Platform, fresh_folder, running, stack
from tests.waiting import until

READS = """
from pathlib import Path

def handle(event, context):
    return Path("/var/openfaas/secrets/api-key").read_text()
"""
FILES = {"stack.yml": stack("reads", secrets="[api-key]"), "reads/handler.py": READS}
SESAME = "Open Sesame 0a77"


@pytest.fixture(scope="module")
def up() -> Iterator[Platform]:
    with fresh_folder() as folder, running(folder) as platform:
        yield platform


def secret(up: Platform, verb: str, value: str, *more: str) -> subprocess.CompletedProcess[str]:
    argv = ["-m", "cli.main", "secret", verb, "api-key", "--namespace", "ann", *more]
    return subprocess.run(
        [sys.executable, *argv],
        cwd=ROOT,
        env=up.env,
        input=value,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_secret_reaches_the_function_and_comes_back_out_of_a_backup(up: Platform) -> None:
    fns = up.repository("ann", "fns")
    refused = fns.push(FILES)
    assert refused.last.startswith("slipway: failed"), refused.text
    assert "ann has not the secret api-key" in refused.text
    created = secret(up, "create", f"{SESAME}\n")
    assert (created.returncode, created.stdout) == (0, "the secret api-key of ann is created\n")
    assert secret(up, "create", "x").returncode == 1
    pushed = fns.push({**FILES, "note": "1"})
    assert pushed.last.startswith("slipway: live"), pushed.text + up.logs()
    assert up.call("reads.ann").text == SESAME
    first = up.release("ann", "fns")

    value = up.folder / "value"
    value.write_bytes(b"new\n")
    updated = secret(up, "update", "", "--from-file", str(value), "--verbatim")
    assert "used by reads.ann" in updated.stdout
    assert up.call("reads.ann").text == SESAME, "what runs keeps what it has"
    listed = up.slipway("secret", "list", "--output", "json")
    assert json.loads(listed.stdout) == [{"name": "api-key", "namespace": "ann"}]
    again = fns.push({"note": "2"})
    assert again.last.startswith("slipway: live"), again.text
    assert up.call("reads.ann").text == "new\n"
    assert up.release("ann", "fns")["commit"] != first["commit"]

    nowhere_else(up.folder / "state", SESAME)
    file = up.folder / "backup"
    told = up.slipway("backup", str(file))
    assert "1 secrets, 0 functions deployed by API, 1 repositories" in told.stdout
    assert file.stat().st_mode & 0o777 == 0o600
    wrong = up.slipway("restore", str(file), check=False)
    assert (wrong.returncode, "another Slipway" in wrong.stderr) == (1, True)

    with fresh_folder() as folder:
        other = Platform(folder, up.extra)
        other.slipway("restore", str(file))
        try:
            other.start()
            until(lambda: other.call("reads.ann").text == "new\n", 60)
            back = other.release("ann", "fns")
            assert back["commit"] == up.release("ann", "fns")["commit"]
            assert other.password == up.password
            assert other.stop() == 0
        finally:
            other.kill_everything()


def nowhere_else(state: Path, value: str) -> None:
    """In no log, document or file of the state, and in no process's arguments or environment."""
    files = [path for path in state.rglob("*") if path.is_file()]
    for process in Path("/proc").glob("[0-9]*"):
        files += [process / "cmdline", process / "environ"]
    for path in files:
        with contextlib.suppress(OSError):
            assert value.encode() not in path.read_bytes(), path

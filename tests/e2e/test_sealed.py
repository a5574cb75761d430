"""A value sealed into git: from the command to the function, and what a copy of it is worth."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.settings import ROOT
from tests.e2e.platform import Platform, fresh_folder, running, stack
from tests.e2e.test_secrets import nowhere_else
from tests.waiting import until

HASHES = """
import hashlib
from pathlib import Path

def handle(event, context):
    return hashlib.sha256(Path("/var/openfaas/secrets/db-password").read_bytes()).hexdigest()
"""
FILES = {"stack.yml": stack("hashes", secrets="[db-password]"), "hashes/handler.py": HASHES}
SESAME = "Open Sesame 5e2b"


@pytest.fixture(scope="module")
def up() -> Iterator[Platform]:
    with fresh_folder() as folder, running(folder) as platform:
        yield platform


def seal(up: Platform, repository: str, file: Path, value: str, *more: str) -> str:
    """Seals it as a user does; returns the file."""
    argv = ["seal", "db-password", "--repository", repository, "--file", str(file), *more]
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", *argv],
        cwd=ROOT,
        env=up.env,
        input=f"{value}\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert value not in done.stdout + done.stderr
    return file.read_text()


def hashed(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()


def test_a_sealed_value_reaches_its_function_and_no_other_one(up: Platform) -> None:
    fns = up.repository("ann", "fns")
    refused = fns.push(FILES)
    assert "ann has not the secret db-password" in refused.text
    assert "'slipway seal db-password --repository ann/fns'" in refused.text
    file = up.folder / "sealed.yml"
    sealed = seal(up, "ann/fns", file, SESAME)
    pushed = fns.push({**FILES, "sealed.yml": sealed})
    assert pushed.last.startswith("slipway: live"), pushed.text + up.logs()
    assert up.call("hashes.ann").text == hashed(SESAME)
    nowhere_else(up.folder / "state", SESAME)
    assert "sealed:1:" not in up.slipway("list", "--output", "json").stdout

    # Another repository of the same owner, another owner, another name: none opens it.
    again = up.repository("ann", "again")
    moved = {"stack.yml": stack("copied", secrets="[db-password]"), "copied/handler.py": HASHES}
    copied = again.push({**moved, "sealed.yml": sealed})
    assert copied.last.startswith("slipway: failed"), copied.text
    assert "it was sealed for another repository" in copied.text
    bob = up.repository("bob", "fns").push({**FILES, "sealed.yml": sealed.replace("ann:", "bob:")})
    assert bob.last.startswith("slipway: failed"), bob.text
    assert "another namespace and repository" in bob.text
    renamed = {
        "stack.yml": stack("hashes", secrets="[other]"),
        "sealed.yml": sealed.replace("db-password:", "other:"),
    }
    other = fns.push(renamed)
    assert other.last.startswith("slipway: failed"), other.text
    assert "another name than" in other.text
    assert up.call("hashes.ann").text == hashed(SESAME), "what was live stays"

    # A new key seals; what is sealed with the old one goes on opening, until it is sealed anew.
    old = up.slipway("sealing-keys", "list", "--output", "json").stdout
    rotated = up.slipway("sealing-keys", "rotate").stdout.strip()
    assert rotated
    assert rotated not in old
    back = fns.push({**FILES, "sealed.yml": sealed, "note": "1"})
    assert back.last.startswith("slipway: live"), back.text
    fresh = seal(up, "ann/fns", file, "new")
    assert f"sealed:1:{rotated}:" in fresh
    renewed = fns.push({"sealed.yml": fresh})
    assert renewed.last.startswith("slipway: live"), renewed.text
    assert up.call("hashes.ann").text == hashed("new")

    # All of it comes back out of a backup.
    backup = up.folder / "backup"
    up.slipway("backup", str(backup))
    with fresh_folder() as folder:
        elsewhere = Platform(folder, up.extra)
        elsewhere.slipway("restore", str(backup))
        try:
            elsewhere.start()
            until(lambda: elsewhere.call("hashes.ann").text == hashed("new"), 60)
            assert elsewhere.stop() == 0
        finally:
            elsewhere.kill_everything()

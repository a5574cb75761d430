"""Where the values of secrets lie while a release is built."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import dependencies, secrets
from core import disk
from core.bundle import HALF_MADE
from core.settings import Settings
from tests.conftest import missing


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    made = Settings(state=tmp_path / "state")
    yield made
    shutil.rmtree(secrets.memory(made), ignore_errors=True)


def test_they_are_in_memory_for_us_alone_and_nothing_is_left(
    settings: Settings, tmp_path: Path
) -> None:
    if os.geteuid() != 0 or not disk.is_tmpfs(Path("/dev/shm")):
        missing("root, and a tmpfs at /dev/shm")
    home = secrets.memory(settings)
    with secrets.room(settings, tmp_path) as one, secrets.room(settings, tmp_path) as two:
        assert one.parent == two.parent == home
        assert one != two
        assert {each.stat().st_mode & 0o777 for each in (home, one, two)} == {0o700}
        (one / "token").write_bytes(b"Open Sesame")
        os.utime(one, (0, 0))
        assert dependencies.sweep(settings) == 0, "somebody is at it"
    assert not home.exists()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_build_left_is_swept(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = secrets.memory(settings) / f"{HALF_MADE}x"
    left.mkdir(parents=True)
    (left / "token").write_bytes(b"Open Sesame")
    monkeypatch.setattr("builder.folders._STALE", -1)
    assert dependencies.sweep(settings) == 1
    assert not left.exists()


def test_without_memory_of_our_own_they_are_in_the_work_folder(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets.memory(settings).mkdir(mode=0o755)  # open to others
    for name in ("open", "no-tmpfs"):
        if name == "no-tmpfs":
            secrets.memory(settings).rmdir()
            monkeypatch.setattr(disk, "is_tmpfs", lambda _: False)
        work = tmp_path / name
        work.mkdir()
        with secrets.room(settings, work) as folder:
            assert folder == work / ".secrets"
            assert folder.stat().st_mode & 0o777 == 0o700

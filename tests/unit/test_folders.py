"""Folders that appear whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from builder import folders
from core.errors import Unavailable


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def tree(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.lstat().st_mode & 0o7777 for path in folder.rglob("*")
    }


def test_a_settled_folder_is_whole_and_read_only(tmp_path: Path) -> None:
    with folders.making(tmp_path / "p") as new:
        (new / "inner").mkdir()
        (new / "inner/file").write_text("x")
        (new / "run").write_text("x")
        (new / "run").chmod(0o4711)
        (new / "link").symlink_to("/etc/passwd")
        before = Path("/etc/passwd").stat().st_mode
        assert folders.settle(new, tmp_path / "p/final")
    assert Path("/etc/passwd").stat().st_mode == before
    found = tree(tmp_path / "p/final")
    assert found.pop("link")
    assert found == {"inner": 0o555, "inner/file": 0o444, "run": 0o555}
    assert names_in(tmp_path / "p") == ["final"]


def test_the_first_wins_and_the_other_is_gone(tmp_path: Path) -> None:
    for word in ("first", "second"):
        with folders.making(tmp_path) as new:
            (new / "word").write_text(word)
            assert folders.settle(new, tmp_path / "final") == (word == "first")
    assert (tmp_path / "final/word").read_text() == "first"
    assert names_in(tmp_path) == ["final"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with folders.making(tmp_path) as new:
            (new / "deep/er").mkdir(parents=True)
            (new / "deep/er/file").write_text("x")
            folders.freeze(new)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_as_such(tmp_path: Path, number: int) -> None:
    told = "disk of the state folder has no room for builds"
    with pytest.raises(Unavailable, match=told) as caught, folders.making(tmp_path):
        raise OSError(number, os.strerror(number))
    assert caught.value.retryable
    with pytest.raises(IsADirectoryError), folders.making(tmp_path):
        raise IsADirectoryError
    assert names_in(tmp_path) == []


def test_removing_follows_no_link_and_needs_nothing_to_be_there(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir(mode=0o500)
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone/link").symlink_to(kept)
    folders.remove(tmp_path / "gone")
    folders.remove(tmp_path / "gone")
    assert kept.stat().st_mode & 0o777 == 0o500
    assert names_in(tmp_path) == ["kept"]


def test_the_sweep_takes_what_was_killed_and_nothing_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import sys, pathlib, os\n"
        "from builder import folders\n"
        "with folders.making(pathlib.Path(sys.argv[1])) as new:\n"
        "    (new / 'half').write_text('x')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env={"PATH": "/usr/bin", "PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )
    assert len(names_in(tmp_path)) == 1
    with folders.making(tmp_path) as used:
        assert folders.sweep(tmp_path) == 0, "both are new"
        monkeypatch.setattr(folders, "_STALE", -1)
        assert folders.sweep(tmp_path) == 1
        assert names_in(tmp_path) == [used.name]


def test_turns_are_taken_one_after_another(tmp_path: Path) -> None:
    inside = 0
    most = 0

    def work() -> None:
        nonlocal inside, most
        with folders.turn(tmp_path / "sub/lock"):
            inside += 1
            most = max(most, inside)
            time.sleep(0.01)
            inside -= 1

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    with (tmp_path / "sub/lock").open() as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # and none is left holding it

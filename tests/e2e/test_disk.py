"""Nothing piles up, and a disk that is too full fails builds, not functions."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from core import disk, keys
from core.store import connect
from runtime import ballast
from tests.e2e.platform import Platform, Repository, fresh_folder, handler, running, stack
from tests.waiting import until

SIZE = 700 * 2**20
"""Of the disk: what builds leave free, the ballast, and a little to work with."""
LIMIT = 100 * 2**20


@pytest.fixture(scope="module")
def small() -> Iterator[Platform]:
    """A platform whose state folder is a small disk of its own."""
    with fresh_folder() as folder:
        state = folder / "state"
        state.mkdir(mode=0o700)
        options = f"size={SIZE},mode=0700"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", state], check=True)
        try:
            with running(folder, SLIPWAY_KEEP_REVISIONS="1", SLIPWAY_DISK_LIMIT="100Mi") as up:
                yield up
        finally:
            subprocess.run(["umount", "--lazy", state], check=True)


def fill(folder: Path, leave: int) -> Path:
    """Takes the disk that is free now, but for ``leave`` bytes and what others are quicker with."""
    path = folder / "somebody-elses"
    wanted, step = disk.free(folder) - leave, 8 * 2**20
    with path.open("ab") as file:
        while wanted > 0 and step >= 4096:
            piece = min(step, wanted)
            try:
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, piece)
                wanted -= piece
            except OSError:
                step //= 2
    return path


def pushed(repository: Repository, text: str) -> str:
    """Pushes a version; the last line that the push told."""
    told = repository.push({"stack.yml": stack("hi"), "hi/handler.py": handler(text)})
    assert told.status == 0, told.text
    return told.last


@pytest.fixture(scope="module")
def repository(small: Platform) -> Repository:
    return small.repository("ann", "old")


@pytest.mark.root
def test_a_prune_removes_what_its_dry_run_tells(small: Platform, repository: Repository) -> None:
    for number in range(4):
        assert pushed(repository, f"v{number}").startswith("slipway: live")
    dry = json.loads(small.slipway("prune", "--dry-run", "-o", "json").stdout)
    assert dry["missing"] == []
    assert [each["name"].partition("-")[0] for each in dry["pruned"]] == [
        "ann/old r1",
        "ann/old r2",
    ]
    assert len(json.loads(small.slipway("releases", "-o", "json").stdout)) == 4
    real = json.loads(small.slipway("prune", "-o", "json").stdout)
    assert real == {**dry, "dryRun": False}
    assert len(json.loads(small.slipway("releases", "-o", "json").stdout)) == 2
    assert "0 went, 0 bytes" in small.slipway("prune").stdout
    assert small.call("hi.ann").text == "v3"
    kept = list((small.settings.bundles / "ann").glob("[0-9a-f]*"))
    assert len(kept) == 4, "artifacts stay for an hour"


@pytest.mark.root
def test_over_the_limit_builds_fail_and_functions_run_on(
    small: Platform, repository: Repository
) -> None:
    assert pushed(repository, "before").startswith("slipway: live")
    large = small.settings.git_folder / "large"
    with large.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, LIMIT)
    try:
        connect(small.settings.store_url).delete(keys.DISK_USED)  # a measurement serves for a while
        assert pushed(repository, "over").startswith("slipway: failed")
        reason = small.release("ann", "old")["reason"]
        assert "builds may take 100 MiB of the disk" in reason
        assert "SLIPWAY_DISK_LIMIT" in reason
        assert small.call("hi.ann").text == "before"
        assert "may take 100 MiB" in small.slipway("doctor", check=False).stdout
    finally:
        large.unlink()
    assert pushed(repository, "after").startswith("slipway: live")
    assert small.call("hi.ann").text == "after"


@pytest.mark.root
def test_a_full_disk_fails_builds_and_not_functions(
    small: Platform, repository: Repository
) -> None:
    """At first only builds stop; then the ballast gives the store its room; and even when that is
    used up functions answer, and all recovers by itself."""
    state = small.settings.state
    assert pushed(repository, "good").startswith("slipway: live")
    until((state / "ballast").exists, 20)
    fill(state, disk.RESERVE // 2)
    last = pushed(repository, "too late")
    assert last.startswith("slipway: failed")
    assert "the disk of the state folder has no room for builds" in last
    assert small.call("hi.ann").text == "good"

    filler = fill(state, 0)
    until(lambda: disk.free(state) > ballast.FULL, 20)
    assert not (state / "ballast").exists()
    (instance,) = (state / "instances").glob("hi.ann-*")
    kill_function(small, instance.name)
    until(lambda: _another(state, instance.name), 30, small.logs)
    until(lambda: small.call("hi.ann").status == 200, 30, small.logs)
    assert small.call("hi.ann").text == "good", "a new replica was started on a full disk"

    fill(state, 0)  # the ballast's room, too: now the store cannot write
    for _ in range(20):
        assert small.call("hi.ann").text == "good"
    filler.unlink()
    until(lambda: pushed(repository, "again").startswith("slipway: live"), 60, small.logs)
    assert small.call("hi.ann").text == "again"
    until((state / "ballast").exists, 20)


def kill_function(platform: Platform, instance: str) -> None:
    """Ends a replica from outside, as the kernel does where memory is short."""
    document = platform.settings.instances / instance / "instance"
    record = json.loads(document.read_bytes().partition(b"\n")[2])
    psutil.Process(record["process"]["pid"]).kill()


def _another(state: Path, before: str) -> bool:
    found = [each.name for each in (state / "instances").glob("hi.ann-*")]
    return bool(found) and before not in found

"""Bundles on a real disk: names, races, damage, and no room."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from builder import bundles
from builder.engines.process import ProcessEngine
from core.bundle import PREFIX, Bundle, Layer, Torn, bundle_folder, read_bundle
from core.errors import BuildFailed, NotFound, Unavailable
from core.settings import Settings

BUNDLE = Bundle(template="python3-http", process=["python3", "index.py"])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_env({"SLIPWAY_STATE": str(tmp_path / "state")})


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def app(folder: Path, files: dict[str, str], *, mtime: int = 0) -> Path:
    folder.mkdir(parents=True)
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (mtime, mtime))
    return folder


FILES = {"index.py": "print()", "function/handler.py": "x = 1", "function/a/b": ""}


def test_a_bundle_is_where_the_runtime_reads_it(tmp_path: Path, settings: Settings) -> None:
    layer = Layer(kind="python", digest="ab" * 32)
    bundle = Bundle(template="t", process=["python3", "i.py"], layers=[layer])
    (settings.layers / "alice" / layer.digest).mkdir(parents=True)
    artifact = bundles.publish(settings, "alice", app(tmp_path / "app", FILES), bundle)
    assert artifact.startswith(PREFIX)
    assert read_bundle(settings, "alice", artifact) == bundle
    folder = bundle_folder(settings, "alice", artifact)
    assert (folder / "app/function/handler.py").read_text() == "x = 1"
    assert (folder / "app/function/handler.py").stat().st_mode & 0o777 == 0o444
    assert folder.stat().st_mode & 0o777 == 0o555
    assert not (tmp_path / "app").exists()
    assert bundles.verify(settings, "alice", artifact)


def test_the_digest_is_of_paths_contents_and_the_execute_bit_alone(
    tmp_path: Path, settings: Settings
) -> None:
    def published(name: str, files: dict[str, str], bundle: Bundle = BUNDLE, mode: int = 0) -> str:
        folder = app(tmp_path / name, files, mtime=len(name) * 1000)
        if mode:
            (folder / "index.py").chmod(mode)
        return bundles.publish(settings, "alice", folder, bundle)

    first = published("a", FILES)
    assert published("bb", dict(reversed(FILES.items()))) == first
    assert published("c", FILES, mode=0o600) == first
    others = [
        published("d", FILES, mode=0o755),
        published("e", {**FILES, "index.py": "print(1)"}),
        published("f", {**FILES, "more": ""}),
        published("g", {"index.py": "print()", "function/handler.py": "x = 1", "function/a_b": ""}),
        published("h", FILES, Bundle(template="python3-http", process=["python3", "other.py"])),
    ]
    assert len({first, *others}) == 6
    assert len(names_in(settings.bundles / "alice")) == 6


def test_owners_do_not_see_each_others_bundles(tmp_path: Path, settings: Settings) -> None:
    artifact = bundles.publish(settings, "alice", app(tmp_path / "a", FILES), BUNDLE)
    with pytest.raises(NotFound):
        bundles.verify(settings, "bob", artifact)


def test_two_at_once_give_one(tmp_path: Path, settings: Settings) -> None:
    folders = [app(tmp_path / str(n), FILES) for n in range(6)]
    found: list[str] = []

    def publish(folder: Path) -> None:
        found.append(bundles.publish(settings, "alice", folder, BUNDLE))

    threads = [threading.Thread(target=publish, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(found)) == 1
    assert names_in(settings.bundles / "alice") == [found[0].removeprefix(PREFIX)]


def test_one_that_is_torn_is_made_anew(tmp_path: Path, settings: Settings) -> None:
    """Else its name would stay taken, whatever is pushed."""
    engine = ProcessEngine(settings)
    artifact = bundles.publish(settings, "alice", app(tmp_path / "a", FILES), BUNDLE)
    assert engine.there("alice", [artifact]) == {artifact}
    description = bundle_folder(settings, "alice", artifact) / "bundle.json"
    description.chmod(0o644)
    description.write_bytes(b'{"template": ')
    with pytest.raises(Torn, match="redeploy"):
        read_bundle(settings, "alice", artifact)
    assert engine.there("alice", [artifact]) == set()
    assert bundles.publish(settings, "alice", app(tmp_path / "b", FILES), BUNDLE) == artifact
    assert engine.there("alice", [artifact]) == {artifact}


@pytest.mark.parametrize("damage", ["change", "remove", "add", "link"])
def test_damage_is_seen(tmp_path: Path, settings: Settings, damage: str) -> None:
    artifact = bundles.publish(settings, "alice", app(tmp_path / "a", FILES), BUNDLE)
    folder = bundle_folder(settings, "alice", artifact) / "app"
    folder.chmod(0o755)
    file = folder / "index.py"
    file.chmod(0o644)
    match damage:
        case "change":
            file.write_text("print(2)")
        case "remove":
            file.unlink()
        case "add":
            (folder / "more").write_text("")
        case "link":
            file.unlink()
            file.symlink_to("/etc/passwd")
    assert not bundles.verify(settings, "alice", artifact)


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_only_files_and_folders(tmp_path: Path, settings: Settings, kind: str) -> None:
    folder = app(tmp_path / "a", FILES)
    if kind == "link":
        (folder / "passwd").symlink_to("/etc/passwd")
    else:
        os.mkfifo(folder / "pipe")
    with pytest.raises(BuildFailed, match="neither a file nor a folder"):
        bundles.publish(settings, "alice", folder, BUNDLE)
    assert names_in(settings.bundles / "alice") == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.root
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, small_disk: Path) -> None:
    settings = replace(
        Settings.from_env({"SLIPWAY_STATE": str(tmp_path / "state")}), state=small_disk / "state"
    )
    with pytest.raises(Unavailable, match="no room for builds") as caught:
        bundles.publish(settings, "alice", app(tmp_path / "a", {"big": "x" * 2 * 2**20}), BUNDLE)
    assert caught.value.retryable
    assert names_in(settings.bundles / "alice") == []
    # Room again: from another file system it is copied, and has the same name as anywhere.
    artifact = bundles.publish(settings, "alice", app(tmp_path / "b", FILES), BUNDLE)
    assert bundles.verify(settings, "alice", artifact)
    other = replace(settings, state=tmp_path / "state")
    assert bundles.publish(other, "alice", app(tmp_path / "c", FILES), BUNDLE) == artifact
    shutil.rmtree(small_disk / "state")

"""Where secrets of replicas may lie, and where they are refused."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest

from core.errors import InvalidRequest, NotSupported, Unavailable
from core.models import FunctionSpec
from core.settings import Settings
from engine.client import Engine
from runtime.providers import secretfolders
from runtime.providers.docker.secrets import ContainerSecrets
from runtime.providers.secretfolders import SecretFolders, read_all

SPEC = FunctionSpec(name="echo", namespace="demo", artifact="x", secrets=["api-key"])


@pytest.fixture
def folders(tmp_path: Path) -> SecretFolders:
    """In a folder of the test's, which counts as memory."""
    made = SecretFolders(Settings(state=tmp_path / "state"))
    made.folder = tmp_path / "secrets"
    made.in_container = True
    return made


def test_what_lies_there_is_the_users_alone(folders: SecretFolders) -> None:
    uid, gid = os.geteuid(), os.getegid()
    folder = folders.make("echo.demo-1", {"api-key": b"sesame", "empty": b""}, uid, gid)
    assert (folder / "api-key").read_bytes() == b"sesame"
    assert folders.folder.stat().st_mode & 0o777 == 0o700
    assert folder.stat().st_mode & 0o777 == 0o750
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o400}
    folders.make("echo.demo-2", {"api-key": b"sesame"}, uid, gid)
    folders.keep_only("echo.demo-2".__eq__)
    assert [path.name for path in folders.folder.iterdir()] == ["echo.demo-2"]
    folders.remove("echo.demo-2")
    folders.remove("echo.demo-2")
    assert not folders.folder.exists()


def test_a_folder_of_somebody_else_is_refused(folders: SecretFolders, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    trap.mkdir(mode=0o777)
    trap.chmod(0o777)
    folders.folder.symlink_to(trap)
    with pytest.raises(NotSupported, match="belongs to somebody else"):
        folders.make("echo.demo-1", {"api-key": b"sesame"}, 1, 1)
    folders.folder.unlink()
    folders.folder.mkdir()
    folders.folder.chmod(0o755)
    with pytest.raises(NotSupported, match="open to others"):
        folders.make("echo.demo-1", {"api-key": b"sesame"}, 1, 1)
    assert list(trap.iterdir()) == []
    assert list(folders.folder.iterdir()) == []


def test_a_disk_is_refused(folders: SecretFolders) -> None:
    folders.in_container = False
    with pytest.raises(NotSupported, match="need a tmpfs"):
        folders.make("echo.demo-1", {"api-key": b"sesame"}, 1, 1)


def test_a_full_one_is_told_and_left_as_it_was(
    folders: SecretFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(secretfolders.os, "fchmod", full)
    with pytest.raises(Unavailable, match="No space left"):
        folders.make("echo.demo-1", {"api-key": b"sesame"}, 1, 1)
    assert not folders.folder.exists()


def test_too_much_together_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="8388609 bytes together"):
        read_all(lambda spec: dict.fromkeys(spec.secrets or (), bytes(2**23 + 1)), SPEC)


def test_containers_get_none_where_their_users_cannot_have_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object) -> dict[str, bytes]:
        return {"api-key": b"sesame"}

    made = ContainerSecrets(Settings(state=tmp_path), cast(Engine, None), read)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert made.values(SPEC, ["name=seccomp"]) == {"api-key": b"sesame"}
    for security in (["name=userns"], ["name=rootless"]):
        with pytest.raises(NotSupported, match="maps users"):
            made.values(SPEC, security)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NotSupported, match="only root"):
        made.values(SPEC, [])
    bare = FunctionSpec(name="echo", namespace="demo", artifact="x")
    assert made.values(bare, ["name=rootless"]) == {}


def test_the_folder_comes_and_goes_under_many_threads(folders: SecretFolders) -> None:
    def one(number: int) -> None:
        id = f"echo.demo-{number}"
        folder = folders.make(id, {"api-key": b"sesame"}, os.geteuid(), os.getegid())
        assert (folder / "api-key").read_bytes() == b"sesame"
        folders.remove(id)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(400)))
    assert not folders.folder.exists()

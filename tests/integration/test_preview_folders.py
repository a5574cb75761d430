"""What previews leave on the disk goes once they were forgotten; real store, git, files."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import pytest

from builder import previewfolders
from core.pruning import prune
from core.repositories import Repository
from core.settings import Settings
from core.store import Store

SHOP = Repository(namespace="ann--pr-5", name="shop", source="github", deploy_branch="x")


def folders_of(settings: Settings, namespace: str) -> list[Path]:
    kinds = (settings.caches, settings.templates, settings.mirrors, settings.layers)
    made = []
    for kind in (*kinds, settings.bundles):
        folder = kind / namespace
        folder.mkdir(parents=True)
        made.append(folder)
    (settings.caches / namespace / "uv").mkdir()
    (settings.caches / namespace / "uv.lock").touch()
    (settings.mirrors / namespace / "shop.lock").touch()
    (settings.mirrors / namespace / "shop.use").touch()
    return made


def age(*folders: Path) -> None:
    for each in folders:
        at = time.time() - previewfolders.IDLE - 1
        os.utime(each, (at, at))


def pruned(settings: Settings, store: Store, *, dry: bool = False) -> list[str]:
    return [each.name for each in prune(previewfolders.candidates(settings, store), dry=dry).pruned]


def test_folders_of_a_forgotten_preview_go(settings: Settings, store: Store) -> None:
    gone = folders_of(settings, "ann--pr-5")
    own = folders_of(settings, "ann")
    assert pruned(settings, store) == [], "a build may still end there"
    age(*gone, *own)
    wanted = [f"{kind}/ann--pr-5" for kind in ("caches", "templates", "mirrors", "layers")]
    wanted.append("bundles/ann--pr-5")
    assert sorted(pruned(settings, store, dry=True)) == sorted(wanted)
    assert all(each.exists() for each in gone)
    assert sorted(pruned(settings, store)) == sorted(wanted)
    assert not any(each.exists() for each in gone)
    assert all(each.exists() for each in own)
    assert pruned(settings, store) == []


@pytest.mark.parametrize("what", ["namespace", "repository"])
def test_folders_of_a_preview_that_is_there_stay(
    settings: Settings, store: Store, what: str
) -> None:
    if what == "namespace":
        store.claim_namespace(SHOP.namespace, "request ann/shop#5")
    else:
        store.save_repository(msgspec.structs.replace(SHOP, name="other"))
    age(*folders_of(settings, SHOP.namespace))
    assert pruned(settings, store) == []


def test_what_still_has_something_in_it_stays(settings: Settings, store: Store) -> None:
    """Bundles and layers are others' to remove: by what stands on them."""
    gone = folders_of(settings, "ann--pr-5")
    for kind in (settings.bundles, settings.layers):
        (kind / "ann--pr-5" / ("0" * 64)).mkdir()
    (settings.mirrors / "ann--pr-5" / "shop.git").mkdir()
    age(*gone)
    assert sorted(pruned(settings, store)) == ["caches/ann--pr-5", "templates/ann--pr-5"]

"""Images that nothing needs are removed for real: from the engine and from our own registry."""

from __future__ import annotations

import contextlib
import io
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from core.errors import NotFound, Unavailable
from core.settings import Settings
from engine.client import Engine
from engine.images import TAG, discard, stray
from tests.integration.docker_builds import registry

pytestmark = pytest.mark.engine


class Shop:
    """An engine and a registry, and images in both."""

    def __init__(self, engine: Engine, settings: Settings, place: str) -> None:
        self.engine = engine
        self.settings = replace(settings, registry=place)
        self._names: list[str] = []
        self._tags: list[str] = []

    def push(self, name: str, tag: str = "k") -> str:
        """Makes a small image, pushes it, and returns it by digest."""
        where = f"{self.settings.registry}/ann/{name}"
        text = f"FROM {self.settings.python_image}\nLABEL x={secrets.token_hex(8)}\n"
        with self.engine.asking("making an image") as api:
            for _ in api.build(fileobj=io.BytesIO(text.encode()), tag=f"{where}:{tag}", rm=True):
                pass
            for told in api.push(where, tag=tag, stream=True, decode=True):
                assert "error" not in told, told
                digest = told.get("aux", {}).get("Digest") or None
                if digest:
                    self._names.append(f"{where}@{digest}")
                    self._tags.append(f"{where}:{tag}")
        return self._names[-1]

    def in_engine(self, artifact: str) -> bool:
        try:
            with self.engine.asking("looking") as api:
                api.inspect_image(artifact)
        except NotFound:
            return False
        return True

    def in_registry(self, artifact: str) -> bool:
        name, _, digest = artifact.partition("@")
        place, _, path = name.partition("/")
        url = f"http://{place}/v2/{path}/manifests/{digest}"
        accept = "application/vnd.docker.distribution.manifest.v2+json"
        return requests.head(url, headers={"Accept": accept}, timeout=10).ok

    def close(self) -> None:
        for tag in self._tags:
            with contextlib.suppress(NotFound), self.engine.asking("tidying") as api:
                api.remove_image(tag, force=True)


@pytest.fixture
def shop(engine: Engine, settings: Settings, short_tmp: Path) -> Iterator[Shop]:
    with registry(short_tmp / "registry", deleting=True) as place:
        shop = Shop(engine, settings, place)
        yield shop
        shop.close()


def test_images_that_nobody_knows_are_found_in_our_own_registry(shop: Shop) -> None:
    lost, known = shop.push("lost", tag="d" * TAG), shop.push("known", tag="c" * TAG)
    pushed = shop.push("pushed", tag="1.2")
    assert [*stray(shop.settings, ["c" * 64])] == [], "others may use it, too"
    port = shop.settings.registry.rpartition(":")[2]
    (shop.settings.state / "registry-port").write_text(f"{port}\n")
    assert [*stray(shop.settings, ["c" * 64])] == [("ann", lost)]
    assert sorted(stray(shop.settings, [])) == [("ann", known), ("ann", lost)]
    discard(shop.settings, shop.engine, "ann", lost)
    assert not shop.in_registry(lost)
    assert shop.in_registry(pushed), "somebody's own"
    assert [*stray(shop.settings, ["c" * 64])] == []
    (shop.settings.state / "registry-port").write_text("1")
    assert [*stray(shop.settings, [])] == [], "it is another one"
    with pytest.raises(Unavailable, match="does not answer"):
        list(stray(replace(shop.settings, registry="127.0.0.1:1"), []))


def test_an_image_goes_from_engine_and_registry(shop: Shop) -> None:
    old, other = shop.push("hello"), shop.push("other")
    assert shop.in_engine(old)
    assert shop.in_registry(old)
    discard(shop.settings, shop.engine, "ann", old)
    assert not shop.in_engine(old)
    assert not shop.in_registry(old)
    assert shop.in_engine(other)
    assert shop.in_registry(other)
    discard(shop.settings, shop.engine, "ann", old)  # once more changes nothing


def test_an_image_that_a_container_uses_stays_in_the_engine(shop: Shop) -> None:
    artifact = shop.push("hello")
    with shop.engine.asking("a stranger's container") as api:
        container = api.create_container(artifact, command=["sleep", "100"])["Id"]
    try:
        discard(shop.settings, shop.engine, "ann", artifact)
        with shop.engine.asking("looking") as api:
            api.start(container)
            assert api.inspect_container(container)["State"]["Running"]
    finally:
        with shop.engine.asking("tidying") as api:
            api.remove_container(container, force=True)


def test_a_registry_with_a_user_keeps_its_own(shop: Shop) -> None:
    artifact = shop.push("hello")
    discard(replace(shop.settings, registry_user="acme"), shop.engine, "ann", artifact)
    assert not shop.in_engine(artifact)
    assert shop.in_registry(artifact)


def test_without_a_registry_what_another_owner_has_too_stays(
    engine: Engine, settings: Settings
) -> None:
    mark = secrets.token_hex(8)
    names = [f"slipway/{owner}/fn:{mark}" for owner in ("ann", "ann-b", "bob")]
    text = f"FROM {settings.python_image}\nLABEL x={mark}\n"
    with engine.asking("making an image") as api:
        for _ in api.build(fileobj=io.BytesIO(text.encode()), tag=names[0], rm=True):
            pass
        artifact = api.inspect_image(names[0])["Id"]
        for name in names[1:]:
            api.tag(artifact, name.rpartition(":")[0], mark)

        def tags() -> list[str]:
            return sorted(api.inspect_image(artifact)["RepoTags"])

        try:
            discard(settings, engine, "ann", artifact)
            assert tags() == names[1:]
            discard(settings, engine, "ann-b", artifact)
            assert tags() == names[2:], "the last name is not taken with the id"
            discard(settings, engine, "ann", artifact)
            assert tags() == names[2:]
            discard(settings, engine, "bob", artifact)
            with pytest.raises(NotFound), engine.asking("looking"):
                tags()
        finally:
            with contextlib.suppress(NotFound), engine.asking("tidying"):
                api.remove_image(artifact, force=True)

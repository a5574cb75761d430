"""What an installation has in its Docker engines, beside what it should have."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import docker
import msgspec
from docker.errors import NotFound

from core.models import FunctionRecord
from core.settings import Settings
from core.store import Store
from runtime.providers.docker.document import INSTALLATION, SPEC, Document
from tests.chaos.machine import SWEPT, differ, names


def complaints(
    settings: Settings,
    store: Store,
    records: dict[str, FunctionRecord],
    addresses: dict[str, set[str]],
) -> Iterator[str]:
    """Containers, networks, secrets and images; fills ``addresses`` by function."""
    with contextlib.closing(docker.APIClient(settings.engine_url, version="auto")) as engine:
        yield from _containers(engine, settings, records, addresses)
        ours = {"label": f"{INSTALLATION}={settings.mark}"}
        if len(networks := engine.networks(filters=ours)) != 1:
            yield f"networks: {[each['Name'] for each in networks]}"
        for function, record in records.items():
            try:
                engine.inspect_image(record.spec.artifact)
            except NotFound:
                yield f"the image of {function} is not in the engine"
    with contextlib.closing(docker.APIClient(settings.build_engine_url, version="auto")) as builds:
        for each in builds.containers(all=True):
            if time.time() - each["Created"] > SWEPT:
                yield f"a container of no build: {each['Names']} {each['Status']}"
        for image in builds.images():
            for tag in image["RepoTags"] or ():
                old = time.time() - image["Created"] > SWEPT
                if tag.startswith(f"slipway-build:{settings.mark}-") and old:
                    yield f"an image of no build: {tag}"
    yield from _registry(settings, store)


def _containers(
    engine: docker.APIClient,
    settings: Settings,
    records: dict[str, FunctionRecord],
    addresses: dict[str, set[str]],
) -> Iterator[str]:
    found: Counter[tuple[str, str]] = Counter()
    ids = set()
    ours = {"label": f"{INSTALLATION}={settings.mark}"}
    for each in engine.containers(all=True, filters=ours):
        text = each["Labels"].get(SPEC)
        if not text:
            yield f"a container without a document: {each['Names']}"
            continue
        document = msgspec.json.decode(text, type=Document)
        if each["State"] != "running":
            yield f"{document.id} is {each['State']}, and is there"
        ids.add(document.id)
        found[document.spec.function, document.spec.revision] += 1
        addresses.setdefault(document.spec.function, set()).add(document.address)
    wanted = Counter({(name, r.spec.revision): r.replicas for name, r in records.items()})
    for key in wanted.keys() | found.keys():
        if wanted[key] != found[key]:
            yield f"{key[0]}@{key[1]}: {found[key]} containers, {wanted[key]} desired"
    there = names(Path(f"/dev/shm/slipway-{settings.mark}"))
    yield from differ("folders of secrets", there, ids)


def _registry(settings: Settings, store: Store) -> Iterator[str]:
    """Each image in our registry is known, so that housekeeping finds it."""
    repositories = settings.registry_folder / "docker/registry/v2/repositories"
    for owner in repositories.iterdir() if repositories.is_dir() else ():
        known = {
            each.rpartition("@sha256:")[2]
            for each in store.known_artifacts([owner.name])[owner.name]
        }
        there = {link.parent.name for link in owner.glob("*/_manifests/revisions/sha256/*/link")}
        yield from differ(f"images of {owner.name}", there, known)

"""Whose artifacts an environment or a preview has, and how an installation of images holds what is
handed over against that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from core.errors import InvalidRequest
from core.images import check_owned, check_pinned
from core.models import Artifact, FunctionSpec
from core.repositories import Repository, Request
from core.settings import Settings
from gateway.releases import _artifact

FNS = Repository(namespace="ann", name="fns", source="github")
DIGEST = f"sha256:{'a' * 64}"


def child(**fields: object) -> Repository:
    return msgspec.structs.replace(FNS, namespace="ann--x", parent="ann/fns", **fields)  # type: ignore[arg-type]  # of the record


def test_environments_share_and_previews_do_not() -> None:
    """What a request's builds leave in caches would else go into production's next build."""
    assert FNS.artifacts_namespace == ""
    assert FNS.home == "ann/fns"
    assert child(environment="staging").artifacts_namespace == "ann"
    assert child(environment="staging").home == "ann/fns"
    for fork in (False, True):
        preview = child(request=Request(number=1, fork=fork))
        assert (preview.artifacts_namespace, preview.home) == ("", "ann/fns")


def test_the_namespace_of_an_artifact_is_its_own_unless_it_is_told() -> None:
    spec = FunctionSpec(name="f", namespace="ann--x", artifact="a")
    assert spec.artifacts_of == "ann--x"
    shared = msgspec.structs.replace(spec, artifacts_namespace="ann")
    assert shared.artifacts_of == "ann"
    assert b"artifactsNamespace" not in msgspec.json.encode(spec), "revisions stay what they were"


@pytest.fixture
def images(tmp_path: Path) -> Settings:
    settings = Settings.from_env({"SLIPWAY_STATE": str(tmp_path)})
    return replace(settings, runtime="docker", registry="reg.test:5000")


def handed(image: str, owner: str, *, foreign: bool = False) -> Artifact:
    spec = FunctionSpec(
        name="f",
        namespace="ann--staging",
        artifact=image,
        artifacts_namespace=owner,
        foreign=foreign,
    )
    return Artifact(name="f", key="k", artifact=image, spec=spec)


@pytest.mark.parametrize("foreign", [False, True])
def test_an_environment_runs_its_owner_s_images_and_nobody_else_s(
    images: Settings, foreign: bool
) -> None:
    def check(artifact: Artifact) -> None:
        _artifact(images, artifact.spec.artifacts_of, artifact)

    check(handed(f"reg.test:5000/ann/f@{DIGEST}", "ann", foreign=foreign))
    for image in (f"reg.test:5000/bob/f@{DIGEST}", f"reg.test:5000/ann--staging/f@{DIGEST}"):
        with pytest.raises(InvalidRequest, match="is not an image of ann"):
            check(handed(image, "ann", foreign=foreign))
    # A preview has its own, and not those of whom it was made from.
    with pytest.raises(InvalidRequest, match="is not an image of ann--staging"):
        check(handed(f"reg.test:5000/ann/f@{DIGEST}", "", foreign=foreign))
    check(handed(f"reg.test:5000/ann--staging/f@{DIGEST}", "", foreign=foreign))


def test_without_a_registry_an_image_is_an_id(images: Settings) -> None:
    bare = replace(images, registry="")
    check_owned(bare, "ann", DIGEST)
    with pytest.raises(InvalidRequest):
        check_owned(bare, "ann", f"slipway/ann/f@{DIGEST}")
    check_pinned(bare, "ann", f"ghcr.io/x/y@{DIGEST}")

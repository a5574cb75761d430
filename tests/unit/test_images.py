"""Which ready-made image a release may hand over, by its name alone."""

from __future__ import annotations

import pytest

from core.errors import InvalidRequest
from core.images import check_pinned
from core.settings import Settings

DIGEST = "sha256:" + "0" * 64
HERE = Settings.from_env({"SLIPWAY_REGISTRY": "127.0.0.1:5000"})


@pytest.mark.parametrize(
    "image",
    [
        f"figlet@{DIGEST}",
        f"ghcr.io/me/figlet:1.2@{DIGEST}",
        f"127.0.0.1:5000/ann/tools/figlet@{DIGEST}",
        f"127.0.0.1:50001/bob/figlet@{DIGEST}",
    ],
)
def test_one_by_digest_is_taken(image: str) -> None:
    check_pinned(HERE, "ann", image)


@pytest.mark.parametrize(
    ("image", "why"),
    [
        ("figlet:1", "names no digest"),
        (DIGEST, "names no digest"),
        ("bundle:" + DIGEST, "not the name of an image"),
        ("figlet@sha256:0", "not the name of an image"),
        (f"127.0.0.1:5000/bob/figlet@{DIGEST}", "not an image of ann"),
        (f"127.0.0.1:5000/annabel/figlet@{DIGEST}", "not an image of ann"),
        (f"127.0.0.1:5000/figlet@{DIGEST}", "not an image of ann"),
        (f"a b@{DIGEST}", "not the name of an image"),
    ],
)
def test_others_are_not(image: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        check_pinned(HERE, "ann", image)

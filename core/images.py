"""Names of images, and whose they may be: decided by the name alone, without asking an engine."""

from __future__ import annotations

import re

from core import names
from core.errors import InvalidRequest
from core.settings import Settings

LOCAL = "slipway"
"""What images are named below in the engine itself where there is no registry."""

_ID = re.compile(r"sha256:[0-9a-f]{64}")
# As github.com/distribution/reference has it.
_PATH = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
NAME = re.compile(
    r"(?P<place>(?:(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?)/)?"
    rf"{_PATH}(?:/{_PATH})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
LONGEST = 512
_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")


def parts(text: str) -> re.Match[str]:
    """``place`` with its ``host``, ``tag`` and ``digest`` of an image's name, as they were written.

    Raises:
        InvalidRequest: it is none.
    """
    match = NAME.fullmatch(text) if len(text) <= LONGEST else None
    if match is None:
        raise InvalidRequest(
            f"{text[:100]!r} is not the name of an image: write it like figlet, "
            "ghcr.io/me/figlet:1.2 or ghcr.io/me/figlet@sha256:<64 hex>, in lower case"
        )
    return match


def check_pinned(settings: Settings, namespace: str, artifact: str) -> None:
    """Holds a ready-made image that is handed over against what a release may name: one by digest,
    and of our own registry only the owner's. Whether it is outside, the runtime looks.

    Raises:
        InvalidRequest: it is no such image, or another owner's.
    """
    found = parts(artifact)
    ours = f"{settings.registry}/"
    mine = found["place"].startswith(f"{ours}{names.namespace(namespace)}/")
    if settings.registry and found["place"].startswith(ours) and not mine:
        raise InvalidRequest(f"{artifact[:200]!r} is not an image of {namespace}")
    if not found["digest"]:
        raise InvalidRequest(
            f"{artifact[:200]!r} names no digest: write name@sha256:<64 hex>, as tags move"
        )


def check_owned(settings: Settings, namespace: str, artifact: str) -> None:
    """Holds an artifact that is handed over against where this owner's images lie.

    That is ``<registry>/<namespace>/<function>@sha256:<64 hex>``; where there is no registry, an
    image's id ``sha256:<64 hex>``.

    Raises:
        InvalidRequest: it is no such image, or another owner's.
    """
    place, _, digest = artifact.rpartition("@")
    path = f"{settings.registry}/{names.namespace(namespace)}/"
    mine = place.startswith(path) and _LABEL.fullmatch(place.removeprefix(path)) is not None
    if not _ID.fullmatch(digest) or not (mine if settings.registry else not place):
        wanted = f"{path}<function>@sha256:<64 hex>" if settings.registry else "sha256:<64 hex>"
        raise InvalidRequest(
            f"{artifact[:200]!r} is not an image of {namespace}: it has the form {wanted}"
        )

"""Which image may be an owner's artifact: decided by its name alone, without asking an engine."""

from __future__ import annotations

import re

from core import names
from core.errors import InvalidRequest
from core.settings import Settings

LOCAL = "slipway"
"""What images are named below in the engine itself where there is no registry."""

_ID = re.compile(r"sha256:[0-9a-f]{64}")
_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")


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

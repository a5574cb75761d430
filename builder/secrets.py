"""Secrets that a build was given by name: the gateway opens them for the release being built.

They are in memory here and nowhere else; the key stays with the gateway.
"""

from __future__ import annotations

from urllib.parse import urlencode

import msgspec

from builder.handover import ask
from core.models import Release
from core.settings import Settings


def build_secret(settings: Settings, release: Release, name: str) -> bytes:
    """The value of one secret of the release's namespace.

    Raises:
        NotFound: the namespace has no such secret.
        Conflict: the release is not being built any more.
        Unavailable: the gateway did not come back in time.
    """
    path = f"/internal/releases/{release.id}/secrets?{urlencode({'name': name})}"
    answer = ask(settings, "GET", path)
    return msgspec.json.decode(answer, type=dict[str, bytes])[name]

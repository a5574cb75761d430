"""Removing a function's image: from the engine, and from the registry that is ours alone."""

from __future__ import annotations

import contextlib
import re

import requests

from core.errors import Conflict, NotFound, Unavailable
from core.settings import Settings
from engine.client import Engine
from engine.references import registry_url

_LOOPBACK = re.compile(r"(localhost|127(\.[0-9]{1,3}){3})(:[0-9]+)?(/|$)")


def discard(settings: Settings, engine: Engine, artifact: str) -> None:
    """Removes an image and its tags; one that a container still uses stays. May be repeated.

    A registry that asks for a user, or lies elsewhere, has a retention of its own: nothing is
    deleted there.

    Raises:
        Unavailable: engine or registry does not answer; trying again can help.
    """
    name, at, digest = artifact.partition("@")
    what = f"{artifact} is not removed"
    with contextlib.suppress(NotFound, Conflict), engine.asking(what) as api:
        tags = [
            tag
            for tag in api.inspect_image(artifact).get("RepoTags") or []
            if (tag.rpartition(":")[0] == name if at else tag.startswith("slipway/"))
        ]
        for reference in [*tags, artifact]:
            with contextlib.suppress(NotFound), engine.asking(what) as api:
                api.remove_image(reference)
    if at and _LOOPBACK.match(artifact) and not settings.registry_user:
        _delete(f"{registry_url(settings)}/v2/{name.partition('/')[2]}/manifests/{digest}")


def _delete(url: str) -> None:
    """``DELETE /v2/<name>/manifests/<digest>`` (OCI distribution specification 1.1, end-9)."""
    try:
        with requests.Session() as session:
            session.trust_env = False  # it is on loopback
            status = session.delete(url, timeout=10).status_code
    except requests.RequestException as error:
        raise Unavailable(f"the registry does not answer at {url}: {error}") from error
    if status not in (202, 404, 405):  # 405: it was told to delete nothing
        raise Unavailable(f"the registry answered {status} to DELETE {url}")

"""Removing a function's image: from the engine, and from the registry that is ours alone. And what
lies in that one without being known."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator

import requests

from core.errors import Conflict, NotFound, Unavailable
from core.settings import Settings
from engine.client import Engine
from engine.references import registry_url

TAG = 24
"""Characters of a build key that are its image's tag."""
_MANIFESTS = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
_OURS = re.compile(f"[0-9a-f]{{{TAG}}}")
_LOOPBACK = re.compile(r"(localhost|127(\.[0-9]{1,3}){3})(:[0-9]+)?(/|$)")


def discard(settings: Settings, engine: Engine, namespace: str, artifact: str) -> None:
    """Removes an owner's image and its tags; one that a container uses stays. May be repeated.

    A bare id may be another owner's image as well, or the operator's: then only this owner's names
    go. A registry that asks for a user, lies elsewhere, or is none of ours by now, has a retention
    of its own: nothing is deleted there.

    Raises:
        Unavailable: engine or registry does not answer; trying again can help.
    """
    name, at, digest = artifact.partition("@")
    own = f"{name}:" if at else f"slipway/{namespace}/"
    what = f"{artifact} is not removed"
    with contextlib.suppress(NotFound, Conflict), engine.asking(what) as api:
        tags = api.inspect_image(artifact).get("RepoTags") or []
        for tag in tags:
            if tag.startswith(own):
                with contextlib.suppress(NotFound), engine.asking(what) as api:
                    api.remove_image(tag)
        if at or not tags:  # with its last name an image goes by itself
            with contextlib.suppress(NotFound), engine.asking(what) as api:
                api.remove_image(artifact)
    ours = bool(settings.registry) and name.startswith(f"{settings.registry}/")
    if at and ours and _LOOPBACK.match(artifact) and not settings.registry_user:
        _delete(f"{registry_url(settings)}/v2/{name.partition('/')[2]}/manifests/{digest}")


def stray(settings: Settings, build_keys: Collection[str]) -> Iterator[tuple[str, str]]:
    """(namespace, artifact) of images in the registry that ``slipway up`` started whose tag is that
    of a build, and of none of these build keys. Other tags are those of images that people pushed.

    ``GET /v2/<name>/tags/list`` and ``HEAD /v2/<name>/manifests/<tag>`` are end-8 and end-2 of the
    OCI distribution specification 1.1, ``GET /v2/_catalog`` is the registry's own.

    Raises:
        Unavailable: it does not answer.
    """
    port = ""
    with contextlib.suppress(FileNotFoundError):
        port = (settings.state / "registry-port").read_text().strip()
    if settings.registry != f"127.0.0.1:{port}":
        return  # others may use it, too
    tags = {key[:TAG] for key in build_keys}
    url = registry_url(settings)
    try:
        with requests.Session() as session:
            session.trust_env = False  # it is on loopback

            def listed(path: str, what: str) -> Iterator[str]:
                while path:
                    answer = session.get(f"{url}{path}", timeout=10)
                    if answer.ok:  # else it went meanwhile
                        yield from answer.json().get(what) or []
                    path = answer.links.get("next", {}).get("url", "")

            for name in listed("/v2/_catalog", "repositories"):
                namespace, _, function = name.partition("/")
                found = filter(_OURS.fullmatch, listed(f"/v2/{name}/tags/list", "tags"))
                for tag in set(found) - tags:
                    manifest = f"{url}/v2/{name}/manifests/{tag}"
                    answer = session.head(manifest, headers={"Accept": _MANIFESTS}, timeout=10)
                    if function and (digest := answer.headers.get("Docker-Content-Digest")):
                        yield namespace, f"{settings.registry}/{name}@{digest}"
    except (requests.RequestException, ValueError) as error:
        raise Unavailable(f"the registry does not answer at {url}: {error}") from error


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

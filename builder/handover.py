"""Hands a built commit to the gateway: one ``PUT …/artifacts`` for all its functions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

import msgspec
import requests

from core import logging
from core.errors import Conflict, NotFound, SlipwayError, Unavailable
from core.models import Artifact, Artifacts, Release
from core.repositories import Repository
from core.settings import Settings
from core.signing import secret_file


class Opened(msgspec.Struct, frozen=True):
    """How a forge's repository is fetched; see gateway/origins.py."""

    authorization: str = ""
    trouble: str = ""
    refused: str = ""


class HeadTold(msgspec.Struct, frozen=True):
    """What a branch is at, as the forge told the gateway; see gateway/origins.py."""

    commit: str = ""
    etag: str = ""
    unchanged: bool = False
    by_git: bool = False


class TagsTold(msgspec.Struct, frozen=True):
    """Whether the tags that promote changed; see gateway/origins.py."""

    objects: dict[str, str] = {}
    etag: str = ""
    unchanged: bool = False
    by_git: bool = False


class Standing(msgspec.Struct, frozen=True):
    """Whether what was built may go live; see gateway/origins.py."""

    refused: str = ""


log = logging.get()

PATIENCE = 60.0
"""Seconds in which a gateway that restarts may come back."""


def hand_over(
    settings: Settings,
    release: Release,
    artifacts: Sequence[Artifact],
    environments: Mapping[str, str],
) -> None:
    """Idempotent: a repeated PUT changes nothing.

    Raises:
        Conflict: the release was superseded or cancelled, or a name belongs to somebody else.
        Unavailable: the gateway did not come back in time.
    """
    body = Artifacts(
        commit=release.commit, functions=list(artifacts), environments=dict(environments)
    )
    path = f"/system/releases/{release.id}/artifacts"
    ask(settings, "PUT", path, msgspec.json.encode(body))


def opened_by_gateway(settings: Settings, repository: Repository, *, checked: bool) -> Opened:
    """What opens a repository of a forge for reading; ``checked``: the forge is asked first whether
    it still has this name. Raises as ``ask``."""
    path = f"/internal/repositories/{repository.key}/credential" + ("?checked=1" * checked)
    return msgspec.json.decode(ask(settings, "GET", path), type=Opened)


def head_by_gateway(settings: Settings, repository: Repository, etag: str) -> HeadTold:
    """What the deployed branch is at, by the forge's API where it may be asked. Raises as ``ask``,
    which is not patient: it is asked again anyway."""
    path = f"/internal/repositories/{repository.key}/head?{urlencode({'etag': etag})}"
    return msgspec.json.decode(ask(settings, "GET", path, patience=0.0), type=HeadTold)


def tags_by_gateway(settings: Settings, repository: Repository, etag: str) -> TagsTold:
    """The same of the tags that promote."""
    path = f"/internal/repositories/{repository.key}/tags?{urlencode({'etag': etag})}"
    return msgspec.json.decode(ask(settings, "GET", path, patience=0.0), type=TagsTold)


def tell_tags(settings: Settings, repository: Repository, there: Mapping[str, str]) -> bool:
    """Tells all tags that promote, and the commit that each stands for; whether all were looked at.
    Raises as ``ask``."""
    path = f"/internal/repositories/{repository.key}/tags"
    body = msgspec.json.encode(there)
    return msgspec.json.decode(ask(settings, "PUT", path, body, patience=0.0), type=bool)


def check_standing(settings: Settings, repository: Repository) -> None:
    """Has the forge asked whether a repository is still there, and its owner's. A forge that is
    away, however the gateway comes to know that, holds up nothing.

    Raises:
        Conflict: it is not.
        Others: as ``ask``, but for Unavailable.
    """
    path = f"/internal/repositories/{repository.key}/standing"
    try:
        told = msgspec.json.decode(ask(settings, "GET", path), type=Standing)
    except Unavailable as error:
        log.warning("standing_unknown", repository=repository.key, reason=str(error)[:300])
        return
    if told.refused:
        raise Conflict(told.refused)


def have_looked_at(
    settings: Settings, repository: Repository, *, patience: float = PATIENCE
) -> None:
    """Has the forge asked what became of a repository that cannot be fetched. Raises as ``ask``."""
    ask(settings, "POST", f"/internal/repositories/{repository.key}/look", patience=patience)


def ask(
    settings: Settings,
    method: str,
    path: str,
    body: bytes | None = None,
    *,
    patience: float = PATIENCE,
) -> bytes:
    """Asks the gateway with the builder's token, and again while it restarts, for ``patience``
    seconds; returns its answer.

    Raises:
        NotFound, Conflict: in the gateway's words.
        Unavailable: the gateway did not come back in time.
    """
    headers = {
        "Authorization": f"Bearer {secret_file(settings.token_file)}",
        "Content-Type": "application/json",
    }
    deadline = time.monotonic() + patience
    pause = 0.05
    with requests.Session() as session:
        session.trust_env = False  # the gateway is ours: no proxy, no .netrc
        while True:
            try:
                url = settings.base_url + path
                answer = session.request(method, url, data=body, headers=headers, timeout=30)
            except requests.RequestException as error:
                trouble = f"no answer ({type(error).__name__})"
            else:
                if answer.ok:
                    return answer.content
                told = answer.text.strip()[:2000]
                trouble = f"{answer.status_code}: {told[:500]}"
                for kind in (Conflict, NotFound):
                    if answer.status_code == kind.status:
                        raise kind(told)
                if answer.status_code not in (502, 503, 504):
                    raise SlipwayError(f"the gateway refused {method} {path} with {trouble}")
            if time.monotonic() >= deadline:
                raise Unavailable(
                    f"the gateway at {settings.base_url} did not take {method} {path}: {trouble}"
                )
            time.sleep(pause)
            pause = min(pause * 2, 2.0)

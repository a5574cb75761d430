"""Deploy tokens that we make for one project, to read it with git and for an hour.

Source of the formats: https://docs.gitlab.com/api/deploy_tokens. GitLab counts their end by the
second where git asks. A process that dies leaves its token behind: it ends by itself, and whoever
makes the next one removes what has ended.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from core.errors import NotAllowed, SlipwayError
from core.repositories import Repository
from forges.gitlab.access import PAGE, Access, project

NAME = "slipway"
SECONDS = 3600.0
SPARE = 900.0
"""Seconds that one has left at least when it is handed out: a clone takes its time."""


class _Made(msgspec.Struct):
    username: str
    token: str


class _Listed(msgspec.Struct):
    id: int
    name: str
    expired: bool = False


class _Kept(NamedTuple):
    credential: str
    ends: float

    def __repr__(self) -> str:
        return "_Kept()"


class DeployTokens:
    """Threads may share it."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}

    def __repr__(self) -> str:
        return "DeployTokens()"

    def credential(self, repository: Repository) -> str:
        """``username:token``.

        Raises as ``forges.Forge``; NotAllowed: our token may not make any."""
        path = f"{project(repository)}/deploy_tokens"
        with self._lock:
            kept = self._kept.get(path)
            if kept and kept.ends - time.time() > SPARE:
                return kept.credential
        made = self._make(repository, path)
        with self._lock:
            self._kept[path] = made
        self._tidy(path)
        return made.credential

    def _make(self, repository: Repository, path: str) -> _Kept:
        ends = time.time() + SECONDS
        body = {
            "name": NAME,
            "scopes": ["read_repository"],
            "expires_at": datetime.fromtimestamp(ends, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        try:
            made: _Made = self._access.ask("POST", path, body=body, expect=_Made).body
        except NotAllowed as error:
            raise NotAllowed(
                f"our access token may not make deploy tokens for {repository.full_name}: give its "
                f"user the role Maintainer there, and it the scope api ({error})"
            ) from error
        return _Kept(f"{made.username}:{made.token}", ends)

    def _tidy(self, path: str) -> None:
        """Nothing fails for it: what stays is of no use to anybody, the next one tries again."""
        try:
            query = {"per_page": PAGE}
            listed: list[_Listed] = self._access.ask(
                "GET", path, query=query, expect=list[_Listed]
            ).body
            for each in listed:
                if each.name == NAME and each.expired:
                    self._access.ask("DELETE", f"{path}/{each.id}")
        except SlipwayError:
            return

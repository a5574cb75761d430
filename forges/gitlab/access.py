"""How GitLab is asked: with the installation's access token where there is one.

Source of the formats: https://docs.gitlab.com/api/rest. A project is asked for by its id, which it
keeps where it is renamed or goes to another group.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from core.errors import NotAllowed
from core.repositories import Repository
from core.settings import Settings
from forges import tokenfile
from forges.api import Answer, Api

PAGE = 100
"""The most that GitLab puts on a page."""


class Access:
    """Threads may share it."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError: the token's file cannot be read."""
        self._api = Api(f"{settings.gitlab_url}/api/v4", "GitLab")
        self._token = tokenfile.read(settings.gitlab_token_file)

    def __repr__(self) -> str:
        return "Access()"

    @property
    def has_token(self) -> bool:
        return bool(self._token)

    def ask(
        self,
        method: str,
        path: str,
        *,
        etag: str = "",
        query: Mapping[str, str | int] | None = None,
        body: Any = None,
        expect: type[Any] = object,
    ) -> Answer:
        """Raises as ``Api.ask``; NotAllowed: something is to be changed, and we have no token."""
        headers = {"If-None-Match": etag} if etag else {}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        elif method != "GET":
            raise NotAllowed(
                "nothing is shown at GitLab without an access token: set SLIPWAY_GITLAB_TOKEN_FILE"
            )
        return self._api.ask(method, path, headers=headers, query=query, body=body, expect=expect)


def project(repository: Repository) -> str:
    """Path of its project in the API."""
    return f"/projects/{quote(repository.forge_id or repository.full_name, safe='')}"

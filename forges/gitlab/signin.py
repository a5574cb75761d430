"""Signing in with GitLab, as an OAuth application of its.

Source of the formats: GitLab's documentation "OAuth 2.0 identity provider API", "Users API"
(``/user``) and "Groups API". An owner is a namespace: a user's own, or an outermost group, whose id
is that of its namespace.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlencode

import msgspec

from core.errors import InvalidRequest, NotAllowed, SlipwayError
from core.settings import Settings
from forges.api import Api
from forges.github.app import secret
from forges.signin import Person

OWNER, REPORTER = 50, 20
"""Roles of members; reporters are the least that may see a private project's code."""
_PAGE, _MOST_PAGES = 100, 5


class _Token(msgspec.Struct):
    access_token: str


class _User(msgspec.Struct):
    username: str
    namespace_id: int
    """Of their own namespace; a user's own id is another number."""


class _Group(msgspec.Struct):
    id: int
    parent_id: int | None = None


class GitLabSignIn:
    name = "gitlab"
    title = "GitLab"

    def __init__(self, settings: Settings) -> None:
        self.url = settings.gitlab_url
        self._id = settings.gitlab_client_id
        file = settings.gitlab_client_secret_file
        self._secret = secret(file) if file else ""
        self._api = Api(self.url, "GitLab")

    @property
    def configured(self) -> bool:
        return bool(self._id and self._secret)

    def page(self, state: str, challenge: str, back: str) -> str:
        asked = {
            "client_id": self._id,
            "redirect_uri": back,
            "response_type": "code",
            "scope": "read_api",
            "state": state,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        return f"{self.url}/oauth/authorize?{urlencode(asked)}"

    def who(self, code: str, verifier: str, back: str) -> Person:
        token = self._token(code, verifier, back)
        try:
            return self._person({"Authorization": f"Bearer {token}"})
        finally:
            form = {"client_id": self._id, "client_secret": self._secret, "token": token}
            with suppress(SlipwayError):  # it ends by itself, and nobody has kept it
                self._api.ask("POST", "/oauth/revoke", form=form)

    def _token(self, code: str, verifier: str, back: str) -> str:
        form = {
            "grant_type": "authorization_code",
            "client_id": self._id,
            "client_secret": self._secret,
            "code": code,
            "redirect_uri": back,
            "code_verifier": verifier,
        }
        try:
            answer = self._api.ask("POST", "/oauth/token", form=form, expect=_Token)
        except (InvalidRequest, NotAllowed) as error:
            raise NotAllowed(f"GitLab does not take the code: {error}") from error
        return str(answer.body.access_token)

    def _person(self, headers: dict[str, str]) -> Person:
        user = self._api.ask("GET", "/api/v4/user", headers=headers, expect=_User).body
        owned = list(self._groups(headers, OWNER))
        groups = self._groups(headers, REPORTER)
        return Person(
            id=str(user.namespace_id),
            login=user.username,
            owns=[str(user.namespace_id), *owned],
            member=[each for each in groups if each not in owned],
        )

    def _groups(self, headers: dict[str, str], role: int) -> Iterator[str]:
        """Ids of the outermost groups in which they have at least this role."""
        for page in range(1, _MOST_PAGES + 1):
            query: dict[str, str | int] = {
                "min_access_level": role,
                "top_level_only": "true",
                "per_page": _PAGE,
                "page": page,
            }
            answer = self._api.ask(
                "GET", "/api/v4/groups", headers=headers, query=query, expect=list[_Group]
            )
            yield from (str(each.id) for each in answer.body if each.parent_id is None)
            if len(answer.body) < _PAGE:
                return

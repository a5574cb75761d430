"""Signing in with GitHub: by the App that we are, or by an OAuth app of the settings.

Source of the formats: GitHub's documentation "Authorizing OAuth apps" (an App's users come the
same way), https://docs.github.com/rest/users, /orgs/members and /apps/oauth-applications.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import quote, urlencode

import msgspec

from core.errors import NotAllowed, NotFound, SlipwayError
from core.settings import Settings
from forges.api import Api
from forges.github.app import stored_app
from forges.signin import Person

_PAGE, _MOST_PAGES = 100, 5


class _Token(msgspec.Struct):
    """Mistakes come with the status 200."""

    access_token: str = ""
    error: str = ""


class _Account(msgspec.Struct):
    id: int
    login: str


class _Membership(msgspec.Struct):
    state: str
    role: str
    """``admin``, ``member``, ``billing_manager``."""
    organization: _Account


class GitHubSignIn:
    name = "github"
    title = "GitHub"

    def __init__(self, settings: Settings) -> None:
        app = stored_app(settings)
        self.url = settings.github_url
        self._id, self._secret = app.client_id, app.client_secret
        self._site = Api(settings.github_url, "GitHub")
        self._api = Api(settings.github_api, "GitHub")

    @property
    def configured(self) -> bool:
        return bool(self._id and self._secret)

    def page(self, state: str, challenge: str, back: str) -> str:
        asked = {
            "client_id": self._id,
            "redirect_uri": back,
            "scope": "read:org",  # an App has its permissions instead
            "state": state,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        return f"{self.url}/login/oauth/authorize?{urlencode(asked)}"

    def who(self, code: str, verifier: str, back: str) -> Person:
        token = self._token(code, verifier, back)
        try:
            return self._person({"Authorization": f"Bearer {token}"})
        finally:
            self._give_up(token)

    def _token(self, code: str, verifier: str, back: str) -> str:
        body = {
            "client_id": self._id,
            "client_secret": self._secret,
            "code": code,
            "redirect_uri": back,
            "code_verifier": verifier,
        }
        answer = self._site.ask("POST", "/login/oauth/access_token", body=body, expect=_Token)
        if not answer.body.access_token:
            raise NotAllowed(f"GitHub does not take the code: {answer.body.error[:100]}")
        return str(answer.body.access_token)

    def _person(self, headers: dict[str, str]) -> Person:
        user = self._api.ask("GET", "/user", headers=headers, expect=_Account).body
        found = list(self._memberships(headers))
        return Person(
            id=str(user.id),
            login=user.login,
            owns=[str(user.id), *(str(e.organization.id) for e in found if e.role == "admin")],
            member=[str(each.organization.id) for each in found if each.role == "member"],
        )

    def _memberships(self, headers: dict[str, str]) -> Iterator[_Membership]:
        for page in range(1, _MOST_PAGES + 1):
            query: dict[str, str | int] = {"state": "active", "per_page": _PAGE, "page": page}
            try:
                answer = self._api.ask(
                    "GET",
                    "/user/memberships/orgs",
                    headers=headers,
                    query=query,
                    expect=list[_Membership],
                )
            except (NotAllowed, NotFound):  # an App that may not see members: themselves alone
                return
            yield from (each for each in answer.body if each.state == "active")
            if len(answer.body) < _PAGE:
                return

    def _give_up(self, token: str) -> None:
        basic = base64.b64encode(f"{self._id}:{self._secret}".encode()).decode()
        path = f"/applications/{quote(self._id, safe='')}/token"
        with suppress(SlipwayError):  # it ends by itself, and nobody has kept it
            self._api.ask(
                "DELETE",
                path,
                headers={"Authorization": f"Basic {basic}"},
                body={"access_token": token},
            )

"""One comment on a pull request, kept current.

Source of the formats: https://docs.github.com/rest/issues/comments. It ends with a mark that GitHub
does not show, by which it is found again. Everybody can write that mark: only what we wrote counts.
"""

from __future__ import annotations

import msgspec

from core.errors import NotFound
from core.repositories import Repository
from forges import shown
from forges.github import texts
from forges.github.credentials import OWN, Credentials, path_of

_MAY = {"pull_requests": "write"}
_PAGE = 100
_MOST_PAGES = 10
"""It is written as the request is opened, and is among the first."""


class _Id(msgspec.Struct):
    id: int


class _Comment(msgspec.Struct):
    id: int
    body: str | None = None
    user: _Id | None = None
    performed_via_github_app: _Id | None = None


class Comments:
    def __init__(self, credentials: Credentials, installation: str) -> None:
        """``installation``: what tells this Slipway from others that comment."""
        self._credentials = credentials
        self.mark = shown.mark(installation)

    def show(self, repository: Repository, number: int, text: str, known: str) -> str:
        body = {"body": shown.marked(text, self.mark, texts.MOST_COMMENT)}
        issues = f"{path_of(repository)}/issues"
        id_ = known if known.isdecimal() else self._find(repository, number)
        if id_:
            path = f"{issues}/comments/{id_}"
            try:
                self._credentials.ask(repository, _MAY, "PATCH", path, body=body)
                return id_
            except NotFound:
                """Somebody deleted it; or the request is not there any more."""
        path = f"{issues}/{number}/comments"
        told = self._credentials.ask(repository, _MAY, "POST", path, body=body, expect=_Id)
        return str(told.body.id)

    def _find(self, repository: Repository, number: int) -> str:
        path = f"{path_of(repository)}/issues/{number}/comments"
        us = self._we(repository)
        for page in range(1, _MOST_PAGES + 1):
            told = self._credentials.ask(
                repository,
                _MAY,
                "GET",
                path,
                query={"per_page": _PAGE, "page": page},
                expect=list[_Comment],
            ).body
            for each in told:
                if _author(each) == us and (each.body or "").rstrip().endswith(self.mark):
                    return str(each.id)
            if len(told) < _PAGE:
                break
        return ""

    def _we(self, repository: Repository) -> tuple[str, int]:
        credential = self._credentials.of(repository, _MAY)
        if credential and credential.who != OWN:
            return "app", self._credentials.app
        return "user", self._credentials.as_ourselves("GET", "/user", expect=_Id).body.id


def _author(comment: _Comment) -> tuple[str, int]:
    if comment.performed_via_github_app:
        return "app", comment.performed_via_github_app.id
    return "user", comment.user.id if comment.user else 0

"""One comment on a merge request, kept current: GitLab calls it a note.

Source of the formats: https://docs.gitlab.com/api/notes. It ends with a mark that GitLab does not
show. Everybody can write that mark: only what we wrote counts.
"""

from __future__ import annotations

import msgspec

from core.errors import NotFound
from core.repositories import Repository
from forges import shown
from forges.gitlab.access import PAGE, Access, project

_MOST = 500_000
"""Bytes; GitLab takes a million characters."""
_MOST_PAGES = 10
"""It is written as the request is opened, and is among the first."""


class _Id(msgspec.Struct):
    id: int


class _Note(msgspec.Struct):
    id: int
    body: str
    author: _Id


class Notes:
    def __init__(self, access: Access, installation: str) -> None:
        """``installation``: the URL that tells us from others that comment."""
        self._access = access
        self._mark = shown.mark(installation)

    def show(self, repository: Repository, number: int, text: str, known: str) -> str:
        body = {"body": shown.marked(text, self._mark, _MOST)}
        path = f"{project(repository)}/merge_requests/{number}/notes"
        id_ = known if known.isdecimal() else self._find(path)
        if id_:
            try:
                self._access.ask("PUT", f"{path}/{id_}", body=body)
                return id_
            except NotFound:
                """Somebody deleted it; or the request is gone, as the next one tells."""
        return str(self._access.ask("POST", path, body=body, expect=_Id).body.id)

    def _find(self, path: str) -> str:
        us = self._access.ask("GET", "/user", expect=_Id).body.id
        for page in range(1, _MOST_PAGES + 1):
            query: dict[str, str | int] = {
                "sort": "asc",
                "order_by": "created_at",
                "per_page": PAGE,
                "page": page,
            }
            notes: list[_Note] = self._access.ask("GET", path, query=query, expect=list[_Note]).body
            for each in notes:
                if each.author.id == us and each.body.rstrip().endswith(self._mark):
                    return str(each.id)
            if len(notes) < PAGE:
                break
        return ""

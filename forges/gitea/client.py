"""The REST API of Gitea and Forgejo: what it tells of repositories, and what we show there.

Source of the formats: Gitea's own description, ``/swagger.v1.json`` of every installation. Most of
it goes by name, and a name that was given up may be somebody else's: which name a repository has
now is asked for by its id first, each time (docs/decisions/0035-gitlab-and-gitea.md). Gitea knows
no deployments, and gives no tags by which an unchanged answer is told.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from core import names
from core.errors import InvalidRequest, NotAllowed, NotFound, NotSupported
from core.repositories import Repository
from core.settings import Settings
from forges import Deployment, Head, Progress, Report, Tags, payloads, shown, tokenfile
from forges.api import Answer, Api, listed
from forges.events import ForgeRepository, PullRequest
from forges.gitea import webhooks

_OF_REQUEST = re.compile(r"refs/pull/([0-9]{1,9})/head")
_PAGE, _MOST = 50, 100
"""The most that Gitea puts on a page, where its administrator allows no less; how many requests are
read."""
_MOST_LINE = 255
_MOST_COMMENT = 65_000
"""Bytes: databases of old installations hold no more."""
_STATES = {
    Progress.QUEUED: "pending",
    Progress.RUNNING: "pending",
    Progress.SUCCESS: "success",
    Progress.FAILURE: "failure",
    Progress.CANCELLED: "warning",
    Progress.NOTHING: "success",
}


class _Id(msgspec.Struct):
    id: int


class _Branch(msgspec.Struct):
    commit: webhooks.Commit | None = None


class _Comment(msgspec.Struct):
    id: int
    body: str = ""
    user: _Id | None = None


class Gitea:
    """See ``forges.Forge``. Threads may share it."""

    name = "gitea"

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError: the token's file cannot be read."""
        self._api = Api(f"{settings.gitea_url}/api/v1", "Gitea")
        self._token = tokenfile.read(settings.gitea_token_file)
        self._mark = shown.mark(settings.user_url)

    def __repr__(self) -> str:
        return "Gitea()"

    def clone_credential(self, repository: Repository) -> str:
        """The installation's own token: Gitea makes none that end, or that open one repository."""
        if repository.public or not self._token:
            return ""
        return "Basic " + base64.b64encode(f"slipway:{self._token}".encode()).decode()

    def head(self, repository: Repository, reference: str, etag: str = "") -> Head | None:  # noqa: ARG002 - all forges' signature
        payloads.reference(reference)
        path = _path(self.describe(repository))
        of_request = _OF_REQUEST.fullmatch(reference)
        try:
            if of_request:
                pull = self._ask("GET", f"{path}/pulls/{of_request[1]}", expect=webhooks.Request)
                return Head(names.commit(pull.body.head.sha))
            if not reference.startswith("refs/heads/"):
                raise InvalidRequest(f"{reference[:80]!r} is neither a branch nor a request's head")
            branch = quote(reference[len("refs/heads/") :], safe="")
            commit = self._ask("GET", f"{path}/branches/{branch}", expect=_Branch).body.commit
            return Head(names.commit(commit.id) if commit else "")
        except NotFound:
            return Head("")

    def tags(self, repository: Repository, below: str, etag: str = "") -> Tags | None:  # noqa: ARG002 - all forges' signature
        raise NotSupported("Gitea does not tell whether anything changed: git lists them")

    def describe(self, repository: Repository) -> ForgeRepository:
        id_ = quote(repository.forge_id, safe="")
        path = f"/repositories/{id_}" if id_ else f"/repos/{quote(repository.full_name)}"
        try:
            return webhooks.described(self._ask("GET", path, expect=webhooks.Repository).body)
        except NotFound as error:
            if self._token:
                raise
            raise NotAllowed(
                f"Gitea does not show {repository.full_name} to everybody, and we have no token: "
                "set SLIPWAY_GITEA_TOKEN_FILE"
            ) from error

    def installation(self, repository: Repository) -> str:  # noqa: ARG002 - all forges' signature
        return ""

    def requests(self, repository: Repository) -> Sequence[PullRequest]:
        into = self.describe(repository)

        def page(number: int) -> list[webhooks.Request]:
            query: dict[str, str | int] = {"state": "open", "limit": _PAGE, "page": number}
            path = f"{_path(into)}/pulls"
            told: list[webhooks.Request] = self._ask(
                "GET", path, query=query, expect=list[webhooks.Request]
            ).body
            return told

        def ends(last: list[webhooks.Request], found: list[webhooks.Request]) -> bool:
            # Not by what was asked for: MAX_RESPONSE_ITEMS may be less, and others are there then.
            return not last or len(found) >= _MOST

        found = listed(page, ends, lambda each: each.number)
        return [webhooks.request(each, into) for each in found[:_MOST]]

    def report(self, repository: Repository, report: Report, known: str = "") -> str:
        """What is remembered is a digest: the same is not set twice in a row."""
        commit = names.commit(report.commit)
        body = {
            "state": _STATES[report.progress],
            "context": shown.line(report.context, _MOST_LINE),
            "description": shown.line(report.title, _MOST_LINE),
            "target_url": report.url,
        }
        digest = hashlib.sha256(msgspec.json.encode([commit, body])).hexdigest()[:32]
        if digest != known:
            path = f"{_path(self.describe(repository))}/statuses/{commit}"
            self._ask("POST", path, body=body)
        return digest

    def deployment(self, repository: Repository, deployment: Deployment, known: str = "") -> str:  # noqa: ARG002 - all forges' signature
        return known

    def comment(self, repository: Repository, number: int, text: str, known: str = "") -> str:
        body = {"body": shown.marked(text, self._mark, _MOST_COMMENT)}
        issues = f"{_path(self.describe(repository))}/issues"
        id_ = known if known.isdecimal() else self._find(f"{issues}/{number}/comments")
        if id_:
            try:
                self._ask("PATCH", f"{issues}/comments/{id_}", body=body)
                return id_
            except NotFound:
                """Somebody deleted it; or the request is gone, as the next one tells."""
        told = self._ask("POST", f"{issues}/{number}/comments", body=body, expect=_Id)
        return str(told.body.id)

    def _find(self, path: str) -> str:
        """Our comment by its mark, which everybody can write: only what we wrote counts."""
        us = self._ask("GET", "/user", expect=_Id).body.id
        comments: list[_Comment] = self._ask("GET", path, expect=list[_Comment]).body
        for each in comments:
            if each.user and each.user.id == us and each.body.rstrip().endswith(self._mark):
                return str(each.id)
        return ""

    def _ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: Any = None,
        expect: type[Any] = object,
    ) -> Answer:
        headers = {"Authorization": f"token {self._token}"} if self._token else {}
        if not self._token and method != "GET":
            raise NotAllowed(
                "nothing is shown at Gitea without an access token: set SLIPWAY_GITEA_TOKEN_FILE"
            )
        return self._api.ask(method, path, headers=headers, query=query, body=body, expect=expect)


def _path(repository: ForgeRepository) -> str:
    return f"/repos/{repository.full_name}"

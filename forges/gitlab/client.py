"""GitLab's REST API: what it tells of projects, and what we show there.

Source of the formats: https://docs.gitlab.com/api/rest (docs/decisions/0035-gitlab-and-gitea.md).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from urllib.parse import quote

import msgspec

from core import names
from core.errors import InvalidRequest, NotAllowed, NotFound, NotSupported
from core.repositories import Repository
from core.settings import Settings
from forges import Deployment, Head, Report, Tags, paths, payloads
from forges.api import listed
from forges.events import ForgeRepository, PullRequest
from forges.gitlab import webhooks
from forges.gitlab.access import PAGE, Access, project
from forges.gitlab.deployments import Deployments
from forges.gitlab.deploytokens import DeployTokens
from forges.gitlab.notes import Notes
from forges.gitlab.statuses import Statuses

_MOST_PAGES = 10
"""Of requests, until there are as many with commits as one page has."""
_OF_REQUEST = re.compile(r"refs/merge-requests/([0-9]{1,9})/head")


class _Namespace(msgspec.Struct):
    id: int
    full_path: str


class _Project(msgspec.Struct):
    id: int
    path_with_namespace: str
    namespace: _Namespace
    default_branch: str | None = None
    visibility: str = "private"


class _Group(msgspec.Struct):
    id: int


class _Commit(msgspec.Struct):
    id: str


class _Branch(msgspec.Struct):
    commit: _Commit


class _Request(msgspec.Struct):
    iid: payloads.Number
    state: str
    target_branch: str
    source_project_id: int | None = None
    sha: str | None = None
    """Null where it has no commits."""
    title: str = ""
    web_url: str = ""
    updated_at: str | None = None


class GitLab:
    """See ``forges.Forge``. Threads may share it."""

    name = "gitlab"

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError: the token's file cannot be read."""
        self._access = access = Access(settings)
        self._tokens = DeployTokens(access)
        self._statuses = Statuses(access)
        self._deployments = Deployments(access)
        self._notes = Notes(access, settings.user_url)

    def clone_credential(self, repository: Repository) -> str:
        if repository.public or not self._access.has_token:
            return ""
        pair = self._tokens.credential(repository)
        return "Basic " + base64.b64encode(pair.encode()).decode()

    def head(self, repository: Repository, reference: str, etag: str = "") -> Head | None:
        payloads.reference(reference)
        path, of_request = project(repository), _OF_REQUEST.fullmatch(reference)
        try:
            if of_request:
                path += f"/merge_requests/{of_request[1]}"
                answer = self._access.ask("GET", path, etag=etag, expect=_Request)
            elif reference.startswith("refs/heads/"):
                path += f"/repository/branches/{quote(reference[len('refs/heads/') :], safe='')}"
                answer = self._access.ask("GET", path, etag=etag, expect=_Branch)
            else:
                raise InvalidRequest(f"{reference[:80]!r} is neither a branch nor a request's head")
        except NotFound:
            self.describe(repository)
            return Head("")
        if answer.status == 304:
            return None
        commit = answer.body.sha if of_request else answer.body.commit.id
        return Head(names.commit(commit) if commit else "", answer.headers.get("ETag", ""))

    def tags(self, repository: Repository, below: str, etag: str = "") -> Tags | None:  # noqa: ARG002 - all forges' signature
        raise NotSupported("GitLab tells page by page whether anything changed: git lists them")

    def describe(self, repository: Repository) -> ForgeRepository:
        try:
            said: _Project = self._access.ask("GET", project(repository), expect=_Project).body
        except NotFound as error:
            if self._access.has_token:
                raise
            raise NotAllowed(
                f"GitLab does not show {repository.full_name} to everybody, and we have no token: "
                "set SLIPWAY_GITLAB_TOKEN_FILE"
            ) from error
        owner, name = paths.read(said.path_with_namespace, groups=True)
        return ForgeRepository(
            forge=self.name,
            id=str(said.id),
            full_name=said.path_with_namespace,
            owner=owner,
            owner_id=self._owner_id(owner, said.namespace),
            name=name,
            default_branch=payloads.known_branch(said.default_branch),
            public=said.visibility == "public",
        )

    def _owner_id(self, owner: str, namespace: _Namespace) -> str:
        """Of the outermost group, or of a user's own namespace: GitLab counts them in one row, and
        they keep their id whatever they are called. '': the outermost group is not shown to us,
        which says nothing of the project."""
        if "/" not in namespace.full_path:
            return str(namespace.id)
        query = {"with_projects": "false"}
        path = f"/groups/{quote(owner, safe='')}"
        try:
            return str(self._access.ask("GET", path, query=query, expect=_Group).body.id)
        except NotFound:
            return ""

    def installation(self, repository: Repository) -> str:  # noqa: ARG002 - all forges' signature
        return ""

    def requests(self, repository: Repository) -> Sequence[PullRequest]:
        path = f"{project(repository)}/merge_requests"

        def page(number: int) -> list[_Request]:
            if number > _MOST_PAGES:
                raise InvalidRequest(f"{repository.full_name} has too many without commits")
            query: dict[str, str | int] = {
                "state": "opened",
                "order_by": "created_at",
                "sort": "desc",
                "per_page": PAGE,
                "page": number,
            }
            told: list[_Request] = self._access.ask(
                "GET", path, query=query, expect=list[_Request]
            ).body
            return told

        def ends(last: list[_Request], found: list[_Request]) -> bool:
            return len(last) < PAGE or sum(bool(each.sha) for each in found) >= PAGE

        told = listed(page, ends, lambda each: each.iid)
        found = [(each, each.sha) for each in told if each.sha]
        into = self.describe(repository) if found else None
        return [_request(each, sha, into) for each, sha in found[:PAGE] if into]

    def report(self, repository: Repository, report: Report, known: str = "") -> str:
        return self._statuses.show(repository, report, known)

    def deployment(self, repository: Repository, deployment: Deployment, known: str = "") -> str:
        return self._deployments.show(repository, deployment, known)

    def comment(self, repository: Repository, number: int, text: str, known: str = "") -> str:
        return self._notes.show(repository, number, text, known)


def _request(said: _Request, commit: str, into: ForgeRepository) -> PullRequest:
    return PullRequest(
        repository=into,
        number=said.iid,
        title=payloads.title(said.title),
        url=payloads.web_url(said.web_url),
        commit=names.commit(commit),
        reference=webhooks.reference(said.iid),
        base=payloads.branch(said.target_branch),
        head_repository=str(said.source_project_id or ""),
        open=webhooks.is_open(said.state),
        updated_at=said.updated_at or "",
    )

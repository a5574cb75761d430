"""GitHub's REST API: what it tells of repositories, and what we show there.

Source of the formats: https://docs.github.com/rest. A repository is asked for by its id,
``/repositories/<id>``, where GitHub's own redirects and links lead as well: whoever takes a name
that was given up gets nothing that is meant for another (docs/decisions/0034-github.md).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from urllib.parse import quote

import msgspec

from core import names
from core.errors import Conflict, InvalidRequest, NotAllowed, NotFound
from core.repositories import Repository
from core.settings import Settings
from forges import Deployment, Head, Report, Tags, paths, payloads
from forges.api import Api
from forges.events import ForgeRepository, PullRequest
from forges.github.checks import Checks
from forges.github.comments import Comments
from forges.github.credentials import OWN, Credentials, path_of
from forges.github.deployments import Deployments
from forges.github.statuses import Statuses

PAGE = 100
"""The most that GitHub puts on a page."""
_MOST_PAGES = 100
_READ = {"contents": "read"}
_LOGIN = re.compile(r"[A-Za-z0-9](?:[-_A-Za-z0-9]{0,98}[-_A-Za-z0-9])?")


class Installation(msgspec.Struct, frozen=True):
    """Where the App is installed."""

    id: str
    owner: str
    """Login of the account."""
    owner_id: str
    suspended: bool


class _Owner(msgspec.Struct):
    id: int
    login: str = ""


class _Repository(msgspec.Struct):
    id: int
    name: str
    full_name: str
    owner: _Owner
    private: bool
    default_branch: str = ""


class _Installed(msgspec.Struct):
    id: int
    account: _Owner | None = None
    suspended_at: str | None = None


class _Repositories(msgspec.Struct):
    repositories: list[_Repository]


class _Object(msgspec.Struct):
    sha: str


class _Reference(msgspec.Struct):
    object: _Object


class _Named(msgspec.Struct):
    ref: str
    object: _Object


class _Id(msgspec.Struct):
    id: int


class _Side(msgspec.Struct):
    ref: str
    sha: str = ""
    repo: _Id | None = None
    """Null where a fork was deleted."""


class _Pull(msgspec.Struct):
    number: int
    state: str
    head: _Side
    base: _Side
    title: str | None = None
    html_url: str = ""
    updated_at: str = ""


class GitHub:
    """See ``forges.Forge``. Threads may share it."""

    name = "github"

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError: a file that the settings name cannot be read."""
        self._checks_wanted = settings.github_report == "checks"
        self._credentials = credentials = Credentials(settings, Api(settings.github_api, "GitHub"))
        self._checks = Checks(credentials)
        self._statuses = Statuses(credentials)
        self._deployments = Deployments(credentials)
        self._comments = Comments(credentials, settings.user_url)

    # What is asked.

    def clone_credential(self, repository: Repository) -> str:
        credential = None if repository.public else self._credentials.of(repository, _READ)
        if credential is None:
            return ""
        pair = f"x-access-token:{credential.value}"
        return "Basic " + base64.b64encode(pair.encode()).decode()

    def head(self, repository: Repository, reference: str, etag: str = "") -> Head | None:
        ref = quote(payloads.reference(reference).removeprefix("refs/"))
        path = f"{path_of(repository)}/git/ref/{ref}"
        headers = {"If-None-Match": etag} if etag else {}
        try:
            answer = self._credentials.ask(
                repository, _READ, "GET", path, headers=headers, expect=_Reference
            )
        except Conflict:  # the repository is empty
            return Head("")
        except NotFound:
            self.describe(repository)
            return Head("")
        if answer.status == 304:
            return None
        commit = names.commit(answer.body.object.sha)
        return Head(commit, answer.headers.get("ETag", ""))

    def tags(self, repository: Repository, below: str, etag: str = "") -> Tags | None:
        path = f"{path_of(repository)}/git/matching-refs/{below.removeprefix('refs/').rstrip('/')}"
        headers = {"If-None-Match": etag} if etag else {}
        try:
            answer = self._credentials.ask(
                repository, _READ, "GET", path, headers=headers, expect=list[_Named]
            )
        except Conflict:  # the repository is empty
            return Tags({})
        if answer.status == 304:
            return None
        found = {each.ref: each.object.sha for each in answer.body if each.ref.startswith(below)}
        named = {reference.removeprefix("refs/tags/"): id_ for reference, id_ in found.items()}
        return Tags(named, answer.headers.get("ETag", ""))

    def describe(self, repository: Repository) -> ForgeRepository:
        path = path_of(repository)
        try:
            told = self._credentials.ask(repository, _READ, "GET", path, expect=_Repository)
            return _described(told.body)
        except NotAllowed:
            if self._credentials.of(repository, _READ):
                raise
        try:
            return _described(self._credentials.as_nobody("GET", path, expect=_Repository).body)
        except NotFound as error:
            if self._credentials.app:  # which has it no more
                raise
            raise NotAllowed(
                f"GitHub does not show {repository.full_name} to everybody, and we have no token: "
                "make an App at /setup/github, or set SLIPWAY_GITHUB_TOKEN_FILE"
            ) from error

    def installation(self, repository: Repository) -> str:
        return self._credentials.installation(repository)

    def requests(self, repository: Repository) -> Sequence[PullRequest]:
        query = {"state": "open", "sort": "created", "direction": "desc", "per_page": PAGE}
        path = f"{path_of(repository)}/pulls"
        may = {"pull_requests": "read"}
        told = self._credentials.ask(repository, may, "GET", path, query=query, expect=list[_Pull])
        pulls: list[_Pull] = told.body
        into = self.describe(repository) if pulls else None
        return [_request(each, into, repository.installation) for each in pulls if into]

    def installations(self) -> list[Installation]:
        """Everywhere where the App is installed; nothing where we are none. All of them, or an
        error: what is missing is not installed."""
        if not self._credentials.app:
            return []
        found: list[Installation] = []
        for page in range(1, _MOST_PAGES + 1):
            query = {"per_page": PAGE, "page": page}
            told: list[_Installed] = self._credentials.as_app(
                "GET", "/app/installations", query=query, expect=list[_Installed]
            ).body
            found += [_installed(each, each.account) for each in told if each.account]
            if len(told) < PAGE:
                return found
        raise InvalidRequest(f"the App has more than {_MOST_PAGES * PAGE} installations")

    def repositories(self, installation: str) -> list[ForgeRepository]:
        """What an installation has, but for repositories whose names cannot be here. All of them,
        or an error.

        Raises as ``forges.Forge``; NotFound: it is uninstalled; NotAllowed: it is suspended."""
        found: list[ForgeRepository] = []
        for page in range(1, _MOST_PAGES + 1):
            query = {"per_page": PAGE, "page": page}
            told: list[_Repository] = self._credentials.as_installation(
                installation,
                "GET",
                "/installation/repositories",
                query=query,
                expect=_Repositories,
            ).body.repositories
            found += [_described(each) for each in told if _has_a_name(each)]
            if len(told) < PAGE:
                return found
        raise InvalidRequest(f"installation {installation} has too many repositories to be read")

    # What is shown.

    def report(self, repository: Repository, report: Report, known: str = "") -> str:
        if self._checks_wanted and self._is_app_of(repository):
            return self._checks.show(repository, report, known)
        return self._statuses.show(repository, report, known)

    def deployment(self, repository: Repository, deployment: Deployment, known: str = "") -> str:
        return self._deployments.show(repository, deployment, known)

    def comment(self, repository: Repository, number: int, text: str, known: str = "") -> str:
        return self._comments.show(repository, number, text, known)

    def _is_app_of(self, repository: Repository) -> bool:
        """Only an App may write check runs."""
        found = self._credentials.of(repository, {"checks": "write"})
        return found is not None and found.who != OWN


def _described(said: _Repository) -> ForgeRepository:
    owner, name = paths.read(said.full_name)
    if not _LOGIN.fullmatch(owner) or said.full_name.partition("/")[2] != said.name:
        raise InvalidRequest(f"{said.full_name[:100]!r} is not the full name of a repository")
    return ForgeRepository(
        forge=GitHub.name,
        id=str(said.id),
        full_name=said.full_name,
        owner=owner,
        owner_id=str(said.owner.id),
        name=name,
        default_branch=payloads.known_branch(said.default_branch),
        public=not said.private,
    )


def _has_a_name(said: _Repository) -> bool:
    try:
        return bool(_described(said))
    except InvalidRequest:
        return False


def _installed(said: _Installed, account: _Owner) -> Installation:
    return Installation(
        str(said.id), account.login, str(account.id), suspended=said.suspended_at is not None
    )


def _request(said: _Pull, into: ForgeRepository, installation: str) -> PullRequest:
    return PullRequest(
        repository=into,
        number=said.number,
        title=payloads.title(said.title or ""),
        url=payloads.web_url(said.html_url),
        commit=names.commit(said.head.sha),
        reference=f"refs/pull/{said.number}/head",
        base=payloads.branch(said.base.ref),
        head_repository=str(said.head.repo.id) if said.head.repo else "",
        open=said.state == "open",
        installation=installation,
        updated_at=said.updated_at,
    )

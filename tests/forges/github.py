"""A GitHub on loopback: what Slipway asks of it, kept in memory, its API below ``/api/v3`` as an
Enterprise Server has it. Requests are held against npm's ``@octokit/openapi``
(tests/projects/github/README.md); who may do what is as GitHub's documentation says.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.forges.schema import Description
from tests.forges.server import Answer, Asked, Forge, Part, Project, git, password, serving

API = "/api/v3"
_DESCRIPTION = Path(__file__).parents[1] / "projects" / "github" / "api.json"
_BY_ID = re.compile(r"/repositories/(\d+)(/.*)?")
_HOUR = 3600.0
ALL = {
    **dict.fromkeys(("contents", "metadata", "members"), "read"),
    **dict.fromkeys(("checks", "statuses", "deployments", "pull_requests"), "write"),
}
"""What an App of Slipway's is granted."""


class Refused(Exception):
    """Answered with a status and a message."""

    def __init__(self, status: int, message: str = "Not Found") -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Account:
    login: str
    id: int
    type: str = "User"
    memberships: dict[str, str] = field(default_factory=dict)
    """Organization → ``admin`` or ``member``."""

    def shown(self) -> dict[str, Any]:
        return {"login": self.login, "id": self.id, "type": self.type}


@dataclass
class Repository:
    id: int
    name: str
    owner: Account
    project: Project
    private: bool = False
    archived: bool = False
    checks: list[dict[str, Any]] = field(default_factory=list)
    statuses: list[dict[str, Any]] = field(default_factory=list)
    deployments: list[dict[str, Any]] = field(default_factory=list)
    """Each with ``statuses``, the oldest first."""
    comments: list[dict[str, Any]] = field(default_factory=list)
    pulls: list[dict[str, Any]] = field(default_factory=list)

    @property
    def full_name(self) -> str:
        return f"{self.owner.login}/{self.name}"

    def shown(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "full_name": self.full_name,
            "owner": self.owner.shown(),
            "private": self.private,
            "archived": self.archived,
            "default_branch": self.project.branch,
        }


@dataclass
class Installation:
    id: int
    app: int
    account: Account
    repositories: set[int]
    permissions: dict[str, str]
    suspended: bool = False


@dataclass
class Token:
    """Of an installation, of a user (``user``) or a personal one (``user``, all permissions)."""

    permissions: dict[str, str]
    repositories: set[int] | None = None
    """None: all that the user may see."""
    installation: int = 0
    user: Account | None = None
    scopes: set[str] | None = None
    """Of an OAuth app's token; None: it is none."""
    ends: float = 0.0


@dataclass
class App:
    id: int
    slug: str
    owner: Account
    key: RSAPrivateKey
    client_id: str
    client_secret: str
    webhook_secret: str | None
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def pem(self) -> str:
        return pem(self.key)


@dataclass
class GitHub:
    forge: Forge
    accounts: dict[str, Account] = field(default_factory=dict)
    repositories: dict[int, Repository] = field(default_factory=dict)
    apps: dict[int, App] = field(default_factory=dict)
    installations: dict[int, Installation] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)
    moved: dict[str, int] = field(default_factory=dict)
    """Full name that a repository had → its id."""
    manifests: dict[str, App] = field(default_factory=dict)
    """Code → the App that was made of a manifest, until it is asked for, once."""
    clients: dict[str, str] = field(default_factory=dict)
    """OAuth apps: client id → secret."""
    visitor: Account | None = None
    """Who is signed in with the browser that is sent here; None: somebody who declines."""
    lifetime: float = _HOUR
    """Seconds that an installation's token lives."""
    answers: Answer | None = None
    """What everything is answered with, where this is set."""
    web: str = ""
    """Where its pages are said to be, if not where they are."""
    lose: int = 0
    """How many requests that make something are done and then answered with 502."""
    page: int = 100
    """Most things on a page, whatever is asked for."""
    count: int = 100

    @property
    def url(self) -> str:
        return self.forge.url

    @property
    def asked(self) -> list[str]:
        """What was asked of the API, in order, as ``<path>`` below it."""
        return [each.removeprefix(API) for each in self.forge.asked if each.startswith(API)]

    def number(self) -> int:
        self.count += 1
        return self.count

    def account(self, login: str, type_: str = "User") -> Account:
        """Makes an account, or returns the one that is there."""
        if login not in self.accounts:
            self.accounts[login] = Account(login, self.number(), type_)
        return self.accounts[login]

    def repository(
        self, full_name: str, *, private: bool = False, branch: str = "main"
    ) -> Repository:
        """Makes a repository, empty as yet."""
        owner, _, name = full_name.partition("/")
        project = self.forge.repository(full_name, branch)
        made = Repository(self.number(), name, self.account(owner), project, private)
        self.repositories[made.id] = made
        if private:
            self.forge.private.add(full_name)
        return made

    def delete(self, repository: Repository) -> None:
        del self.repositories[repository.id]
        self.forge.private.add(repository.full_name)

    def rename(self, repository: Repository, name: str) -> None:
        """Under its old name the API redirects to it."""
        old = repository.full_name
        repository.name = name
        self._moved(repository, old)

    def transfer(self, repository: Repository, login: str) -> None:
        """To another owner; where the App is not installed for it there, nothing has it."""
        old = repository.full_name
        repository.owner = self.account(login)
        for each in self.installations.values():
            each.repositories -= {repository.id}
        self._moved(repository, old)

    def rename_owner(self, account: Account, login: str) -> None:
        """With all that is theirs."""
        own = [each for each in self.repositories.values() if each.owner is account]
        before = [each.full_name for each in own]
        self.accounts[login] = self.accounts.pop(account.login)
        account.login = login
        for each, old in zip(own, before, strict=True):
            self._moved(each, old)

    def _moved(self, repository: Repository, old: str) -> None:
        self.moved[old] = repository.id
        repository.project.move(self.forge.folder, repository.full_name)
        self.forge.moved(old, repository.full_name)

    def app(self, login: str = "operators", manifest: dict[str, Any] | None = None) -> App:
        """Makes an App."""
        id_ = self.number()
        made = App(
            id=id_,
            slug=f"slipway-{id_}",
            owner=self.account(login),
            key=a_key(),
            client_id=f"Iv1.{secrets.token_hex(8)}",
            client_secret=secrets.token_hex(20),
            webhook_secret=secrets.token_hex(20),
            manifest=manifest or {},
        )
        self.apps[id_] = made
        return made

    def install(self, app: App, *repositories: Repository, **permissions: str) -> Installation:
        """Installs the App for repositories of one account, all permissions granted or these."""
        account = repositories[0].owner
        made = Installation(
            self.number(), app.id, account, {each.id for each in repositories}, permissions or ALL
        )
        self.installations[made.id] = made
        return made

    def uninstall(self, installation: Installation) -> None:
        """Its tokens count no more."""
        del self.installations[installation.id]
        self.end_tokens(installation)

    def end_tokens(self, installation: Installation) -> None:
        self.tokens = {
            value: each
            for value, each in self.tokens.items()
            if each.installation != installation.id
        }

    def personal_token(self, login: str, **permissions: str) -> str:
        value = "ghp_" + secrets.token_hex(18)
        account = self.account(login)
        self.tokens[value] = Token(permissions or ALL, user=account, ends=time.time() + 365 * 86400)
        return value

    def open(
        self,
        repository: Repository,
        commit: str,
        *,
        head: Repository | None = None,
        title: str = "",
    ) -> int:
        """Opens a pull request with this head, of a fork where ``head`` is another repository;
        returns its number."""
        number = self.number()
        source = head or repository
        repository.project.point(f"refs/pull/{number}/head", commit)
        repository.pulls.insert(
            0,
            {
                "number": number,
                "title": title or f"Change {number}",
                "state": "open",
                "draft": False,
                "html_url": f"{self.url}/{repository.full_name}/pull/{number}",
                "head": {"ref": "change", "sha": commit, "repo": source.shown()},
                "base": {"ref": repository.project.branch, "repo": repository.shown()},
            },
        )
        return number

    # Who asks, and what for.

    def reads(self, full_name: str, given: str) -> bool:
        """Whether git may read a private repository with this password."""
        found = self.find(full_name)
        return found is not None and self.sees(self.tokens.get(given), found, "contents")

    def sees(self, token: Token | None, repository: Repository, permission: str) -> bool:
        if token is None or token.ends < time.time():
            return False
        within = token.repositories is None or repository.id in token.repositories
        return within and permission in token.permissions

    def handle(self, asked: Asked) -> Answer:
        """The API."""
        if self.answers:
            return self.answers
        answer = self._view(asked)
        if self.lose and answer.status == 201 and not asked.path.startswith("/app/"):
            self.lose -= 1
            return Answer(502, {"message": "Server Error"})
        return answer

    def _view(self, asked: Asked) -> Answer:
        try:
            for method, path, view in _ROUTES:
                match = re.fullmatch(path, asked.path)
                if match and method == asked.method:
                    return view(self, asked, *map(unquote, match.groups()))
            if match := _BY_ID.fullmatch(asked.path):
                return self._named(asked, self.repositories.get(int(match[1])), match[2] or "")
            owner, name, rest = [*asked.path.removeprefix("/repos/").split("/", 2), "", ""][:3]
            rest = f"/{rest}" if rest else ""
            found = self.find(f"{owner}/{name}")
            if found is None and (id_ := self.moved.get(f"{owner}/{name}")):
                status = 301 if asked.method == "GET" else 307
                return Answer(
                    status, None, {"Location": f"{self.url}{API}/repositories/{id_}{rest}"}
                )
            return self._named(asked, found, rest)
        except Refused as error:
            return Answer(error.status, {"message": str(error)})

    def find(self, full_name: str) -> Repository | None:
        for each in self.repositories.values():
            if each.full_name.lower() == full_name.lower():
                return each
        return None

    def _named(self, asked: Asked, repository: Repository | None, rest: str) -> Answer:
        if repository is None:
            raise Refused(404)
        for method, path, permission, view in _OF_REPOSITORY:
            match = re.fullmatch(path, rest)
            if match and method == asked.method:
                if permission:
                    self.may(asked, repository, *permission.split(":"))
                return view(self, asked, repository, *map(unquote, match.groups()))
        raise Refused(404)

    def may(self, asked: Asked, repository: Repository, permission: str, level: str) -> None:
        token = self.token(asked)
        if token is None and asked.authorization:
            raise Refused(401, "Bad credentials")
        seen = self.sees(token, repository, permission)
        if level == "write" and repository.archived:
            raise Refused(403, "Repository was archived so is read-only.")
        if repository.private and not self.sees(token, repository, "metadata"):
            raise Refused(404)
        if level == "read" and not repository.private:
            return
        if token is None:
            raise Refused(401, "Requires authentication")
        if not seen or (level == "write" and token.permissions[permission] != "write"):
            raise Refused(403, "Resource not accessible by integration")

    def token(self, asked: Asked) -> Token | None:
        found = self.tokens.get(password(asked.authorization))
        return found if found and found.ends > time.time() else None

    def who(self, asked: Asked) -> App:
        """The App that a JWT is of."""
        given = password(asked.authorization)
        try:
            claimed = jwt.decode(given, options={"verify_signature": False})
            app = next(
                each
                for each in self.apps.values()
                if claimed.get("iss") in (str(each.id), each.client_id)
            )
            claims = jwt.decode(given, app.key.public_key(), algorithms=["RS256"])
        except (jwt.InvalidTokenError, StopIteration) as error:
            raise Refused(401, "A JSON web token could not be decoded") from error
        if claims["exp"] > time.time() + 600:
            raise Refused(401, "'Expiration time' claim ('exp') is too far in the future")
        return app

    def paged(self, asked: Asked, found: list[Any]) -> list[Any]:
        size = min(int(asked.query.get("per_page", 30)), self.page)
        start = (int(asked.query.get("page", 1)) - 1) * size
        return found[start : start + size]


@cache
def a_key() -> RSAPrivateKey:
    return generate_private_key(public_exponent=65537, key_size=2048)


def pem(key: RSAPrivateKey) -> str:
    """As GitHub gives keys away."""
    kinds = (Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    return key.private_bytes(*kinds).decode()


@contextmanager
def serving_github(folder: Path) -> Iterator[GitHub]:
    """A GitHub until the end of the block, which fails if it was asked for what it has not."""
    from tests.forges import github_pages

    with serving(folder) as forge:
        github = GitHub(forge)
        forge.reads = github.reads
        description = Description.of(_DESCRIPTION)
        forge.serve(Part(API, github.handle, description, _described_as))
        forge.serve(Part("/", github_pages.Pages(github).handle))
        yield github


def _described_as(path: str) -> str:
    """A repository by its id is asked as one by its name; the description has the names alone."""
    return _BY_ID.sub(r"/repos/by-id/\1\2", path)


# Views of the App and its installations.


def _app(github: GitHub, asked: Asked) -> Answer:
    app = github.who(asked)
    return Answer(body={"id": app.id, "slug": app.slug, "owner": app.owner.shown()})


def _shown(installation: Installation) -> dict[str, Any]:
    at = "2026-01-01T00:00:00Z" if installation.suspended else None
    return {
        "id": installation.id,
        "account": installation.account.shown(),
        "app_id": installation.app,
        "suspended_at": at,
    }


def _installations(github: GitHub, asked: Asked) -> Answer:
    app = github.who(asked)
    own = [_shown(each) for each in github.installations.values() if each.app == app.id]
    return Answer(body=github.paged(asked, own))


def _access_token(github: GitHub, asked: Asked, id_: str) -> Answer:
    app = github.who(asked)
    installation = github.installations.get(int(id_))
    if installation is None or installation.app != app.id:
        raise Refused(404)
    if installation.suspended:
        raise Refused(403, "This installation has been suspended")
    wanted = set(asked.json.get("repository_ids", installation.repositories))
    if named := asked.json.get("repositories"):
        own = {each.name: id_ for id_, each in github.repositories.items() if id_ in wanted}
        wanted = {own.get(name, 0) for name in named}
    if not wanted <= installation.repositories:
        raise Refused(422, "There is at least one repository that does not exist or is not access")
    permissions = {"metadata": "read"} | asked.json.get("permissions", installation.permissions)
    for name, level in permissions.items():
        if installation.permissions.get(name) not in (level, "write"):
            raise Refused(422, "The permissions requested are not granted to this installation.")
    value = "ghs_" + secrets.token_hex(18)
    ends = time.time() + github.lifetime
    github.tokens[value] = Token(dict(permissions), wanted, installation.id, ends=ends)
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ends))
    return Answer(201, {"token": value, "expires_at": at, "permissions": permissions})


def _installed_repositories(github: GitHub, asked: Asked) -> Answer:
    token = github.token(asked)
    if token is None or token.repositories is None:
        raise Refused(401, "Bad credentials")
    found = [each.shown() for id_, each in github.repositories.items() if id_ in token.repositories]
    return Answer(body={"total_count": len(found), "repositories": github.paged(asked, found)})


def _installation(github: GitHub, asked: Asked, repository: Repository) -> Answer:
    app = github.who(asked)
    for each in github.installations.values():
        if each.app == app.id and repository.id in each.repositories:
            return Answer(body=_shown(each))
    raise Refused(404)


def _conversion(github: GitHub, _: Asked, code: str) -> Answer:
    app = github.manifests.pop(code, None)
    if app is None:
        raise Refused(404)
    body = {
        "id": app.id,
        "slug": app.slug,
        "name": app.manifest.get("name", app.slug),
        "owner": app.owner.shown(),
        "html_url": f"{github.web or github.url}/github-apps/{app.slug}",
        "client_id": app.client_id,
        "client_secret": app.client_secret,
        "webhook_secret": app.webhook_secret,
        "pem": app.pem,
    }
    return Answer(201, body)


def _of_user(github: GitHub, asked: Asked, scope: str = "") -> Account:
    token = github.token(asked)
    if token is None or token.user is None:
        raise Refused(401, "Bad credentials")
    if scope and token.scopes is not None and scope not in token.scopes:
        raise Refused(403, f"You need at least {scope} scope or user scope")
    return token.user


def _user(github: GitHub, asked: Asked) -> Answer:
    return Answer(body=_of_user(github, asked).shown())


def _organizations(github: GitHub, asked: Asked) -> Answer:
    user = _of_user(github, asked, "read:org")
    found = [github.account(each, "Organization").shown() for each in user.memberships]
    return Answer(body=github.paged(asked, found))


def _memberships(github: GitHub, asked: Asked) -> Answer:
    user = _of_user(github, asked, "read:org")
    found = [
        {
            "state": "active",
            "role": role,
            "organization": github.account(name, "Organization").shown(),
            "user": user.shown(),
        }
        for name, role in user.memberships.items()
    ]
    return Answer(body=github.paged(asked, found))


def _give_up(github: GitHub, asked: Asked, client: str) -> Answer:
    """A token's end, by the client that has it."""
    clients = {each.client_id: each.client_secret for each in github.apps.values()}
    secret = {**clients, **github.clients}.get(client)
    if not secret or password(asked.authorization) != secret:
        raise Refused(404)
    if github.tokens.pop(asked.json["access_token"], None) is None:
        raise Refused(404)
    return Answer(204)


# Views of one repository.


def _describe(_: GitHub, __: Asked, repository: Repository) -> Answer:
    return Answer(body=repository.shown())


def _reference(_: GitHub, asked: Asked, repository: Repository, name: str) -> Answer:
    commit = repository.project.at(f"refs/{name}")
    if not commit:
        raise Refused(404)
    etag = f'W/"{hashlib.sha256(f"{name} {commit}".encode()).hexdigest()}"'
    if asked.headers.get("If-None-Match") == etag:
        return Answer(304, headers={"ETag": etag})
    body = {"ref": f"refs/{name}", "object": {"type": "commit", "sha": commit}}
    return Answer(body=body, headers={"ETag": etag})


def _matching(_: GitHub, asked: Asked, repository: Repository, name: str) -> Answer:
    """Annotated tags as they are: what they stand for is not told."""
    told = git(repository.project.bare, "for-each-ref", "--format=%(objectname) %(refname)")
    pairs = [line.split(" ") for line in told.splitlines()]
    found = [
        {"ref": ref, "object": {"sha": id_}} for id_, ref in pairs if ref.startswith(f"refs/{name}")
    ]
    etag = f'W/"{hashlib.sha256(f"{name} {found}".encode()).hexdigest()}"'
    if asked.headers.get("If-None-Match") == etag:
        return Answer(304, headers={"ETag": etag})
    return Answer(body=found, headers={"ETag": etag})


def _pulls(github: GitHub, asked: Asked, repository: Repository) -> Answer:
    wanted = asked.query.get("state", "open")
    found = [each for each in repository.pulls if wanted in ("all", each["state"])]
    return Answer(body=github.paged(asked, found))


def _checked(given: dict[str, Any], check: dict[str, Any]) -> None:
    """Takes over what a request says of a check run."""
    output = given.pop("output", None)
    if output:
        noted = check["output"].get("annotations", [])
        check["output"] = {**output, "annotations": noted + output.get("annotations", [])}
    check.update(given)
    if "conclusion" in given:
        check["status"] = "completed"


def _check(github: GitHub, asked: Asked, repository: Repository) -> Answer:
    given = asked.json
    app = _app_of(github, asked)
    if given.get("status") == "completed" and "conclusion" not in given:
        raise Refused(422, "Invalid request. No subschema in anyOf matched.")
    check: dict[str, Any] = {
        "id": github.number(),
        "status": "queued",
        "conclusion": None,
        "output": {},
        "app": {"id": app},
    }
    _checked(given, check)
    repository.checks.append(check)
    return Answer(201, check)


def _update_check(github: GitHub, asked: Asked, repository: Repository, id_: str) -> Answer:
    _app_of(github, asked)
    check = _by_id(repository.checks, id_)
    _checked(asked.json, check)
    return Answer(body=check)


def _app_of(github: GitHub, asked: Asked) -> int:
    token = github.token(asked)
    if token is None or not token.installation:
        raise Refused(403, "You must authenticate via a GitHub App.")
    return github.installations[token.installation].app


def _checks(github: GitHub, asked: Asked, repository: Repository, commit: str) -> Answer:
    name, app = asked.query.get("check_name"), asked.query.get("app_id")
    found = [
        each
        for each in reversed(repository.checks)
        if each["head_sha"] == commit
        and name in (None, each["name"])
        and app in (None, str(each["app"]["id"]))
    ]
    return Answer(body={"total_count": len(found), "check_runs": github.paged(asked, found)})


def _status(github: GitHub, asked: Asked, repository: Repository, commit: str) -> Answer:
    given = asked.json
    if len(given.get("description") or "") > 140:
        raise Refused(422, "Validation Failed: description is too long (maximum is 140 characters)")
    made = {"id": github.number(), "sha": commit, **given}
    repository.statuses.append(made)
    return Answer(201, made)


def _deployments(github: GitHub, asked: Asked, repository: Repository) -> Answer:
    found = [
        each
        for each in reversed(repository.deployments)
        if all(each[name] == asked.query.get(name, each[name]) for name in ("environment", "sha"))
    ]
    return Answer(body=github.paged(asked, found))


def _deploy(github: GitHub, asked: Asked, repository: Repository) -> Answer:
    given = asked.json
    if given.get("auto_merge", True) or given.get("required_contexts") is None:
        raise Refused(409, "Conflict: Commit status checks failed for this ref.")
    made = {"id": github.number(), "sha": given["ref"], "statuses": [], **given}
    repository.deployments.append(made)
    return Answer(201, made)


def _deployed(github: GitHub, asked: Asked, repository: Repository, id_: str) -> Answer:
    deployment = _by_id(repository.deployments, id_)
    made = {"id": github.number(), **asked.json}
    deployment["statuses"].append(made)
    return Answer(201, made)


def _comments(github: GitHub, asked: Asked, repository: Repository, number: str) -> Answer:
    found = [each for each in repository.comments if each["issue"] == int(number)]
    return Answer(body=github.paged(asked, found))


def _comment(github: GitHub, asked: Asked, repository: Repository, number: str) -> Answer:
    if int(number) not in [each["number"] for each in repository.pulls]:
        raise Refused(404)
    if len(asked.json["body"]) > 65536:
        raise Refused(422, "Validation Failed: body is too long (maximum is 65536 characters)")
    token = github.token(asked)
    assert token is not None
    app = {"id": github.installations[token.installation].app} if token.installation else None
    made = {
        "id": github.number(),
        "issue": int(number),
        "body": asked.json["body"],
        "user": (token.user or Account(f"app-{app}[bot]", 1, "Bot")).shown(),
        "performed_via_github_app": app,
    }
    repository.comments.append(made)
    return Answer(201, made)


def _change_comment(_: GitHub, asked: Asked, repository: Repository, id_: str) -> Answer:
    comment = _by_id(repository.comments, id_)
    comment["body"] = asked.json["body"]
    return Answer(body=comment)


def _by_id(found: list[dict[str, Any]], id_: str) -> dict[str, Any]:
    for each in found:
        if each["id"] == int(id_):
            return each
    raise Refused(404)


_ROUTES: list[tuple[str, str, Callable[..., Answer]]] = [
    ("GET", "/app", _app),
    ("GET", "/app/installations", _installations),
    ("POST", r"/app/installations/(\d+)/access_tokens", _access_token),
    ("GET", "/installation/repositories", _installed_repositories),
    ("POST", r"/app-manifests/([^/]+)/conversions", _conversion),
    ("DELETE", r"/applications/([^/]+)/token", _give_up),
    ("GET", "/user", _user),
    ("GET", "/user/orgs", _organizations),
    ("GET", "/user/memberships/orgs", _memberships),
]
_OF_REPOSITORY: list[tuple[str, str, str, Callable[..., Answer]]] = [
    ("GET", "", "metadata:read", _describe),
    ("GET", "/installation", "", _installation),
    ("GET", r"/git/ref/(.+)", "contents:read", _reference),
    ("GET", r"/git/matching-refs/(.+)", "contents:read", _matching),
    ("GET", "/pulls", "pull_requests:read", _pulls),
    ("POST", "/check-runs", "checks:write", _check),
    ("PATCH", r"/check-runs/(\d+)", "checks:write", _update_check),
    ("GET", r"/commits/([^/]+)/check-runs", "checks:read", _checks),
    ("POST", r"/statuses/([^/]+)", "statuses:write", _status),
    ("GET", "/deployments", "deployments:read", _deployments),
    ("POST", "/deployments", "deployments:write", _deploy),
    ("POST", r"/deployments/(\d+)/statuses", "deployments:write", _deployed),
    ("GET", r"/issues/(\d+)/comments", "pull_requests:read", _comments),
    ("POST", r"/issues/(\d+)/comments", "pull_requests:write", _comment),
    ("PATCH", r"/issues/comments/(\d+)", "pull_requests:write", _change_comment),
]
"""(method, path below the repository, permission and level, view)."""

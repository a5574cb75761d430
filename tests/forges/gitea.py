"""A Gitea on loopback: what Slipway asks of it, kept in memory, its API below ``/api/v1``.

Requests are held against Gitea's own description (tests/projects/gitea/README.md).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.forges.schema import Description
from tests.forges.server import Answer, Asked, Forge, Part, Project, password, serving

API = "/api/v1"
_DESCRIPTION = Path(__file__).parents[1] / "projects" / "gitea" / "api.json"
NOT_FOUND = Answer(404, {"message": "The target couldn't be found."})


@dataclass
class Repository:
    id: int
    full_name: str
    owner: int
    project: Project
    private: bool = True
    statuses: list[dict[str, Any]] = field(default_factory=list)
    pulls: list[dict[str, Any]] = field(default_factory=list)
    comments: list[dict[str, Any]] = field(default_factory=list)

    def shown(self) -> dict[str, Any]:
        owner, _, name = self.full_name.partition("/")
        return {
            "id": self.id,
            "name": name,
            "full_name": self.full_name,
            "owner": {"id": self.owner, "login": owner, "visibility": "public"},
            "private": self.private,
            "internal": False,
            "default_branch": "main",
        }


@dataclass
class Gitea:
    forge: Forge
    token: str
    """Of the user with id 1."""
    repositories: dict[int, Repository] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    """Full name that a repository had → the one it has."""
    most: int = 50
    """Of anything on a page, whatever is asked for: ``MAX_RESPONSE_ITEMS``."""
    _count: int = 100

    @property
    def url(self) -> str:
        return self.forge.url

    @property
    def asked(self) -> list[str]:
        """What was asked of the API, as ``<path>`` below it."""
        return [each.removeprefix(API) for each in self.forge.asked if each.startswith(API)]

    def number(self) -> int:
        self._count += 1
        return self._count

    def repository(self, full_name: str, *, private: bool = True) -> Repository:
        """Makes a repository, empty as yet."""
        project = self.forge.repository(full_name, "main")
        made = Repository(self.number(), full_name, self.number(), project, private)
        self.repositories[made.id] = made
        if private:
            self.forge.private.add(full_name)
        return made

    def rename(self, repository: Repository, full_name: str) -> None:
        """Gitea redirects from its old name, until somebody takes that."""
        old, repository.full_name = repository.full_name, full_name
        self.moved[old] = full_name
        repository.project.move(self.forge.folder, full_name)
        self.forge.moved(old, full_name)

    def delete(self, repository: Repository) -> None:
        del self.repositories[repository.id]
        self.forge.private.add(repository.full_name)

    def pull(self, repository: Repository, commit: str, source: int) -> int:
        """Opens a pull request; returns its number."""
        number = len(repository.pulls) + 1
        repository.pulls.append(
            {
                "id": self.number(),
                "number": number,
                "title": f"Request {number}",
                "state": "open",
                "base": {"ref": "main", "sha": "0" * 40, "repo_id": repository.id},
                "head": {"ref": "change", "sha": commit, "repo_id": source},
                "html_url": f"{self.url}/{repository.full_name}/pulls/{number}",
            }
        )
        return number

    def handle(self, asked: Asked) -> Answer:
        given = password(asked.authorization)
        if given and given != self.token:
            return Answer(401, {"message": "invalid username, password or token"})
        if asked.path == "/user":
            return (
                Answer(200, {"id": 1, "login": "slipway"})
                if given
                else Answer(401, {"message": "token is required"})
            )
        if match := re.fullmatch(r"/repositories/(\d+)", asked.path):
            found = self.repositories.get(int(match[1]))
            rest = ""
        else:
            match = re.fullmatch(r"/repos/([^/]+/[^/]+)(/.*)?", asked.path)
            assert match
            name, rest = unquote(match[1]), match[2] or ""
            named = [each for each in self.repositories.values() if each.full_name == name]
            if not named and name in self.moved:
                return Answer(
                    301, headers={"Location": f"{self.url}{API}/repos/{self.moved[name]}"}
                )
            found = named[0] if named else None
        if found is None or (found.private and not given):
            return NOT_FOUND
        if asked.method != "GET" and not given:
            return Answer(401, {"message": "token is required"})
        for pattern, handle in _ROUTES:
            if fits := re.fullmatch(pattern, f"{asked.method} {rest}"):
                return handle(self, found, asked, *map(unquote, fits.groups()))
        return NOT_FOUND

    def describe(self, repository: Repository, _: Asked) -> Answer:
        return Answer(200, repository.shown())

    def branch(self, repository: Repository, _: Asked, name: str) -> Answer:
        commit = repository.project.at(f"refs/heads/{name}")
        return Answer(200, {"name": name, "commit": {"id": commit}}) if commit else NOT_FOUND

    def pulls(self, repository: Repository, asked: Asked) -> Answer:
        page, size = int(asked.query["page"]), min(int(asked.query["limit"]), self.most)
        found = [each for each in repository.pulls[::-1] if each["state"] == asked.query["state"]]
        return Answer(200, found[(page - 1) * size : page * size])

    def one_pull(self, repository: Repository, _: Asked, number: str) -> Answer:
        found = [each for each in repository.pulls if str(each["number"]) == number]
        return Answer(200, found[0]) if found else NOT_FOUND

    def status(self, repository: Repository, asked: Asked, commit: str) -> Answer:
        repository.statuses.append({"sha": commit, **asked.json})
        return Answer(201, asked.json)

    def list_comments(self, repository: Repository, _: Asked, number: str) -> Answer:
        return Answer(200, [each for each in repository.comments if each["number"] == number])

    def comment(self, repository: Repository, asked: Asked, number: str) -> Answer:
        made = {"id": self.number(), "number": number, "user": {"id": 1}, **asked.json}
        repository.comments.append(made)
        return Answer(201, made)

    def change_comment(self, repository: Repository, asked: Asked, id_: str) -> Answer:
        for each in repository.comments:
            if str(each["id"]) == id_:
                each["body"] = asked.json["body"]
                return Answer(200, each)
        return NOT_FOUND


_ROUTES: list[tuple[str, Callable[..., Answer]]] = [
    (r"GET ", Gitea.describe),
    (r"GET /branches/([^/]+)", Gitea.branch),
    (r"GET /pulls", Gitea.pulls),
    (r"GET /pulls/([^/]+)", Gitea.one_pull),
    (r"POST /statuses/([^/]+)", Gitea.status),
    (r"GET /issues/([^/]+)/comments", Gitea.list_comments),
    (r"POST /issues/([^/]+)/comments", Gitea.comment),
    (r"PATCH /issues/comments/([^/]+)", Gitea.change_comment),
]


@cache
def _description() -> Description:
    return Description.of(_DESCRIPTION)


@contextmanager
def serving_gitea(folder: Path) -> Iterator[Gitea]:
    with serving(folder) as forge:
        made = Gitea(forge, secrets.token_hex(20))
        forge.reads = lambda _, given: given == made.token
        forge.serve(Part(API, made.handle, _description()))
        yield made

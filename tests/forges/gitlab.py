"""A GitLab on loopback: what Slipway asks of it, kept in memory, its API below ``/api/v4``.

Requests are held against GitLab's own description (tests/projects/gitlab/README.md); what it
refuses, and in which words, is as ``lib/api`` of its source has it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.forges.schema import Description
from tests.forges.server import Answer, Asked, Forge, Part, Project, password, serving

API = "/api/v4"
_DESCRIPTION = Path(__file__).parents[1] / "projects" / "gitlab" / "api.json"
_ENDED = ("success", "failed", "canceled")


class Refused(Exception):
    """Answered with a status and a message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


NOT_FOUND = Refused(404, "404 Project Not Found")


@dataclass
class Repository:
    """A project, as GitLab calls it."""

    id: int
    full_name: str
    namespace: int
    project: Project
    visibility: str = "private"
    statuses: list[dict[str, Any]] = field(default_factory=list)
    deployments: list[dict[str, Any]] = field(default_factory=list)
    environments: list[dict[str, Any]] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[dict[str, Any]] = field(default_factory=list)
    """Deploy tokens, with ``token`` and ``ends``."""


@dataclass
class GitLab:
    forge: Forge
    token: str
    """Of the user with id 1."""
    maintainer: bool = True
    repositories: dict[int, Repository] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    """Full path of each group or user → its id in the row of namespaces."""
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

    def repository(self, full_name: str, visibility: str = "private") -> Repository:
        """Makes a project with its groups, empty as yet."""
        parts = full_name.split("/")
        for length in range(1, len(parts)):
            self.groups.setdefault("/".join(parts[:length]), self.number())
        project = self.forge.repository(full_name, "main")
        namespace = self.groups["/".join(parts[:-1])]
        made = Repository(self.number(), full_name, namespace, project, visibility)
        self.repositories[made.id] = made
        if visibility != "public":
            self.forge.private.add(full_name)
        return made

    def rename(self, repository: Repository, full_name: str) -> None:
        """Within its group."""
        old, repository.full_name = repository.full_name, full_name
        repository.project.move(self.forge.folder, full_name)
        self.forge.moved(old, full_name)

    def delete(self, repository: Repository) -> None:
        del self.repositories[repository.id]
        self.forge.private.add(repository.full_name)

    def rename_group(self, old: str, new: str) -> None:
        """A group, and with it the paths of all that is in it."""

        def renamed(path: str) -> str:
            return new + path[len(old) :] if (path + "/").startswith(f"{old}/") else path

        self.groups = {renamed(path): id_ for path, id_ in self.groups.items()}
        for each in self.repositories.values():
            each.full_name = renamed(each.full_name)

    def request(self, repository: Repository, commit: str | None, source: int | None) -> int:
        """Opens a merge request; returns its number."""
        iid = len(repository.requests) + 1
        repository.requests.append(
            {
                "id": self.number(),
                "iid": iid,
                "title": f"Request {iid}",
                "state": "opened",
                "target_branch": "main",
                "source_project_id": source,
                "sha": commit,
                "web_url": f"{self.url}/{repository.full_name}/-/merge_requests/{iid}",
                "draft": False,
            }
        )
        return iid

    def reads(self, full_name: str, given: str) -> bool:
        """Whether git may read with this password."""
        return any(
            each["token"] == given and each["ends"] > time.time()
            for there in self.repositories.values()
            if there.full_name == full_name
            for each in there.tokens
        )

    def handle(self, asked: Asked) -> Answer:
        try:
            return self._handle(asked)
        except Refused as error:
            return Answer(error.status, {"message": str(error)})

    def _handle(self, asked: Asked) -> Answer:
        given = password(asked.authorization)
        if given and given != self.token:
            raise Refused(401, "401 Unauthorized")
        known = bool(given)
        if asked.path == "/user":
            if not known:
                raise Refused(401, "401 Unauthorized")
            return Answer(200, {"id": 1, "username": "slipway"})
        if match := re.fullmatch(r"/groups/([^/]+)", asked.path):
            if unquote(match[1]) not in self.groups:
                raise Refused(404, "404 Group Not Found")
            path = unquote(match[1])
            return Answer(200, {"id": self.groups[path], "full_path": path})
        match = re.fullmatch(r"/projects/([^/]+)(/.*)?", asked.path)
        assert match
        repository = self._found(unquote(match[1]))
        if repository.visibility != "public" and not known:
            raise NOT_FOUND
        if asked.method != "GET" and not known:
            raise Refused(401, "401 Unauthorized")
        rest = match[2] or ""
        for pattern, handle in _ROUTES:
            if found := re.fullmatch(pattern, f"{asked.method} {rest}"):
                return handle(self, repository, asked, *map(unquote, found.groups()))
        raise Refused(404, "404 Not Found")

    def _found(self, id_: str) -> Repository:
        for each in self.repositories.values():
            if id_ in (str(each.id), each.full_name):
                return each
        raise NOT_FOUND

    def describe(self, repository: Repository, _: Asked) -> Answer:
        path = repository.full_name.rpartition("/")[0]
        namespace = {"id": repository.namespace, "full_path": path}
        return Answer(
            200,
            {
                "id": repository.id,
                "path_with_namespace": repository.full_name,
                "namespace": namespace,
                "default_branch": "main" if repository.project.at("refs/heads/main") else None,
                "visibility": repository.visibility,
            },
        )

    def branch(self, repository: Repository, asked: Asked, name: str) -> Answer:
        commit = repository.project.at(f"refs/heads/{name}")
        if not commit:
            raise Refused(404, "404 Branch Not Found")
        etag = f'W/"{hashlib.sha256(commit.encode()).hexdigest()[:32]}"'
        if asked.headers.get("If-None-Match") == etag:
            return Answer(304, headers={"ETag": etag})
        return Answer(200, {"name": name, "commit": {"id": commit}}, {"ETag": etag})

    def status(self, repository: Repository, asked: Asked, commit: str) -> Answer:
        said = asked.json
        if len(said.get("description", "")) > 255:
            raise Refused(400, "description is too long (maximum is 255 characters)")
        last = [
            each
            for each in repository.statuses
            if (each["sha"], each["name"]) == (commit, said["name"])
        ]
        if last and last[-1]["state"] == said["state"] and said["state"] not in _ENDED:
            raise Refused(
                400,
                f"Cannot transition status via :enqueue from :{said['state']} "
                '(Reason(s): Status cannot transition via "enqueue")',
            )
        repository.statuses.append({"sha": commit, **said})
        return Answer(201, {"id": self.number(), "status": said["state"]})

    def list_tokens(self, repository: Repository, _: Asked) -> Answer:
        return Answer(200, [_token(each) for each in repository.tokens])

    def make_token(self, repository: Repository, asked: Asked) -> Answer:
        if not self.maintainer:
            raise Refused(403, "403 Forbidden")
        said, id_ = asked.json, self.number()
        made = {
            **{"id": id_, "name": said["name"], "username": f"gitlab+deploy-token-{id_}"},
            **{"token": f"gldt-{secrets.token_hex(10)}", "scopes": said["scopes"]},
            "ends": datetime.fromisoformat(said["expires_at"]).timestamp(),
        }
        repository.tokens.append(made)
        return Answer(201, {**_token(made), "token": made["token"]})

    def remove_token(self, repository: Repository, _: Asked, id_: str) -> Answer:
        repository.tokens = [each for each in repository.tokens if str(each["id"]) != id_]
        return Answer(204)

    def list_deployments(self, repository: Repository, asked: Asked) -> Answer:
        wanted = asked.query.get("environment")
        found = [each for each in repository.deployments if each["environment"]["name"] == wanted]
        return Answer(200, found[::-1][: int(asked.query.get("per_page", 20))])

    def deploy(self, repository: Repository, asked: Asked) -> Answer:
        said = asked.json
        found = [each for each in repository.environments if each["name"] == said["environment"]]
        if not found:
            found = [{"id": self.number(), "name": said["environment"]}]
            repository.environments += found
        found[0]["state"] = "available"
        made = {
            **{"id": self.number(), "sha": said["sha"], "ref": said["ref"]},
            **{"status": said["status"], "environment": found[0]},
        }
        repository.deployments.append(made)
        return Answer(201, made)

    def change_deployment(self, repository: Repository, asked: Asked, id_: str) -> Answer:
        for each in repository.deployments:
            if str(each["id"]) == id_:
                if each["status"] in _ENDED:
                    raise Refused(400, "Status cannot transition")
                each["status"] = asked.json["status"]
                return Answer(200, each)
        raise Refused(404, "404 Not found")

    def list_environments(self, repository: Repository, asked: Asked) -> Answer:
        name = asked.query.get("name")
        return Answer(200, [each for each in repository.environments if each["name"] == name])

    def stop(self, repository: Repository, _: Asked, id_: str) -> Answer:
        return Answer(200, self._environment(repository, id_, state="stopped"))

    def _environment(self, repository: Repository, id_: str, **changes: Any) -> dict[str, Any]:
        for each in repository.environments:
            if str(each["id"]) == id_:
                each.update(changes)
                return each
        raise Refused(404, "404 Not found")

    def set_url(self, repository: Repository, asked: Asked, id_: str) -> Answer:
        return Answer(200, self._environment(repository, id_, **asked.json))

    def list_requests(self, repository: Repository, asked: Asked) -> Answer:
        wanted = asked.query.get("state")
        found = [each for each in repository.requests if each["state"] == wanted]
        page, size = int(asked.query.get("page", 1)), int(asked.query.get("per_page", 20))
        return Answer(200, found[::-1][(page - 1) * size : page * size])

    def one_request(self, repository: Repository, _: Asked, iid: str) -> Answer:
        for each in repository.requests:
            if str(each["iid"]) == iid:
                return Answer(200, each)
        raise Refused(404, "404 Not found")

    def list_notes(self, repository: Repository, asked: Asked, _: str) -> Answer:
        page, size = int(asked.query["page"]), int(asked.query["per_page"])
        return Answer(200, repository.notes[(page - 1) * size : page * size])

    def note(self, repository: Repository, asked: Asked, iid: str) -> Answer:
        self.one_request(repository, asked, iid)
        made = {"id": self.number(), "body": asked.json["body"], "author": {"id": 1}}
        repository.notes.append(made)
        return Answer(201, made)

    def change_note(self, repository: Repository, asked: Asked, _: str, id_: str) -> Answer:
        for each in repository.notes:
            if str(each["id"]) == id_:
                each["body"] = asked.json["body"]
                return Answer(200, each)
        raise Refused(404, "404 Not found")


_ROUTES: list[tuple[str, Callable[..., Answer]]] = [
    (r"GET ", GitLab.describe),
    (r"GET /repository/branches/([^/]+)", GitLab.branch),
    (r"POST /statuses/([^/]+)", GitLab.status),
    (r"GET /deploy_tokens", GitLab.list_tokens),
    (r"POST /deploy_tokens", GitLab.make_token),
    (r"DELETE /deploy_tokens/([^/]+)", GitLab.remove_token),
    (r"GET /deployments", GitLab.list_deployments),
    (r"POST /deployments", GitLab.deploy),
    (r"PUT /deployments/([^/]+)", GitLab.change_deployment),
    (r"GET /environments", GitLab.list_environments),
    (r"PUT /environments/([^/]+)", GitLab.set_url),
    (r"POST /environments/([^/]+)/stop", GitLab.stop),
    (r"GET /merge_requests", GitLab.list_requests),
    (r"GET /merge_requests/([^/]+)", GitLab.one_request),
    (r"GET /merge_requests/([^/]+)/notes", GitLab.list_notes),
    (r"POST /merge_requests/([^/]+)/notes", GitLab.note),
    (r"PUT /merge_requests/([^/]+)/notes/([^/]+)", GitLab.change_note),
]


def _token(said: dict[str, Any]) -> dict[str, Any]:
    return {
        **{key: said[key] for key in ("id", "name", "username", "scopes")},
        "expired": said["ends"] <= time.time(),
    }


@cache
def _description() -> Description:
    return Description.of(_DESCRIPTION)


@contextmanager
def serving_gitlab(folder: Path) -> Iterator[GitLab]:
    with serving(folder) as forge:
        made = GitLab(forge, f"glpat-{secrets.token_hex(10)}")
        forge.reads = made.reads
        forge.serve(Part(API, made.handle, _description()))
        yield made

"""Deployments and environments: GitLab's page of what is deployed where.

Source of the formats: https://docs.gitlab.com/api/deployments and …/environments. GitLab makes an
environment with its first deployment. A deployment that ended does not run again: there is a new
one. What is remembered is ``<id> <environment's id> <commit> <status> <digest of the URL>``.
"""

from __future__ import annotations

import hashlib

import msgspec

from core import names
from core.errors import NotFound
from core.repositories import Repository
from forges import Deployment, Progress
from forges.gitlab.access import Access, project

_STATES = {
    Progress.RUNNING: "running",
    Progress.SUCCESS: "success",
    Progress.FAILURE: "failed",
    Progress.CANCELLED: "canceled",
    Progress.NOTHING: "canceled",
}
"""GitLab has no word for one that waits: it is shown once it runs."""
_UNDER_WAY = ("created", "running")
_GONE = "gone"


class _Id(msgspec.Struct):
    id: int


class _Deployment(msgspec.Struct):
    id: int
    sha: str
    status: str
    environment: _Id


class _Known(msgspec.Struct):
    id: str = ""
    environment: str = ""
    commit: str = ""
    status: str = ""
    url: str = ""

    @classmethod
    def of(cls, known: str) -> _Known:
        parts = known.split(" ")
        return cls(*parts) if len(parts) == 5 and parts[1].isdecimal() else cls()

    def text(self) -> str:
        return f"{self.id} {self.environment} {self.commit} {self.status} {self.url}"


class Deployments:
    def __init__(self, access: Access) -> None:
        self._access = access

    def show(self, repository: Repository, deployment: Deployment, known: str) -> str:
        before = _Known.of(known)
        if deployment.gone and before.status == _GONE:
            return known
        if deployment.gone and deployment.followed:
            return self._leave(repository, deployment, before)
        if deployment.gone:
            return self._stop(repository, deployment, before)
        if deployment.progress not in _STATES:
            return known
        made = self._set(repository, deployment, before)
        url = hashlib.sha256(deployment.url.encode()).hexdigest()[:8]
        if deployment.url and (made.environment, url) != (before.environment, before.url):
            path = f"{project(repository)}/environments/{made.environment}"
            self._access.ask("PUT", path, body={"external_url": deployment.url})
        made.url = url
        return made.text()

    def _set(self, repository: Repository, deployment: Deployment, before: _Known) -> _Known:
        commit, status = names.commit(deployment.commit), _STATES[deployment.progress]
        if before.commit != commit:
            before = self._last(repository, deployment.environment)
            if before.commit != commit and before.status in _UNDER_WAY:
                self._change(repository, before, "canceled")  # it was overtaken
        if before.commit == commit and before.status == status:
            return before
        under_way = before.commit == commit and before.status in _UNDER_WAY
        if under_way and self._change(repository, before, status):
            return _Known(before.id, before.environment, commit, status)
        body = {
            "environment": deployment.environment,
            "sha": commit,
            "ref": repository.deploy_branch or commit,
            "tag": False,
            "status": status,
        }
        path = f"{project(repository)}/deployments"
        told: _Deployment = self._access.ask("POST", path, body=body, expect=_Deployment).body
        return _Known(str(told.id), str(told.environment.id), commit, status)

    def _change(self, repository: Repository, known: _Known, status: str) -> bool:
        """Whether it is there still: somebody may have deleted it."""
        path = f"{project(repository)}/deployments/{known.id}"
        try:
            self._access.ask("PUT", path, body={"status": status})
        except NotFound:  # if it is the project that is gone, the next request tells
            return False
        return True

    def _last(self, repository: Repository, environment: str) -> _Known:
        """The newest there is; empty: none."""
        query: dict[str, str | int] = {
            "environment": environment,
            "order_by": "id",
            "sort": "desc",
            "per_page": 1,
        }
        path = f"{project(repository)}/deployments"
        told: list[_Deployment] = self._access.ask(
            "GET", path, query=query, expect=list[_Deployment]
        ).body
        if not told:
            return _Known()
        last = told[0]
        return _Known(str(last.id), str(last.environment.id), last.sha, last.status)

    def _leave(self, repository: Repository, deployment: Deployment, before: _Known) -> str:
        """The environment is the next deployment's: it is not stopped."""
        if before.commit == deployment.commit and before.status in _UNDER_WAY:
            self._change(repository, before, _STATES.get(deployment.progress, "canceled"))
        environment = before.environment or "0"
        return _Known("0", environment, deployment.commit, _GONE, "-").text()

    def _stop(self, repository: Repository, deployment: Deployment, before: _Known) -> str:
        id_ = before.environment or self._environment(repository, deployment.environment)
        if id_:
            path = f"{project(repository)}/environments/{id_}/stop"
            try:
                # Whatever else is to be done where it stops is a pipeline's, and none of ours.
                self._access.ask("POST", path, body={"force": True})
            except NotFound:
                self._environment(repository, deployment.environment)  # tells of the project
        return _Known("0", id_ or "0", before.commit or deployment.commit, _GONE, "-").text()

    def _environment(self, repository: Repository, name: str) -> str:
        path = f"{project(repository)}/environments"
        told: list[_Id] = self._access.ask("GET", path, query={"name": name}, expect=list[_Id]).body
        return str(told[0].id) if told else ""

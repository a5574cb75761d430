"""Deployments: GitHub's page of environments, and which commit each of them has.

Source of the formats: https://docs.github.com/rest/deployments. A deployment is made once for an
environment and commit, and has a status for each thing that becomes of it. What is remembered is
``<id> <commit> <digest of the last status>``.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from core import names
from core.errors import NotFound
from core.repositories import Repository
from forges import Deployment, Progress
from forges.github.credentials import Credentials, path_of

_MAY = {"deployments": "write"}
_STATES = {
    Progress.QUEUED: "queued",
    Progress.RUNNING: "in_progress",
    Progress.SUCCESS: "success",
    Progress.FAILURE: "failure",
    Progress.CANCELLED: "inactive",
    Progress.NOTHING: "inactive",
}
_GONE = "gone"
"""In place of a digest."""


class _Made(msgspec.Struct):
    id: int


class Deployments:
    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def show(self, repository: Repository, deployment: Deployment, known: str) -> str:
        commit = names.commit(deployment.commit)
        id_, of, digest = [*known.split(" "), "", "", ""][:3]
        if not id_.isdecimal():
            id_ = of = digest = ""
        if deployment.gone and digest == _GONE:
            return known
        if deployment.gone:
            return self._gone(repository, deployment, id_, of or commit)
        if of != commit:
            before, digest = id_, ""
            id_ = self._find(repository, deployment, commit) or self._make(repository, deployment)
            if before and before != id_ and deployment.transient:
                # What replaces one ends it at GitHub, but for transient ones.
                self._set(repository, before, {"state": "inactive"})
        body = _status(deployment)
        told = hashlib.sha256(msgspec.json.encode(body)).hexdigest()[:16]
        if told != digest:
            try:
                self._set(repository, id_, body)
            except NotFound:  # somebody deleted it
                id_ = self._make(repository, deployment)
                self._set(repository, id_, body)
        return f"{id_} {commit} {told}"

    def _gone(self, repository: Repository, deployment: Deployment, id_: str, commit: str) -> str:
        id_ = id_ or self._find(repository, deployment)
        if id_:
            try:
                self._set(repository, id_, {"state": "inactive"})
            except NotFound:
                self._find(repository, deployment)  # tells whether it is the repository
        return f"{id_} {commit} {_GONE}" if id_ else ""

    def _find(self, repository: Repository, deployment: Deployment, commit: str = "") -> str:
        """The environment's newest, of a commit if one is given; '': there is none."""
        query: dict[str, str | int] = {"environment": deployment.environment, "per_page": 1}
        if commit:
            query["sha"] = commit
        path = f"{path_of(repository)}/deployments"
        told = self._credentials.ask(repository, _MAY, "GET", path, query=query, expect=list[_Made])
        return str(told.body[0].id) if told.body else ""

    def _make(self, repository: Repository, deployment: Deployment) -> str:
        body = {
            "ref": deployment.commit,
            "environment": deployment.environment,
            "auto_merge": False,
            "required_contexts": [],
            "transient_environment": deployment.transient,
            "production_environment": deployment.environment == "production",
        }
        path = f"{path_of(repository)}/deployments"
        told = self._credentials.ask(repository, _MAY, "POST", path, body=body, expect=_Made)
        return str(told.body.id)

    def _set(self, repository: Repository, id_: str, body: dict[str, Any]) -> None:
        path = f"{path_of(repository)}/deployments/{id_}/statuses"
        self._credentials.ask(repository, _MAY, "POST", path, body=body)


def _status(deployment: Deployment) -> dict[str, Any]:
    told: dict[str, Any] = {
        "state": _STATES[deployment.progress],
        "auto_inactive": True,
    }
    if deployment.url:
        told["environment_url"] = deployment.url
    if deployment.log_url:
        told["log_url"] = deployment.log_url
    return told

"""Commit statuses: what is shown without an App, or where they are wanted instead of check runs.

Source of the formats: https://docs.github.com/rest/commits/statuses. GitHub keeps every status that
is set, a thousand of a commit and context: the same is not set twice in a row. What is remembered
is a digest of it.
"""

from __future__ import annotations

import hashlib

import msgspec

from core import names
from core.repositories import Repository
from forges import Progress, Report, shown
from forges.github import texts
from forges.github.credentials import Credentials, path_of

_MAY = {"statuses": "write"}
_STATES = {
    Progress.QUEUED: "pending",
    Progress.RUNNING: "pending",
    Progress.SUCCESS: "success",
    Progress.FAILURE: "failure",
    Progress.CANCELLED: "error",
    Progress.NOTHING: "success",
}


class Statuses:
    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def show(self, repository: Repository, report: Report, known: str) -> str:
        commit = names.commit(report.commit)
        body = {
            "state": _STATES[report.progress],
            "context": report.context,
            "description": shown.line(report.title, texts.MOST_STATUS),
        }
        if report.url:
            body["target_url"] = report.url
        digest = hashlib.sha256(msgspec.json.encode([commit, body])).hexdigest()[:32]
        if digest != known:
            path = f"{path_of(repository)}/statuses/{commit}"
            self._credentials.ask(repository, _MAY, "POST", path, body=body)
        return digest

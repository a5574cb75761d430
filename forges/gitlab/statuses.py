"""Commit statuses, which GitLab shows as jobs of an external pipeline.

Source of the formats: https://docs.gitlab.com/api/commits/#set-commit-pipeline-status. What is
remembered is a digest of the last one: the same is not set twice in a row.
"""

from __future__ import annotations

import hashlib

import msgspec

from core import names
from core.errors import InvalidRequest
from core.repositories import Repository
from forges import Progress, Report, shown
from forges.gitlab.access import Access, project

_MOST = 255
"""Characters of each text."""
_STATES = {
    Progress.QUEUED: "pending",
    Progress.RUNNING: "running",
    Progress.SUCCESS: "success",
    Progress.FAILURE: "failed",
    Progress.CANCELLED: "canceled",
    Progress.NOTHING: "success",
}


class Statuses:
    def __init__(self, access: Access) -> None:
        self._access = access

    def show(self, repository: Repository, report: Report, known: str) -> str:
        commit = names.commit(report.commit)
        body = {
            "state": _STATES[report.progress],
            "name": shown.line(report.context, _MOST),
            "description": shown.line(report.title, _MOST),
        }
        if report.url and len(report.url) <= _MOST:
            body["target_url"] = report.url
        digest = hashlib.sha256(msgspec.json.encode([commit, body])).hexdigest()[:32]
        if digest == known:
            return known
        try:
            self._access.ask("POST", f"{project(repository)}/statuses/{commit}", body=body)
        except InvalidRequest as error:
            if "Cannot transition status" not in str(error):
                raise
            # It has that state already: set before by whom nobody remembers.
        return digest

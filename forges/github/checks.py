"""Check runs: a release, or a function of it, beside its commit, with text and annotations.

Source of the formats: https://docs.github.com/rest/checks/runs. What is remembered is
``<id> <commit> <whether it was completed>``. A completed run stays as it is: a release of the same
commit once more has a new one, which GitHub shows instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from core import names
from core.errors import NotFound
from core.repositories import Repository
from forges import Annotation, Progress, Report, shown
from forges.github import texts
from forges.github.credentials import Credentials, path_of

_MAY = {"checks": "write"}
_CONCLUSIONS = {
    Progress.SUCCESS: "success",
    Progress.FAILURE: "failure",
    Progress.CANCELLED: "cancelled",
    Progress.NOTHING: "neutral",
}
_BATCH = 50
"""Annotations in one request."""
_MOST = 200
"""Annotations of one check run."""
_MESSAGE = 16_000
"""Bytes of an annotation's message; GitHub takes 64 KB, and nobody reads that."""


class _Run(msgspec.Struct):
    id: int
    status: str


class _Runs(msgspec.Struct):
    check_runs: list[_Run]


class Checks:
    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def show(self, repository: Repository, report: Report, known: str) -> str:
        commit = names.commit(report.commit)
        final = report.progress in _CONCLUSIONS
        id_, completed = self._known(known, commit)
        if not id_:
            id_, completed = self._find(repository, report)
        if completed and not final:
            id_, completed = "", False
        # Only who completes it tells of annotations: GitHub adds them to those that are there.
        notes = report.annotations[:_MOST] if final and not completed else ()
        starts = range(0, len(notes), _BATCH)
        *before, last = [notes[start : start + _BATCH] for start in starts] or [()]
        for each in before:
            id_ = self._send(repository, report, id_, {"status": "in_progress"}, each)
        id_ = self._send(repository, report, id_, _state(report), last)
        return f"{id_} {commit} {'completed' if final else 'open'}"

    def _known(self, known: str, commit: str) -> tuple[str, bool]:
        id_, of, state = [*known.split(" "), "", "", ""][:3]
        if of != commit or not id_.isdecimal():
            return "", False
        return id_, state == "completed"

    def _find(self, repository: Repository, report: Report) -> tuple[str, bool]:
        """The newest of ours at the commit: it was made, and who made it did not live to tell."""
        path = f"{path_of(repository)}/commits/{report.commit}/check-runs"
        query = {
            "check_name": report.context,
            "app_id": self._credentials.app,
            "filter": "latest",
            "per_page": 1,
        }
        told = self._credentials.ask(repository, _MAY, "GET", path, query=query, expect=_Runs)
        runs: list[_Run] = told.body.check_runs
        if not runs:
            return "", False
        return str(runs[0].id), runs[0].status == "completed"

    def _send(
        self,
        repository: Repository,
        report: Report,
        id_: str,
        state: dict[str, str],
        notes: Sequence[Annotation],
    ) -> str:
        body = {
            "name": report.context,
            "external_id": report.context,
            **state,
            "output": _output(report, notes),
        }
        if report.url:
            body["details_url"] = report.url
        runs = f"{path_of(repository)}/check-runs"
        if id_:
            try:
                self._credentials.ask(repository, _MAY, "PATCH", f"{runs}/{id_}", body=body)
                return id_
            except NotFound:
                """The repository may still be there."""
        body["head_sha"] = report.commit
        told = self._credentials.ask(repository, _MAY, "POST", runs, body=body, expect=_Run)
        return str(told.body.id)


def _state(report: Report) -> dict[str, str]:
    told = {"started_at": report.started} if report.started else {}
    if report.progress in _CONCLUSIONS:
        told |= {"status": "completed", "conclusion": _CONCLUSIONS[report.progress]}
        return told | ({"completed_at": report.finished} if report.finished else {})
    return told | {"status": "queued" if report.progress is Progress.QUEUED else "in_progress"}


def _output(report: Report, notes: Sequence[Annotation]) -> dict[str, Any]:
    title = shown.line(report.title, texts.MOST_TITLE) or report.context
    told: dict[str, Any] = {
        "title": title,
        "summary": shown.beginning(report.summary, texts.MOST) or title,
    }
    if report.text:
        told["text"] = texts.end(report.text)
    if notes:
        told["annotations"] = [
            {
                "path": each.path,
                "start_line": max(each.line, 1),
                "end_line": max(each.line, 1),
                "annotation_level": "failure",
                "message": shown.beginning(each.message, _MESSAGE) or "failed",
            }
            for each in notes
        ]
    return told

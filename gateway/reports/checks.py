"""A release as checks: one for all of it, and one for each function.

slipway, slipway/<function>                     of the repository itself
slipway/staging, slipway/staging/<function>     of an environment, by its name
slipway/preview, slipway/preview/<function>     of a preview: the same for every request, so
                                                that a branch can be protected by it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.models import Build, FunctionRow, Release, State, Verdict
from core.names import NO_COMMIT, NONE_AT_ALL, function_url
from core.repositories import Repository
from forges import Progress, Report
from gateway.progress import one_line
from gateway.reports.following import Following
from gateway.reports.markdown import block, code

MOST_FUNCTIONS = 30
"""Functions with a check of their own; where there are more, those that fail have one."""
MOST_ROWS = 100
"""Functions in a summary."""
_TITLE = 140
"""Characters; what a commit status of GitHub's holds."""
_WAS_LIVE = (State.LIVE, State.REPLACED)
_GOING = (Progress.QUEUED, Progress.RUNNING)
_NOTHING = "nothing to release: there is no stack.yaml or stack.yml"
_CALLED_OFF = (State.SUPERSEDED, State.CANCELLED)


@dataclass(frozen=True)
class Urls:
    """``functions``: ``Store.functions_url``; ``releases``: what a release's page begins with."""

    functions: str
    releases: str

    def release(self, release: Release) -> str:
        return f"{self.releases}/{release.id}"

    def function(self, release: Release, name: str) -> str:
        return function_url(self.functions, name, release.namespace)


def reports(
    release: Release,
    repository: Repository,
    following: Following,
    urls: Urls,
    *,
    live: bool = True,
) -> list[Report]:
    """Everything that the forge is to show of a release, without the log; the whole first.
    ``live``: see ``progress``."""
    if release.commit == NO_COMMIT:
        return []
    base = context(repository)
    told = [_whole(release, base, following, urls, progress(release, live=live))]
    rows = [row for row in release.functions if row.build is not Build.REMOVED]
    for row in rows:
        each = _function(release, row, f"{base}/{row.name}", following, urls)
        if len(rows) <= MOST_FUNCTIONS or each.progress is Progress.FAILURE:
            told.append(each)
    return told


def context(repository: Repository) -> str:
    """The name of the check of a whole release."""
    if repository.request:
        return "slipway/preview"
    return f"slipway/{repository.environment}" if repository.environment else "slipway"


def progress(release: Release, *, live: bool = True) -> Progress:
    """What became of a release. One that was replaced had its success; one that was called off, or
    that somebody went back from, has nothing wrong with it.

    ``live``: whether anything of the repository is live, or was. Of an organisation's repositories
    that have no stack file not each of them has forgotten it.
    """
    if release.state is State.QUEUED:
        return Progress.QUEUED
    if not release.state.final:
        return Progress.RUNNING
    if release.state in _WAS_LIVE:
        return Progress.SUCCESS
    if release.state is State.FAILED and not live and NONE_AT_ALL in release.reason:
        return Progress.NOTHING
    if release.state is State.FAILED or _taken_back(release):
        return Progress.FAILURE
    return Progress.CANCELLED


def count(rows: Sequence[FunctionRow]) -> str:
    """What became of functions: ``2 built, 1 reused``."""
    kinds = [row.build for row in rows]
    shown = (Build.BUILT, Build.REUSED, Build.REMOVED, Build.FAILED)
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in shown if kind in kinds)


def table(release: Release, urls: Urls) -> str:
    """Markdown: the functions of a release, with their URLs where it went live."""
    if not release.functions:
        return ""
    lines = ["| function | build | seconds | what changed | URL |", "|---|---|---|---|---|"]
    for row in release.functions[:MOST_ROWS]:
        why = code("; ".join(map(str, row.why or ())))
        seconds = f"{row.seconds:.1f}" if row.seconds else ""
        live = release.state in _WAS_LIVE and row.build is not Build.REMOVED
        url = (row.url or urls.function(release, row.name)) if live else ""
        lines.append(f"| {code(row.name)} | {row.build} | {seconds} | {why} | {url} |")
    if more := len(release.functions) - MOST_ROWS:
        lines += ["", f"and {more} more"] if more > 0 else []
    return "\n".join(lines)


def _whole(
    release: Release, base: str, following: Following, urls: Urls, shown: Progress
) -> Report:
    parts = [f"Commit {code(release.commit[:7])} of {code(release.branch)}, release {release.id}"]
    if release.reason and shown not in (Progress.SUCCESS, *_GOING):
        parts.append(block("\n".join(one_line(each) for each in release.reason.splitlines()[:50])))
    parts.append(table(release, urls))
    if receipt := release.receipt:
        parts.append(
            f"While its routes were switched: {receipt.requests} requests, {receipt.failed} "
            f"failed, longest gap {receipt.longest_gap_ms:g} ms"
        )
    return Report(
        context=base,
        commit=release.commit,
        progress=shown,
        title=_short(_NOTHING if shown is Progress.NOTHING else _title(release, following)),
        summary="\n\n".join(part for part in parts if part),
        url=urls.release(release),
        started=release.created_at,
        finished=release.finished_at or "",
    )


def _title(release: Release, following: Following) -> str:
    rows = release.functions
    match release.state:
        case State.QUEUED:
            return "waiting for its turn"
        case State.STAGING:
            return f"{count(rows)}: starting" if rows else "starting"
        case State.LIVE | State.REPLACED:
            return f"released: {count(rows) or 'no functions'}"
        case State.BUILDING | State.TESTING if rows:
            done = sum(row.build in (Build.BUILT, Build.REUSED) for row in rows)
            return f"{release.state}: {done} of {len(rows)} functions are built"
        case State.BUILDING | State.TESTING:
            return following.steps.get("") or str(release.state)
    because = one_line(release.reason)
    return f"{release.state}: {because}" if because else str(release.state)


def _function(
    release: Release, row: FunctionRow, name: str, following: Following, urls: Urls
) -> Report:
    shown, title = _of_function(release, row, following)
    parts = [f"Function {code(row.name)} of release {release.id}"]
    if row.why:
        parts.append(f"Since the release before: {code('; '.join(map(str, row.why)), 1000)}")
    if shown is Progress.SUCCESS:
        parts.append(row.url or urls.function(release, row.name))
    return Report(
        context=name,
        commit=release.commit,
        progress=shown,
        title=_short(title),
        summary="\n\n".join(parts),
        url=urls.release(release),
        started=release.created_at,
        finished=(release.finished_at or "") if shown not in _GOING else "",
    )


_DONE: Mapping[Build, str] = {
    Build.BUILT: "built",
    Build.REUSED: "nothing of it changed: not built again",
}


def _of_function(release: Release, row: FunctionRow, following: Following) -> tuple[Progress, str]:
    """(what became of one function, in words)."""
    failure = following.failures.get(row.name)
    done = _DONE.get(row.build)
    if row.build is Build.REUSED and row.why:
        done = "built before: not built again"
    if row.build is Build.BUILT and row.seconds:
        done = f"built in {row.seconds:.1f} s"
    if row.build is Build.FAILED or (release.state is State.FAILED and failure is not None):
        return Progress.FAILURE, failure or one_line(release.reason) or "failed"
    if release.state in _WAS_LIVE:
        return Progress.SUCCESS, done or str(row.build)
    if release.state is State.FAILED:
        return Progress.CANCELLED, f"not released: {one_line(release.reason)}"
    if release.state.final:
        shown = Progress.FAILURE if _names(release, row.name) else Progress.CANCELLED
        return shown, f"{release.state}: {one_line(release.reason)}"
    if done:
        at = "starting" if release.state is State.STAGING else "waits for the others"
        return Progress.RUNNING, f"{done}; {at}"
    if row.build is Build.BUILDING:
        return Progress.RUNNING, following.steps.get(row.name) or "building"
    return Progress.QUEUED, "waiting to be built"


def _taken_back(release: Release) -> bool:
    return release.watch is not None and release.watch.verdict is Verdict.RETURNED


def _names(release: Release, function: str) -> bool:
    """Whether a release was taken back because of this function."""
    return _taken_back(release) and f" {function}: " in release.reason


def _short(text: str) -> str:
    return text if len(text) <= _TITLE else f"{text[: _TITLE - 1]}…"

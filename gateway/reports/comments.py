"""The comment on a pull or merge request: where its preview answers, and how far it is."""

from __future__ import annotations

from core.models import Release, State
from core.names import NO_COMMIT
from core.repositories import Repository, Request
from forges import Progress
from gateway.progress import one_line
from gateway.reports.checks import Urls, count, table
from gateway.reports.markdown import block, code

_WORDS = {
    Progress.QUEUED: "is waiting to be built",
    Progress.RUNNING: "is being built",
    Progress.SUCCESS: "is live",
    Progress.FAILURE: "could not be released",
    Progress.CANCELLED: "was called off",
    Progress.NOTHING: "has nothing to release",
}


def comment(
    release: Release, repository: Repository, urls: Urls, shown: Progress, *, live: str
) -> str:
    """Markdown, by the newest release of a preview; it changes with the release's state and not
    with each step, as each change is a request to the forge.

    ``shown``: what became of it. ``live``: id of the release that is live, or ''.
    """
    if repository.gone or release.commit == NO_COMMIT:
        return removed(repository)
    parts = [f"The preview of {code(release.commit[:7])} **{_WORDS[shown]}**."]
    if shown is Progress.SUCCESS:
        parts.append(table(release, urls) or "It has no functions.")
    elif release.reason and shown is not Progress.RUNNING:
        parts.append(block(one_line(release.reason)))
    if shown is not Progress.SUCCESS and live and live != release.id:
        parts.append("Meanwhile the preview of the commit before it answers.")
    if release.state is State.FAILED and (counted := count(release.functions)):
        parts.append(f"Functions: {counted}.")
    parts.append(f"Log: {urls.release(release)}")
    return "\n\n".join(parts)


def removed(repository: Repository) -> str:
    """Markdown, of a preview that is gone."""
    why = one_line(repository.gone)
    return "The preview of this request was removed." + (f"\n\n{block(why)}" if why else "")


def waiting(repository: Repository, request: Request, *, live: str) -> str:
    """Markdown, of a preview that waits for an approval: no release says so.

    ``live``: as above.
    """
    command = f"slipway approve {repository.parent} {request.number} --commit {request.commit}"
    parts = [
        f"The preview of {code(request.commit[:7])} **waits for an approval**, as this request "
        "comes from a fork. Whoever runs Slipway here can give it, after a look at the commit:",
        block(command),
    ]
    if live:
        parts.append("Meanwhile the preview of the commit before it answers.")
    return "\n\n".join(parts)

"""A release as a deployment: what makes the forge show environments and what is live in them."""

from __future__ import annotations

from core.models import Build, Release, State
from core.names import NO_COMMIT
from core.repositories import Repository
from forges import Deployment, Progress
from gateway.reports.checks import Urls, progress


def deployment(
    release: Release, repository: Repository, urls: Urls, *, before: bool
) -> Deployment | None:
    """What the forge is to show; None: nothing.

    Args:
        before: whether it shows a deployment of this release already. One is begun once the stack
            file was read, so that neither a commit that was overtaken nor one without any function
            makes one; one that was begun is brought to its end, whatever that is.
    """
    if release.commit == NO_COMMIT:
        return None
    going = release.state is State.FAILED or not release.state.final
    if not before and not (release.state is State.LIVE or (going and release.functions)):
        return None
    over = release.state in (State.REPLACED, State.ROLLED_BACK) or bool(repository.gone)
    live = release.state is State.LIVE
    return Deployment(
        environment=environment(repository),
        commit=release.commit,
        progress=Progress.RUNNING if release.state is State.QUEUED else progress(release),
        url=_url(release, urls) if live else "",
        log_url=urls.release(release),
        transient=repository.request is not None,
        gone=over,
    )


def environment(repository: Repository) -> str:
    """The environment's name at the forge."""
    if repository.request:
        return f"pr-{repository.request.number}"
    return repository.environment or "production"


def _url(release: Release, urls: Urls) -> str:
    """Where what was deployed answers: the function; of several, the page that lists them."""
    names = [row.name for row in release.functions if row.build is not Build.REMOVED]
    return urls.function(release, names[0]) if len(names) == 1 else urls.release(release)

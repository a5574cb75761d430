"""Heads of our own git remote and releases, compared at the start and every minute: a push that
was stored when everything died before it became a release gets its release, and so does the
deletion of a deploy branch, and a tag that promotes. Only of a repository that is sound: one that
lies there without its commits, or cannot be read, says nothing of what shall be deployed.

It is the gateway that does it, since the repositories are its own: workers may run on machines
where they are not.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress

from redis.exceptions import RedisError

from core import logging, names, queues
from core.errors import Conflict, NotFound
from core.models import Release
from core.repositories import Repository
from core.settings import Settings
from core.settingvalues import POLICY_IN_GIT
from core.store import Store
from gateway import bare, promotions

EVERY = 60.0
RETRY = 1.0
"""Seconds until it is tried again where the store was away."""

log = logging.get()


def watch(settings: Settings, store: Store) -> None:
    """Runs for ever, in a thread of its own."""
    bare.settle_all(settings, store)
    while True:
        try:
            bare.sweep(settings, store)
            compare(settings, store)
            promotions.compare_tags(settings, store)
        except RedisError as error:
            log.warning("heads_not_compared", reason=str(error))
            time.sleep(RETRY)
        except Exception:
            log.exception("heads_not_compared")
            time.sleep(EVERY)
        else:
            time.sleep(EVERY)


def release(
    settings: Settings, store: Store, repository: Repository, commit: str
) -> Release | None:
    """Makes the release of what was pushed to the deploy branch (NO_COMMIT: its deletion); None
    where the branch's head is another by now. The hooks of two pushes may come in another order
    than the branch moved.

    Raises RedisError: the store is away.
    """

    def still() -> bool:
        return (local_head(settings, repository) or names.NO_COMMIT) == commit

    branch = repository.deploy_branch
    while still():
        known = store.head(repository.key)
        with suppress(Conflict):  # another push was quicker: was it before or after this one?
            return store.create_release(repository, commit, branch, since=known, still=still)
    return None


def compare(settings: Settings, store: Store) -> None:
    """Looks at every repository once.

    Raises:
        RedisError: the store is away.
    """
    for repository in store.repositories():
        there = repository.source == "git" and repository.deploy_branch and not repository.gone
        # The policy is read, and not deployed.
        if there and repository.key != policy_repository(settings):
            compare_one(settings, store, repository)


def compare_one(settings: Settings, store: Store, repository: Repository) -> None:
    """The same of one repository. Raises RedisError."""
    try:
        known = store.head(repository.key)  # first: what is pushed meanwhile is newer
        head = local_head(settings, repository) or _deleted(settings, repository, known)
        if head and head != known:
            log.warning("push_found", repository=repository.key, commit=head)
            release(settings, store, repository, head)
            queues.dispatch(store, repository.key)
    except (Conflict, NotFound) as error:  # decided while we looked
        log.info("heads_overtaken", repository=repository.key, reason=str(error))
    except RedisError:
        raise
    except Exception as error:  # one repository's trouble is not the others'
        log.warning("head_unknown", repository=repository.key, reason=str(error))


def policy_repository(settings: Settings) -> str:
    """Key of the repository that has the installation's policy, or ''."""
    match = POLICY_IN_GIT.fullmatch(settings.policy)
    return f"{match[1]}/{match[2]}" if match else ""


def _deleted(settings: Settings, repository: Repository, known: str) -> str:
    """NO_COMMIT where the branch was deleted since ``known`` was its head, else ''.

    git has to say so, of a repository that still has that commit: one that was made anew by a
    restore or an attempt to push has not.
    """
    if known in ("", names.NO_COMMIT) or not bare.resolve(settings, repository, known):
        return ""
    there = f"refs/heads/{repository.deploy_branch}" in bare.references(settings, repository)
    return "" if there else names.NO_COMMIT


def local_head(settings: Settings, repository: Repository) -> str:
    """The head of the deploy branch, or '' if it has none.

    Read from git's files: it is asked for all repositories again and again.
    """
    reference = f"refs/heads/{repository.deploy_branch}"
    folder = bare.home(settings, repository)
    if ".." in reference:
        return ""  # git has no such branch
    try:
        return names.commit((folder / reference).read_text().strip())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        pass  # then among the packed ones
    try:
        packed = (folder / "packed-refs").read_text(errors="replace")
    except FileNotFoundError:
        return ""
    found = re.search(rf"^(\S+) {re.escape(reference)}$", packed, re.MULTILINE)
    return names.commit(found[1]) if found else ""

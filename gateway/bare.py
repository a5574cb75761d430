"""Bare repositories of our own git remote: where they lie, how git is run on them.

git gets no configuration but what stands here and in the repository's own file, which a push
cannot write: no system or user configuration, no home.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
from redis.exceptions import RedisError

from core import logging, names
from core.errors import Conflict, InvalidRequest, NotFound, SlipwayError
from core.repositories import Repository
from core.settings import Settings
from core.store import Store
from core.store.repositories import identified

DEPLOY_BRANCHES = ("main", "master")
_HOOK = """#!/bin/sh
# Written by Slipway at every start.
exec "$SLIPWAY_PYTHON" -I -S "$SLIPWAY_POST_RECEIVE"
"""

_ASIDE = re.compile(r"\.[0-9a-f]{16}(?:~(.+)\.git)?")
"""What is being made; or what is being removed, with its name after what no name has."""

log = logging.get()


def folder(settings: Settings, namespace: str, name: str) -> Path:
    """Where a repository lies, whether it is there or not. The names are checked ones."""
    return settings.git_folder / namespace / f"{name}.git"


def home(settings: Settings, repository: Repository) -> Path:
    """Where a repository's commits lie, whether it is there or not: those of an environment in its
    parent's."""
    namespace, _, name = repository.home.partition("/")
    return folder(settings, names.namespace(namespace), names.repository_name(name))


def write_hooks(settings: Settings) -> Path:
    """Writes the hooks of all our repositories; returns their folder."""
    hooks = settings.state / "hooks"
    hooks.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = hooks / f".post-receive.{secrets.token_hex(4)}"
    draft.write_text(_HOOK)
    draft.chmod(0o700)
    draft.replace(hooks / "post-receive")
    return hooks


def environment(settings: Settings, path: Path) -> dict[str, str]:
    """The whole environment of a git process that works on the repository at ``path``."""
    configuration = {
        "safe.directory": str(path),
        "core.hooksPath": str(settings.state / "hooks"),
        "core.fsmonitor": "false",
        "credential.helper": "",
        "protocol.allow": "never",
        "http.receivepack": "true",
        "receive.fsckObjects": "true",
        "receive.maxInputSize": str(settings.max_push),
        "receive.unpackLimit": "1",  # as a pack, whose errors name the limit
        "receive.denyDeleteCurrent": "ignore",  # what was deployed of it is taken down
        "receive.advertisePushOptions": "false",
        "gc.autoDetach": "false",  # a collection of ours must not outlive the push
        "uploadpack.allowAnySHA1InWant": "true",  # a release of a commit that was pushed over
    }
    variables = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_COUNT": str(len(configuration)),
    }
    for number, (name, value) in enumerate(configuration.items()):
        variables[f"GIT_CONFIG_KEY_{number}"] = name
        variables[f"GIT_CONFIG_VALUE_{number}"] = value
    return variables


def create(settings: Settings, store: Store, namespace: str, name: str) -> Path:
    """Makes a repository where there is none, and claims its namespace.

    Raises:
        Conflict: the namespace belongs to an owner at a forge.
    """
    with _changing(settings):
        return _create(settings, store, namespace, name)


def _create(settings: Settings, store: Store, namespace: str, name: str) -> Path:
    path = folder(settings, namespace, name)
    for away in path.parent.glob(f".*~{path.name}"):
        _settle_aside(store, away)
    store.claim_namespace(
        namespace, "git", identified(Repository(namespace=namespace, name=name, source="git"))
    )
    if (path / "HEAD").is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{secrets.token_hex(8)}")
    try:
        _run(
            settings,
            draft,
            ["init", "--quiet", "--bare", "--template=", "--initial-branch=main", str(draft)],
        )
        draft.rename(path)
    except OSError as error:
        if not (path / "HEAD").is_file():  # else another first push was quicker
            raise SlipwayError(f"no repository could be made: {error.strerror}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return path


def there(settings: Settings, repository: Repository) -> bool:
    """Whether anything was ever pushed to it."""
    return (home(settings, repository) / "HEAD").is_file()


def existing_of(settings: Settings, repository: Repository) -> Path:
    """As ``existing``, of a record."""
    return existing(settings, *repository.home.split("/", 1))


def existing(settings: Settings, namespace: str, name: str) -> Path:
    """Raises NotFound where nothing was ever pushed."""
    path = folder(settings, names.namespace(namespace), names.repository_name(name))
    if not (path / "HEAD").is_file():
        raise NotFound(f"there is no repository {namespace}/{name}: push it first")
    return path


def resolve(settings: Settings, repository: Repository, revision: str) -> str:
    """The full id of the commit that a branch, tag or commit id names, or ''."""
    path = existing_of(settings, repository)
    arguments = ["rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"]
    return _run(settings, path, arguments, check=False)


def references(settings: Settings, repository: Repository) -> list[str]:
    """The branches and tags there are, as ``refs/heads/main``.

    Raises:
        NotFound: nothing was ever pushed.
        SlipwayError: git cannot tell.
    """
    return _references(settings, existing_of(settings, repository))


def tags(settings: Settings, repository: Repository, below: str) -> dict[str, str]:
    """The tags below such as ``refs/tags/promote/`` → the id of what each names.

    Raises as ``references``.
    """
    path = existing_of(settings, repository)
    told = _run(settings, path, ["for-each-ref", "--format=%(objectname) %(refname)", below])
    pairs = (line.split(" ", 1) for line in told.split("\n") if line)
    return {name.removeprefix("refs/tags/"): id_ for id_, name in pairs}


@contextmanager
def removing(settings: Settings, repositories: Sequence[Repository]) -> Iterator[None]:
    """Removes repositories once the body is through; whatever goes wrong before, they are there as
    they were. Meanwhile they lie aside, where no push reaches them, and none is made.

    Raises:
        Conflict: one has something that was pushed.
        SlipwayError: git cannot tell.
    """
    aside: list[tuple[Path, Path]] = []
    with _changing(settings):
        try:
            for each in repositories:
                path = folder(settings, each.namespace, each.name)
                away = path.with_name(f".{secrets.token_hex(8)}~{path.name}")
                path.rename(away)
                aside.append((path, away))
                if found := _pushed(_references(settings, away)):
                    raise Conflict(
                        f"the repository {each.key} still has {', '.join(sorted(found)[:10])}: "
                        "delete its branches and tags first ('git push --delete', the deploy "
                        "branch takes its functions down), and what was pushed is gone"
                    )
            yield
        except BaseException:
            for path, away in aside:
                away.rename(path)
            raise
    for _, away in aside:
        shutil.rmtree(away, ignore_errors=True)


def sweep(settings: Settings, store: Store) -> None:
    """Whatever a gateway that was killed left aside comes back or goes, and what was half made
    goes.

    Raises RedisError: the store is away.
    """
    with _changing(settings):
        for away in settings.git_folder.glob("*/.*"):
            try:
                _settle_aside(store, away)
            except OSError as error:  # one repository's trouble is not the others'
                log.warning("repository_aside", path=str(away), reason=str(error))


@contextmanager
def _changing(settings: Settings) -> Iterator[None]:
    """Held by whoever makes repositories, or removes them. While the gateway restarts, there are
    two."""
    settings.git_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (settings.git_folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _settle_aside(store: Store, away: Path) -> None:
    """A repository that is still known comes back, what is left of others goes."""
    match = _ASIDE.fullmatch(away.name)
    if not match:
        return
    key = f"{away.parent.name}/{match[1]}"
    path = away.with_name(f"{match[1]}.git")
    if not match[1] or store.find_repository(key) is None:
        shutil.rmtree(away, ignore_errors=True)
    elif not path.exists():
        away.rename(path)
        log.warning("repository_back", repository=key)
    else:  # nobody makes one anew before: it is for the administrator to look at
        log.error("repository_twice", repository=key, path=str(away))


def _references(settings: Settings, path: Path) -> list[str]:
    told = _run(settings, path, ["for-each-ref", "--format=%(refname)", "refs/heads", "refs/tags"])
    return told.split("\n") if told else []


def _pushed(found: list[str]) -> list[str]:
    return [each for each in found if not each.startswith("refs/heads/slipway/")]


def settle_deploy_branch(settings: Settings, store: Store, repository: Repository) -> Repository:
    """Records the deploy branch once there is one: the first of main and master that was pushed."""
    if repository.deploy_branch:
        return repository
    path = existing(settings, repository.namespace, repository.name)
    for branch in DEPLOY_BRANCHES:
        if resolve(settings, repository, f"refs/heads/{branch}"):
            _run(settings, path, ["symbolic-ref", "HEAD", f"refs/heads/{branch}"])
            set_branch = partial(msgspec.structs.replace, deploy_branch=branch)
            return store.change_repository(repository.key, set_branch)
    return repository


def settle_all(settings: Settings, store: Store) -> None:
    """At the start: a push that was stored just before a crash gets its deploy branch, so that the
    sweep of branch heads finds it."""
    try:
        for repository in store.repositories():
            if repository.source == "git" and not repository.deploy_branch:
                settle(settings, store, repository.namespace, repository.name)
    except RedisError as error:  # the store is away: a push settles its own
        log.warning("no_deploy_branches", reason=str(error))


def settle(settings: Settings, store: Store, namespace: str, name: str) -> None:
    """Settles one repository's deploy branch; what goes wrong is logged."""
    try:
        settle_deploy_branch(settings, store, store.repository(namespace, name))
    except (SlipwayError, OSError, RedisError) as error:
        log.warning("no_deploy_branch", repository=f"{namespace}/{name}", reason=str(error))


def head(settings: Settings, repository: Repository) -> str:
    """The commit at the head of the deploy branch.

    Raises:
        Conflict: nothing was pushed to one yet, or it was deleted.
    """
    branch = repository.deploy_branch
    commit = resolve(settings, repository, f"refs/heads/{branch}") if branch else ""
    if not commit:
        if branch:
            raise Conflict(f"the deploy branch {branch} of {repository.key} was deleted: push it")
        raise Conflict(
            f"{repository.key} has no deploy branch yet: push {' or '.join(DEPLOY_BRANCHES)}"
        )
    return commit


def own_commit(settings: Settings, repository: Repository, commit: str) -> str:
    """Raises InvalidRequest where the repository does not have the commit."""
    found = resolve(settings, repository, commit)
    if not found:
        raise InvalidRequest(f"{repository.key} has no commit {commit}: was it pushed?")
    return found


def _run(settings: Settings, path: Path, arguments: list[str], *, check: bool = True) -> str:
    cwd = path if path.is_dir() else path.parent
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=cwd,
            env=environment(settings, path),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlipwayError(f"git could not be run: {error}; is it installed?") from error
    if done.returncode and check:
        told = done.stderr.decode("utf-8", "replace").strip()[:500]
        raise SlipwayError(f"git {arguments[0]} failed in {path.name}: {told}")
    return done.stdout.decode("utf-8", "replace").strip() if not done.returncode else ""

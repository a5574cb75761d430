"""A bare mirror of each repository, so that a push costs the fetch of one commit.

    <state>/mirrors/<namespace>/<repository>.git    objects; nothing is ever checked out
    <state>/mirrors/<namespace>/<repository>.lock   held while the mirror is changed
    <state>/mirrors/<namespace>/<repository>.use    shared by readers; thrown away only without any

Git writes a pack under its final name only after every object of it was checked, so a mirror
holds what passed or nothing. Since it can be fetched again at any time, what looks damaged is
thrown away.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TypeVar
from urllib.parse import urlsplit

from builder import folders
from builder.giterrors import TOO_LARGE, NotServed, Unclear, run, shown
from builder.hardened_git import GitFailed, HardenedGit
from builder.source import DAMAGE_MARK, Damaged, Source
from core import names
from core.errors import CheckoutFailed, InvalidRequest, NotSupported, Unavailable
from core.settings import Settings

T = TypeVar("T")

_HISTORY, _HISTORY_SECONDS = 500, 30.0
"""Commits that are looked back, and the time for it."""
_MAX_PACKS = 50
"""Packs of a mirror before it is made anew: one commit at depth 1 is cheaper than to repack."""
_MAX_LISTING = 64 * 2**20
_BRANCH = re.compile(r"(?!.*(\.\.|@\{|//))[^-/.\x00- ~^:?*\[\\\x7f][^\x00- ~^:?*\[\\\x7f]{0,243}")


class NoBranch(CheckoutFailed):
    """The repository answered, and has no such branch."""


class Mirror:
    """One repository's mirror. Any number of processes may use it at the same time.

    ``check`` is asked while git runs, while a lock is waited for, and by what ``fetch`` opens:
    what it raises ends that.
    """

    def __init__(
        self,
        settings: Settings,
        namespace: str,
        repository: str,
        *,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        folder = settings.mirrors / names.namespace(namespace)
        self.git_dir = folder / f"{names.repository_name(repository)}.git"
        self._settings = settings
        self._check = check

    def head(
        self,
        url: str,
        branch: str = "",
        *,
        local: bool = False,
        credential: str = "",
        timeout: float | None = None,
    ) -> tuple[str, str]:
        """Asks for the head of ``branch``, or of the default branch: (branch, commit). For
        ``branch`` may stand the whole reference of a request (``names.REQUEST``), here as below.

        ``local`` allows a path below Settings.git_folder, and nothing else. ``credential`` is the
        value of an HTTP ``Authorization`` header. ``timeout``: seconds, as set if not given.

        Raises:
            NoBranch: there is no such branch.
            CheckoutFailed: with the cause; ``retryable`` where the network is to blame.
        """
        reference = _reference(branch) if branch else "HEAD"
        asked = ("--symref", "--", url, reference)
        listing, found = self._listing(
            url, *asked, local=local, credential=credential, timeout=timeout
        )
        target = re.search(r"^ref: refs/heads/(\S+)\tHEAD$", listing, re.MULTILINE)
        commit = found.get(reference, "")
        if not commit or commit.startswith("ref:"):
            if branch:
                raise NoBranch(f"{shown(url)} has no branch {branch!r}: it was deleted or renamed")
            told = f"{shown(url)} has no commit on its default branch: push one first"
            raise CheckoutFailed(told)
        if not branch and not target:
            raise CheckoutFailed(f"{shown(url)} does not say which branch is its default: set one")
        return branch or _checked_branch(target[1] if target else ""), names.commit(commit)

    def commit_of(self, url: str, reference: str, *, timeout: float | None = None) -> str:
        """Asks for the commit of a branch, or else of a tag.

        Raises:
            InvalidRequest: it is the name of neither.
            CheckoutFailed: as ``head``.
        """
        name = _checked_branch(reference)
        # As `git clone --branch`: a branch first; of an annotated tag what it points to ("^{}").
        asked = (f"refs/heads/{name}", f"refs/tags/{name}^{{}}", f"refs/tags/{name}")
        _, found = self._listing(url, "--", url, *asked, timeout=timeout)
        commit = next((found[each] for each in asked if each in found), "")
        if not commit:
            told = f"{shown(url)} has no branch and no tag {reference!r}: it was deleted or "
            raise CheckoutFailed(f"{told}renamed, or is spelled otherwise")
        return names.commit(commit)

    def tags(
        self, url: str, below: str, *, credential: str = "", timeout: float | None = None
    ) -> dict[str, tuple[str, str]]:
        """The tags below such as ``refs/tags/promote/`` → the id of what each names, and of what
        that stands for in the end.

        Raises:
            CheckoutFailed: as ``head``.
        """
        asked = ("--tags", "--", url, f"{below}*")
        _, found = self._listing(url, *asked, credential=credential, timeout=timeout)
        return {
            name.removeprefix("refs/tags/"): (id_, found.get(f"{name}^{{}}", id_))
            for name, id_ in found.items()
            if name.startswith(below) and not name.endswith("^{}")
        }

    def _listing(
        self,
        url: str,
        *arguments: str,
        local: bool = False,
        credential: str = "",
        timeout: float | None = None,
    ) -> tuple[str, dict[str, str]]:
        """What ls-remote tells, and of each name in it the id."""
        # It needs no repository: it must not look at the mirror's, which may be damaged.
        nowhere = Path("/nonexistent")
        git = self._git(url, nowhere, _MAX_LISTING, local, credential, self._check, timeout)
        listing = run(git, url, "ls-remote", *arguments)
        return listing, {name: value for value, _, name in map(_split, listing.splitlines())}

    def commit_from(self, url: str, prefix: str) -> str:
        """The one commit of the branches and tags whose id begins with ``prefix`` (hex digits);
        where the mirror does not know it yet, everything that these hold is fetched.

        What else lies in the mirror does not count: forges serve commits of forks, too, so
        whoever names one by its whole id could give others his own for a short id of theirs.

        Raises:
            CheckoutFailed: there is none, or more than one; or as ``fetch``.
        """
        found = self._mended(lambda: self._named(url, prefix))
        if len(found) != 1:
            raise CheckoutFailed(
                f"{shown(url)} has {'more than one' if found else 'no'} commit on its branches and "
                f"tags whose id begins with {prefix}: write all 40 digits"
            )
        return names.commit(found[0])

    def _named(self, url: str, prefix: str) -> list[str]:
        if found := self._reached(url, prefix):
            return found
        git = self._git(url, self.git_dir, self._settings.max_push, False, "", self._fetching)
        deeper = ["--unshallow"] if (self.git_dir / "shallow").exists() else []
        specs = [f"+refs/{kind}/*:refs/slipway/{kind}/*" for kind in ("heads", "tags")]
        self._bounded(git, url, "--prune", *deeper, "--", url, *specs)
        return self._reached(url, prefix)

    def _reached(self, url: str, prefix: str) -> list[str]:
        """The commits that branches and tags lead to, as far as they were fetched."""
        git = HardenedGit(self.git_dir, timeout=60, max_file=_MAX_LISTING, check=self._check)
        kinds = ("--glob=refs/slipway/heads", "--glob=refs/slipway/tags")
        listing = run(git, url, "rev-list", *kinds)
        return re.findall(rf"^{prefix}[0-9a-f]*$", listing, re.MULTILINE)

    def leads_to(self, url: str, older: str, newer: str, *, credential: str = "") -> bool:
        """Whether ``older`` is in the history of ``newer``, as far back as is looked: in a
        repository of its own, which has commits only and is removed.

        Raises:
            CheckoutFailed: as ``fetch``.
        """
        self.git_dir.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(prefix=".history-", dir=self.git_dir.parent) as name:
            folder = Path(name)
            plain = HardenedGit(folder, timeout=60)
            plain.execute(["git", "init", "--quiet", "--bare", "--template=", str(folder)])
            git = self._git(
                url, folder, _MAX_LISTING, False, credential, self._check, _HISTORY_SECONDS
            )
            flags = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules")
            depth = (f"--depth={_HISTORY}", "--filter=tree:0")
            run(git, url, "fetch", *flags, *depth, "--", url, f"{names.commit(newer)}:refs/newer")
            known = plain.execute(["git", "rev-list", "refs/newer"])
            return names.commit(older) in str(known).split()

    def has(self, commit: str) -> bool:
        """Whether the mirror has a commit, so that nothing is fetched for it."""
        return (self.git_dir / "HEAD").is_file() and self._has(names.commit(commit))

    def discard(self) -> bool:
        """Removes the mirror unless somebody uses it; the next fetch makes it anew."""
        try:
            with self._lock(".lock", fcntl.LOCK_EX, 0):
                return self._discard(patient=False)
        except Unavailable:
            return False

    def fetch(
        self,
        url: str,
        wanted: str,
        *,
        branch: str = "",
        local: bool = False,
        credential: str = "",
    ) -> Source:
        """Brings a commit into the mirror and opens it.

        Args:
            wanted: a full commit id, or a branch, of which the head is taken.
            branch: where the commit lies, for servers that serve branches only.
            local, credential: as for ``head``.

        Raises:
            CheckoutFailed: with the cause; ``retryable`` where the network is to blame.
        """
        if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", wanted):
            branch, wanted = self.head(url, wanted, local=local, credential=credential)
        if len(wanted) != 40:
            raise NotSupported(f"{shown(url)} names objects by SHA-256, which is not read here yet")
        git = self._git(
            url, self.git_dir, self._settings.max_push, local, credential, self._fetching
        )
        return self._mended(lambda: self._open(git, url, wanted, branch))

    def _mended(self, attempt: Callable[[], T]) -> T:
        """What ``attempt`` gives; it is made once more, from nothing, where the mirror seems to be
        damaged."""
        with self._changing():
            fresh = self._prepare()
            try:
                return attempt()
            except (Unclear, Damaged):
                if fresh:
                    raise
            self._discard()
            self._prepare()
            return attempt()

    def _open(self, git: HardenedGit, url: str, commit: str, branch: str) -> Source:
        reading = self._lock(".use", fcntl.LOCK_SH, 60)
        source = partial(
            Source,
            self.git_dir,
            commit,
            max_files=self._settings.max_files,
            max_bytes=self._settings.max_context,
            check=self._check,
            hold=reading,
        )
        try:
            try:
                return source()
            except Damaged:  # or only not there yet: to the reader it looks the same
                self._download(git, url, commit, branch)
            return source()
        except BaseException:
            reading.close()
            raise

    def _download(self, git: HardenedGit, url: str, commit: str, branch: str) -> None:
        """Fetches the commit alone, or where the server does not serve that, its branch."""
        keep = f"refs/slipway/{commit}"  # what is kept need not be sent again with the next commit
        try:
            self._bounded(git, url, "--depth=1", "--", url, f"{commit}:{keep}")
        except NotServed as error:
            whole = _reference(branch) if branch else "refs/heads/*"
            to = f"refs/slipway/{whole.removeprefix('refs/')}"
            self._bounded(git, url, "--", url, f"+{whole}:{to}")
            if not self._has(commit):
                raise error from None

    def _bounded(self, git: HardenedGit, url: str, *arguments: str) -> None:
        """One ``git fetch``; what it does not finish is removed."""
        flags = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules")
        try:
            run(git, url, "fetch", *flags, *arguments)
        except CheckoutFailed:
            if any(left.stat().st_size >= self._settings.max_push for left in self._unfinished()):
                raise CheckoutFailed(f"{shown(url)} {TOO_LARGE}") from None
            raise
        finally:
            for left in self._unfinished():
                left.unlink(missing_ok=True)

    def _unfinished(self) -> list[Path]:
        """Packs that a fetch began and did not end."""
        return list(self.git_dir.glob("objects/pack/tmp_*"))

    def _has(self, commit: str) -> bool:
        git = HardenedGit(self.git_dir, timeout=60)
        try:
            git.execute(["git", "cat-file", "-e", f"{commit}^{{commit}}"])
        except GitFailed:
            return False
        return True

    def _prepare(self) -> bool:
        """Makes the mirror unless it is there and sound; tells whether it is new."""
        if (self.git_dir / "HEAD").is_file():
            packs = len(list((self.git_dir / "objects/pack").glob("*.pack")))
            if packs <= _MAX_PACKS and not (self.git_dir / DAMAGE_MARK).exists():
                return False
            if not self._discard(patient=packs <= _MAX_PACKS):
                return False  # in use: the next fetch tries again
        draft = self.git_dir.with_suffix(".new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True, mode=0o700)
        git = HardenedGit(draft, timeout=60)
        git.execute(["git", "init", "--quiet", "--bare", "--template=", "--initial-branch=main"])
        if self.git_dir.exists():
            shutil.rmtree(self.git_dir)
        draft.rename(self.git_dir)
        return True

    def _discard(self, *, patient: bool = True) -> bool:
        """Removes the mirror when nobody reads it; an impatient caller goes on without."""
        try:
            with self._lock(".use", fcntl.LOCK_EX, 60 if patient else 0):
                shutil.rmtree(self.git_dir, ignore_errors=True)
        except Unavailable:
            if patient:
                raise
            return False
        return True

    def _fetching(self) -> None:
        """As ``check``; what is fetched may not fill the disk."""
        self._check()
        if not folders.room(self.git_dir.parent):
            raise folders.full(self.git_dir.parent)

    def _git(
        self,
        url: str,
        git_dir: Path,
        max_file: int,
        local: bool,
        credential: str,
        check: Callable[[], None],
        timeout: float | None = None,
    ) -> HardenedGit:
        """Git with the one protocol of this URL allowed."""
        parts = urlsplit(url)
        if local:
            scheme = "file"
            folder = self._settings.git_folder.resolve()
            if not Path(url).is_absolute() or folder not in Path(url).resolve().parents:
                raise CheckoutFailed("the repository is not one of our own git remote")
        elif parts.scheme in ("http", "https") and parts.hostname and not parts.username:
            scheme = parts.scheme
        else:
            raise CheckoutFailed(
                f"{shown(url)} is not a URL that is fetched from: only http and https are"
            )
        config = {f"protocol.{scheme}.allow": "always"}
        if credential:
            base = f"{parts.scheme}://{parts.netloc}/"
            config[f"http.{base}.extraHeader"] = f"Authorization: {credential}"
            if base == f"{self._settings.base_url}/":
                config[f"http.{base}.proxy"] = ""  # the gateway is ours: nobody in between
        return HardenedGit(
            git_dir,
            timeout=timeout or self._settings.build_timeout,
            max_file=max_file,
            config=config,
            check=check,
        )

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._lock(".lock", fcntl.LOCK_EX, self._settings.build_timeout):
            yield

    def _lock(self, suffix: str, kind: int, timeout: float) -> IO[bytes]:
        """Takes a lock of this mirror; closing the file lets go of it.

        Raises:
            Unavailable: somebody else held it for ``timeout`` seconds.
        """
        path = self.git_dir.with_suffix(suffix)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
        end = time.monotonic() + timeout
        try:
            while True:
                try:
                    fcntl.flock(file, kind | fcntl.LOCK_NB)
                    return file
                except BlockingIOError:
                    if time.monotonic() >= end:
                        told = "another build uses the mirror of this repository: try again later"
                        raise Unavailable(told) from None
                self._check()
                time.sleep(0.02)
        except BaseException:
            file.close()
            raise


def _split(line: str) -> tuple[str, str, str]:
    return line.partition("\t")


def _reference(branch: str) -> str:
    """What a branch is called as a whole; a request's reference is that already."""
    return branch if names.REQUEST.fullmatch(branch) else f"refs/heads/{_checked_branch(branch)}"


def _checked_branch(branch: str) -> str:
    """Git's rules for a branch (git-check-ref-format) as far as they concern our commands."""
    if not _BRANCH.fullmatch(branch) or branch.endswith((".lock", ".", "/")):
        raise InvalidRequest(f"{branch[:80]!r} is not the name of a branch")
    return branch

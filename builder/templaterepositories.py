"""Git repositories of templates: what a ``source`` may be, and its commit at a ref.

    <state>/mirrors/slipway/template-<hash>.git     one repository, for everybody: what lies in it
                                                    came from its URL, under ids that git made of
                                                    the content itself
    <state>/mirrors/slipway/template-<hash>.used    its time tells when it was used last

Nobody's password goes along, redirects are not followed, and only hosts are asked that the
administrator named. A branch or a tag is asked for at each build, so that it is seen to move; where
the repository does not answer, the build fails: another commit would not be what the stack file
names. ``sha-<commit>`` is asked for once.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from builder.mirror import Mirror
from builder.origins import check_host
from builder.source import Source
from core import disk
from core.errors import InvalidRequest, NotAllowed, SlipwayError
from core.pruning import Candidate, of_each
from core.settings import Settings

if TYPE_CHECKING:
    from builder.steps import Steps

T = TypeVar("T")

ASK = 20.0
"""Seconds in which a repository has to say what a ref is."""
UNUSED = 7 * 86400.0
"""Seconds after which what no build used goes."""
_MOST = 20
"""Repositories that one commit may name."""
OWNER = "slipway"
"""The namespace of the mirrors: one that nobody can hold."""
_URL = re.compile(r"[!-~]{1,1024}")
_SHA = re.compile(r"sha-([0-9a-f]{7,40})")


@dataclass(frozen=True)
class Place:
    """A repository of templates, and what of it is wanted."""

    url: str
    ref: str = ""
    """A branch, a tag, ``sha-<7 to 40 hex digits>``; empty: the default branch."""

    @staticmethod
    def of(source: str, settings: Settings) -> Place:
        """Reads ``https://host/path#ref``; nothing is asked of the host.

        Raises:
            InvalidRequest: it is no URL of a repository.
            NotAllowed: its host is none of those that templates come from.
        """
        shown = repr(source if len(source) <= 100 else f"{source[:100]}…")
        none = (
            f"the source {shown} is not fetched: write a URL such as "
            "https://github.com/openfaas/templates#1.0"
        )
        url, sign, ref = source.partition("#")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise InvalidRequest(none) from error
        if parts.scheme in ("http", "https") and "@" in parts.netloc:
            raise InvalidRequest(
                "its URL has a user or a password in it, which everybody could read: only "
                "repositories that anybody may read are fetched"
            )
        host = (parts.hostname or "").rstrip(".")
        if not _URL.fullmatch(source) or "\\" in source or not host or port == 0:
            raise InvalidRequest(none)
        if parts.scheme not in ("http", "https"):
            raise InvalidRequest(none)
        if parts.query or len(parts.path) < 2 or "/." in parts.path or (sign and not ref):
            raise InvalidRequest(
                f"the source {shown} is not the URL of a repository: write https://host/path, and "
                "#branch, #tag or #sha-<commit> behind it"
            )
        opened = host in settings.allow_hosts
        if not opened and host not in settings.template_hosts:
            raise NotAllowed(
                f"templates are not fetched from {host[:100]!r}, but from "
                f"{', '.join(settings.template_hosts) or 'nowhere'}: the administrator can add it "
                "(SLIPWAY_TEMPLATE_HOSTS); or commit the template into template/"
            )
        if parts.scheme == "http" and not opened:
            raise InvalidRequest(f"the source {shown} is fetched in the clear: write https://")
        return Place(url, ref)

    def at(self, ref: str) -> Place:
        """The same repository at another ref; at its own where that is empty."""
        return replace(self, ref=ref or self.ref)

    def __str__(self) -> str:
        return f"{self.url}#{self.ref}" if self.ref else self.url


class Repositories:
    """Those that the templates of one commit come from: each is asked and fetched once."""

    def __init__(self, settings: Settings, steps: Steps | None = None) -> None:
        self.settings = settings
        self.steps = steps
        self._opened: dict[Place, Source | SlipwayError] = {}

    def __enter__(self) -> Repositories:
        return self

    def __exit__(self, *_: object) -> None:
        """Lets go of the mirrors."""
        for each in self._opened.values():
            if isinstance(each, Source):
                each.close()
        self._opened.clear()

    def open(self, place: Place) -> Source:
        """The commit at a place.

        Raises:
            InvalidRequest: the ref is none, or these are too many.
            CheckoutFailed, NotAllowed, Unavailable: it cannot be fetched.
        """
        if place not in self._opened:
            if len(self._opened) >= _MOST:
                raise InvalidRequest(f"more than {_MOST} repositories of templates are named")
            try:
                self._opened[place] = source = self._fetched(place)
                self.say(f"templates of {place}: commit {source.commit}")
            except SlipwayError as error:
                if error.retryable:
                    raise
                self._opened[place] = error
        found = self._opened[place]
        if isinstance(found, SlipwayError):
            raise found
        return found

    def say(self, text: str) -> None:
        """A line of the release's log."""
        if self.steps:
            self.steps.log.add("", "plan", "stdout", text)

    def _fetched(self, place: Place) -> Source:
        name = f"template-{hashlib.sha256(place.url.encode()).hexdigest()[:32]}"
        check = self.steps.check if self.steps else lambda: None
        mirror = Mirror(self.settings, OWNER, name, check=check)
        used = mirror.git_dir.with_suffix(".used")
        used.parent.mkdir(parents=True, exist_ok=True)
        used.touch()
        commit = self._patiently(lambda: self._commit(mirror, place))
        return self._patiently(lambda: mirror.fetch(place.url, commit))

    def _commit(self, mirror: Mirror, place: Place) -> str:
        if not place.ref.startswith("sha-"):
            check_host(self.settings, place.url)
            wait = min(ASK, self.settings.build_timeout)
            if place.ref:
                return mirror.commit_of(place.url, place.ref, timeout=wait)
            return mirror.head(place.url, timeout=wait)[1]
        match = _SHA.fullmatch(place.ref)
        if not match:
            raise InvalidRequest(f"{place.ref[:60]!r} is not sha- and 7 to 40 hex digits")
        digits = match[1]
        full = len(digits) == 40
        if not (full and mirror.has(digits)):
            check_host(self.settings, place.url)
        return digits if full else mirror.commit_from(place.url, digits)

    def _patiently(self, ask: Callable[[], T]) -> T:
        return self.steps.patiently(ask, within=ASK / 2) if self.steps else ask()


def unused(settings: Settings) -> Iterator[Candidate]:
    """Mirrors that no build has used for a week."""

    def of(used: Path) -> Iterator[Candidate]:
        if _old(used):
            mirror = Mirror(settings, OWNER, used.stem)
            name = f"{OWNER}/{used.stem}"
            size = partial(disk.usage, mirror.git_dir)
            yield Candidate("mirror", name, partial(_remove, mirror, used), size)

    return of_each("mirror", sorted((settings.mirrors / OWNER).glob("template-*.used")), of)


def _remove(mirror: Mirror, used: Path) -> bool:
    if not _old(used) or not mirror.discard():
        return False
    used.unlink(missing_ok=True)
    return True


def _old(used: Path) -> bool:
    return time.time() - used.stat().st_mtime > UNUSED

"""Shows one thing at a forge and remembers what the forge gave back; notes what could not be shown.

Killed between the two, the same is sent again without what the forge gave back, and the client
finds what it made the first time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import msgspec

from core import logging
from core.errors import Conflict, InvalidRequest, NotAllowed, NotFound, SlipwayError, Unavailable
from core.models import LogLine, now
from core.repositories import Repository
from core.store import Store
from core.store.reports import Shown
from forges import Deployment, Forge, Progress, Report
from gateway.progress import one_line
from gateway.reports import tails
from gateway.reports.annotations import of_stack, of_tests
from gateway.reports.outbox import GIVE_UP, Message

TITLES = {"github": "GitHub", "gitlab": "GitLab", "gitea": "Gitea"}

log = logging.get()


@dataclass(frozen=True)
class Comment:
    number: int
    text: str


@dataclass(frozen=True)
class Wish:
    """What a message says."""

    repository: Repository
    release: str
    """Empty of a comment on a request that waits for an approval."""
    created: str
    """When the release was."""
    what: Report | Deployment | Comment
    digest: str
    function: str = ""
    """Of a report: whose log is shown; empty: that of the whole release."""
    folder: str = ""
    """Of the function, within the repository."""
    reason: str = ""
    """Why the release failed."""
    last: bool = False
    """What is shown is brought to its end and then forgotten: it is of a commit, or a function,
    that the release has no more."""

    @property
    def kind(self) -> str:
        return type(self.what).__name__.lower()


class Telling:
    """``client``: the client of a forge, by its name; asked again where a forge refuses us, as keys
    may have come since."""

    def __init__(self, store: Store, client: Callable[[str], Forge]) -> None:
        self.store = store
        self._client = client
        self._clients: dict[str, Forge] = {}
        self._lock = threading.Lock()

    def prepare(self, names: Iterable[str]) -> None:
        """Makes the clients of forges that there are: importing one takes its time."""
        for name in names:
            with suppress(SlipwayError):  # told of where something is to be shown
                self._forge(name)

    def send(self, message: Message) -> None:
        """Raises what the forge's methods raise."""
        wish = message.what
        assert isinstance(wish, Wish)
        shown = self._shown(wish, message.name)
        known = shown.known if shown and shown.commit == _commit(wish) else ""
        try:
            try:
                known = self._show(wish, known)
            except NotFound:
                if not known:
                    raise
                known = self._show(wish, "")  # somebody deleted it
        except NotAllowed:
            with self._lock:
                self._clients.pop(wish.repository.source, None)
            raise
        self._remember(wish, message.name, known)
        log.info(
            "reported",
            release=wish.release,
            name=message.name,
            progress=_progress(wish),
            seconds=_since(wish.created),
        )

    def drop(self, message: Message, error: SlipwayError) -> None:
        """Notes in the release's log, once for each kind, that the forge was not told.

        Where it is only this that the forge refuses, the rest is told it all the same.
        """
        wish = message.what
        assert isinstance(wish, Wish)
        why = one_line(str(error))
        if isinstance(error, Unavailable):
            why = f"{why} (given up after {GIVE_UP / 60:.0f} minutes)"
        title = TITLES.get(wish.repository.source, wish.repository.source)
        if isinstance(error, InvalidRequest | Conflict):
            shown = self._shown(wish, message.name)
            self._remember(wish, message.name, shown.known if shown else "")
            fresh = self.store.give_up(wish.release, f"{wish.kind} {message.name}", why)
        else:
            fresh = self.store.give_up(wish.release, wish.kind, why)
        log.warning("not_reported", release=wish.release, name=message.name, reason=why)
        if fresh:
            text = f"{title} was not told ({wish.kind}): {why}"
            line = LogLine(time=now(), function="", step="report", stream="step", text=text)
            self.store.add_note(wish.release, line)

    def _show(self, wish: Wish, known: str) -> str:
        forge = self._forge(wish.repository.source)
        match wish.what:
            case Report() as report:
                return forge.report(wish.repository, self._with_log(wish, report), known)
            case Deployment() as deployment:
                return forge.deployment(wish.repository, deployment, known)
            case Comment(number=number, text=text):
                return forge.comment(wish.repository, number, text, known)

    def _with_log(self, wish: Wish, report: Report) -> Report:
        """With the end of the log as it is now, and the places of what failed."""
        if wish.last or report.progress is Progress.QUEUED:
            return report
        lines = tails.last_of(self.store, wish.release, wish.function)
        found = []
        if report.progress is Progress.FAILURE and wish.function:
            tests = (line.text for line in lines if line.step == "test" and line.stream != "step")
            found = of_tests(tests, wish.folder)
        elif report.progress is Progress.FAILURE:
            found = of_stack(wish.reason)
        text = tails.shown(lines, wish.function)
        return msgspec.structs.replace(report, text=text, annotations=tuple(found))

    def _shown(self, wish: Wish, name: str) -> Shown | None:
        if isinstance(wish.what, Comment):
            return self.store.comment(wish.repository.key)
        return self.store.shown(wish.release).get(name)

    def _remember(self, wish: Wish, name: str, known: str) -> None:
        shown = Shown(
            digest=wish.digest, known=known, commit=_commit(wish), progress=_progress(wish)
        )
        if isinstance(wish.what, Comment):
            self.store.save_comment(wish.repository.key, shown)
        elif wish.last:
            self.store.forget_shown(wish.release, name)
        else:
            self.store.save_shown(wish.release, name, shown)

    def _forge(self, name: str) -> Forge:
        with self._lock:
            if name not in self._clients:
                self._clients[name] = self._client(name)
            return self._clients[name]


def _commit(wish: Wish) -> str:
    return "" if isinstance(wish.what, Comment) else wish.what.commit


def _progress(wish: Wish) -> str:
    return "" if isinstance(wish.what, Comment) else wish.what.progress.value


def _since(moment: str) -> float:
    return round(time.time() - datetime.fromisoformat(moment).timestamp(), 3)

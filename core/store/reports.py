"""What forges are told of releases: which have changed, and what is shown of each.

A release is in ``keys.REPORTING`` from the transaction that changes it on, until the reporter has
told all of it; so nothing is lost while the reporter, the store or the forge is away. Releases that
were decided before there was a reporter are not marked as reported, and nobody is told of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import msgspec
from redis.client import Pipeline

from core import keys
from core.models import Release, Struct
from core.store.base import encode, release_of, text
from core.store.releases import Releases


class Shown(Struct, frozen=True):
    """What a forge shows of one context, as far as we know."""

    digest: str
    """Of what it was told."""
    known: str = ""
    """What the forge gave us to find it again (``forges.Forge``)."""
    commit: str = ""
    progress: str = ""


class ReportedRelease(msgspec.Struct, frozen=True):
    """A release, and whether its forge is told of it."""

    release: Release
    marked: bool
    """False: it is of our own remote, or older than the reporter."""
    raw: bytes
    """Its record, byte by byte."""


class Reports(Releases):
    def reporting(self) -> list[str]:
        """Ids of releases whose forge may have to be told something, the oldest first."""
        ids = cast("set[bytes]", self.redis.smembers(keys.REPORTING))
        return sorted((text(id_) for id_ in ids), key=_number)

    def reported_releases(self, ids: Iterable[str]) -> dict[str, ReportedRelease]:
        """Those of them that are there; the others leave ``reporting``."""
        wanted = list(ids)
        found = {}
        docs = self._pipeline(("HMGET", keys.release(id_), "doc", "reported") for id_ in wanted)
        rows = self._pipeline(("HGETALL", keys.rows(id_)) for id_ in wanted)
        for id_, (doc, marked), row in zip(wanted, docs, rows, strict=True):
            if doc is None:
                self.redis.srem(keys.REPORTING, id_)
            else:
                found[id_] = ReportedRelease(release_of(doc, row), bool(marked), doc)
        return found

    def mark_reported(self, id_: str) -> None:
        """From now on its forge is told of a release."""
        self.redis.hset(keys.release(id_), "reported", "1")

    def end_reporting(self, id_: str, raw: bytes) -> bool:
        """All that there is to tell of a release was told, as its record was then; False where it
        has changed since."""

        def change(pipe: Pipeline) -> bool:
            same = pipe.hget(keys.release(id_), "doc") in (raw, None)
            pipe.multi()
            if same:
                pipe.srem(keys.REPORTING, id_)
            return same

        return self._transaction(change, keys.release(id_))

    def report_again(self, repository: str) -> None:
        """Has a repository's newest release and the one that is live looked at once more: what is
        shown of them depends on the repository's record."""
        ids = [self.live_release(repository)]
        ids += [text(id_) for id_ in self._newest(repository)]
        if wanted := [id_ for id_ in dict.fromkeys(ids) if id_]:
            self.redis.sadd(keys.REPORTING, *wanted)

    def is_newest(self, release: Release) -> bool:
        """Whether no release of its repository came after it."""
        key = f"{release.namespace}/{release.repository}"
        return [text(id_) for id_ in self._newest(key)] == [release.id]

    def is_reporting(self, repository: str) -> bool:
        """Whether a forge may still have to be told something of a repository's newest releases."""
        key = keys.repository_releases(repository)
        newest = {text(each) for each in cast("list[bytes]", self.redis.zrevrange(key, 0, 19))}
        return not newest.isdisjoint(self.reporting())

    def shown(self, id_: str) -> dict[str, Shown]:
        """Context → what its forge shows of a release."""
        return {
            name: msgspec.json.decode(raw, type=Shown)
            for name, raw in self._reports(id_).items()
            if not name.startswith("!")
        }

    def given_up(self, id_: str) -> dict[str, str]:
        """Kind → why nothing of that kind is told of a release any more."""
        return {
            name[1:]: text(raw) for name, raw in self._reports(id_).items() if name.startswith("!")
        }

    def save_shown(self, id_: str, context: str, shown: Shown) -> None:
        self._save_report(id_, context, encode(shown))

    def forget_shown(self, id_: str, context: str) -> None:
        self.redis.hdel(keys.reports(id_), context)

    def give_up(self, id_: str, kind: str, why: str) -> bool:
        """Nothing of this kind is told of a release any more; False: that was so already."""
        return self._save_report(id_, f"!{kind}", why.encode())

    def comment(self, repository: str) -> Shown | None:
        """The comment on the request whose preview a repository is."""
        raw = self.redis.hget(keys.COMMENTS, repository)
        return None if raw is None else msgspec.json.decode(cast(bytes, raw), type=Shown)

    def save_comment(self, repository: str, shown: Shown) -> None:
        self.redis.hset(keys.COMMENTS, repository, encode(shown))

    def forget_comments(self, repositories: Iterable[str]) -> None:
        """Of those that are not there any more; ``repositories``: all that are."""
        kept = set(repositories)
        gone = [name for name in self.redis.hkeys(keys.COMMENTS) if text(name) not in kept]
        if gone:
            self.redis.hdel(keys.COMMENTS, *gone)

    # Inside

    def _newest(self, repository: str) -> list[bytes]:
        return cast("list[bytes]", self.redis.zrevrange(keys.repository_releases(repository), 0, 0))

    def _reports(self, id_: str) -> dict[str, bytes]:
        rows = cast("dict[bytes, bytes]", self.redis.hgetall(keys.reports(id_)))
        return {text(name): raw for name, raw in rows.items()}

    def _save_report(self, id_: str, field: str, value: bytes) -> bool:
        """Not of a release that is not kept any more: nobody would remove it."""

        def change(pipe: Pipeline) -> bool:
            there = bool(pipe.exists(keys.release(id_)))
            fresh = not pipe.hexists(keys.reports(id_), field)
            pipe.multi()
            if there:
                pipe.hset(keys.reports(id_), field, value)
            return there and fresh

        return self._transaction(change, keys.release(id_), keys.reports(id_))


def _number(id_: str) -> int:
    digits = id_[1:].partition("-")[0]
    return int(digits) if digits.isdecimal() else 0

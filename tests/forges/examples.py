"""Events as the forges send them, and what must hold of whatever is read out of one.

For tests of all three forges: of their parsers, of bad input, and for fuzzing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import names
from forges import Webhooks
from forges.events import (
    Event,
    ForgeRepository,
    Ignored,
    InstallationChanged,
    Ping,
    PullRequest,
    Push,
    RepositoryChanged,
)
from forges.gitea.webhooks import GiteaWebhooks
from forges.github.webhooks import GitHubWebhooks
from forges.gitlab.webhooks import GitLabWebhooks

FOLDER = Path(__file__).resolve().parents[1] / "projects"
WEBHOOKS: dict[str, Webhooks] = {
    each.name: each for each in (GitHubWebhooks(), GitLabWebhooks(), GiteaWebhooks())
}
_EVENTS = {
    "github": (
        "X-GitHub-Event",
        {
            **{
                each: each
                for each in ("push", "ping", "star", "pull_request", "repository", "installation")
            },
            "installation_repositories": "installation_repositories",
        },
    ),
    "gitlab": (
        "X-Gitlab-Event",
        {
            "push": "Push Hook",
            "tag_push": "Tag Push Hook",
            "merge_request": "Merge Request Hook",
            "system": "System Hook",
        },
    ),
    "gitea": (
        "X-Gitea-Event",
        {each: each for each in ("push", "pull_request", "delete", "repository")},
    ),
}
"""Forge → the header that tells the kind of an event, and its value by file."""


@dataclass(frozen=True)
class Example:
    """One delivery, without its signature."""

    forge: str
    file: str
    headers: dict[str, str]
    payload: dict[str, Any]

    def read(self, payload: Any = None) -> Event:
        """What its forge's parser makes of it, or of another payload in its place."""
        body = json.dumps(self.payload if payload is None else payload).encode()
        return WEBHOOKS[self.forge].read(self.headers, body)

    def __str__(self) -> str:
        said = self.payload
        kind = said.get("action") or said.get("event_name") or said.get("ref") or ""
        return f"{self.forge}-{self.file}-{kind}"


def examples(*forges: str) -> Iterator[Example]:
    """All that there are, or those of some forges."""
    for forge in forges or WEBHOOKS:
        header, kinds = _EVENTS[forge]
        for file, kind in kinds.items():
            for payload in json.loads((FOLDER / forge / f"{file}.json").read_text()):
                yield Example(forge, file, {header: kind}, payload)


_ID = re.compile(r"[0-9]{1,19}")
_SEGMENT = re.compile(r"[-A-Za-z0-9_.]{1,255}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BAD_BRANCH = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|//|@\{|/\.|\.lock(?:/|$)|^[-./]|[./]$|^$")
_URL = re.compile(r"https?://[!-~]+")


def safe(event: object) -> None:
    """Fails where something is in an event that could do harm in a path, a URL, a command or a
    page, or where it is none. Written anew, not by what the parsers stand on."""
    assert isinstance(
        event, Push | PullRequest | RepositoryChanged | InstallationChanged | Ignored | Ping
    )
    if isinstance(event, Ignored):
        assert event.why
        assert len(event.why) < 400
    if isinstance(event, Push | PullRequest | RepositoryChanged):
        _safe_repository(event.repository)
    if isinstance(event, Push):
        assert names.commit(event.commit)
        assert not event.tagged or names.commit(event.tagged)
        assert event.ref.startswith("refs/")
        assert not _BAD_BRANCH.search(event.ref.removeprefix("refs/").partition("/")[2])
        assert event.deleted or event.commit.strip("0")
    if isinstance(event, PullRequest):
        assert names.commit(event.commit)
        assert event.number > 0
        assert event.reference in (
            f"refs/pull/{event.number}/head",
            f"refs/merge-requests/{event.number}/head",
        )
        assert not _BAD_BRANCH.search(event.base)
        assert not event.head_repository or _ID.fullmatch(event.head_repository)
        assert len(event.title) <= 300
        assert not event.url or _URL.fullmatch(event.url)
    if isinstance(event, InstallationChanged):
        for each in event.added:
            _safe_repository(each)
        assert all(_ID.fullmatch(each) for each in (event.installation, *event.removed))


def _safe_repository(repository: ForgeRepository) -> None:
    assert _ID.fullmatch(repository.id)
    assert not repository.owner_id or _ID.fullmatch(repository.owner_id)
    parts = repository.full_name.split("/")
    assert len(parts) >= 2
    assert len(repository.full_name) <= 1024
    assert all(_SEGMENT.fullmatch(each) and each.strip(".") for each in parts)
    assert parts[0] == repository.owner
    assert names.repository_name(repository.name) == repository.name
    assert not repository.default_branch or not _BAD_BRANCH.search(repository.default_branch)

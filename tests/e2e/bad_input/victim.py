"""A repository whose good version is live, on which bad versions are tried, and what must hold
after each: the user was told, in every place, and nothing but the good version is there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from core import cgroup
from tests.chaos.machine import waits
from tests.e2e.platform import Platform, Pushed, Repository, handler, stack
from tests.waiting import until

GOOD = "the good version"
SETTLES = 45.0
"""Seconds in which what a failed release started must be gone."""


@dataclass
class Victim:
    """``repository`` with one function of the same name, live at the commit ``good``."""

    platform: Platform
    repository: Repository
    good: str = ""
    traces: set[str] = field(default_factory=set)
    """What was there before the bad version was pushed."""

    @classmethod
    def live(cls, platform: Platform, owner: str, name: str) -> Victim:
        """Pushes a good version and waits until it is live."""
        victim = cls(platform, platform.repository(owner, name))
        pushed = victim.repository.push(
            {"stack.yml": stack(name), f"{name}/handler.py": handler(GOOD)}
        )
        assert pushed.last.startswith("slipway: live "), pushed.text + platform.logs()
        victim.good = victim.repository.git("rev-parse", "HEAD").stdout.strip()
        return victim

    @property
    def name(self) -> str:
        return self.repository.name

    @property
    def folder(self) -> Path:
        return self.repository.folder

    def reset(self) -> None:
        """Makes the working tree that of the good version again, and notes what runs now."""
        self.repository.git("reset", "--quiet", "--hard", self.good)
        self.repository.git("clean", "-fdxq")
        self.traces = traces(self.platform)
        mine = f"instance {self.name}.{self.repository.owner}-"
        assert any(trace.startswith(mine) for trace in self.traces), self.traces

    def push(self) -> Pushed:
        """Pushes what is committed over whatever was pushed before."""
        done = self.repository.git("push", "--force", self.repository.url, "HEAD:main", check=False)
        return Pushed(done.returncode, done.stderr)

    def refuses(self, files: Mapping[str, str | bytes], *words: str) -> dict[str, Any]:
        """Tries the good version with these files over it; see ``refused``."""
        self.reset()
        self.repository.commit(files)
        return self.refused(self.push(), *words)

    def refused(self, pushed: Pushed, *words: str) -> dict[str, Any]:
        """The push was stored and its release failed, for a reason with these words; returns it.

        The first of the words have to be in the last line, which is cut where it is too long.
        """
        release = self.platform.release(self.repository.owner, self.repository.name)
        shown = pushed.text + self.platform.logs()
        assert pushed.status == 0, "a push that is stored is accepted: " + pushed.text
        assert pushed.last.startswith(f"slipway: failed {release['id']}: "), shown
        assert words[0] in pushed.last, shown
        assert release["state"] == "failed"
        log = log_of(self.platform, release["id"])
        assert log[-1] == {"state": "failed", "reason": release["reason"]}
        told = "\n".join(line["text"] for line in log[:-1])
        for place, text in (
            ("push", pushed.text),
            ("API", release["reason"]),
            ("log", told + "\n" + log[-1]["reason"]),
        ):
            missing = [word for word in words if word not in text]
            assert not missing, f"the {place} does not tell {missing}: {text}"
        self.unharmed()
        return release

    def unharmed(self) -> None:
        """The good version answers, and nothing else of this platform runs or lies half-made."""
        answer = self.platform.call(f"{self.name}.{self.repository.owner}")
        assert (answer.status, answer.text) == (200, GOOD)
        until(
            lambda: traces(self.platform) <= self.traces,
            SETTLES,
            lambda: f"left behind: {traces(self.platform) - self.traces}\n{self.platform.logs()}",
        )


def traces(platform: Platform) -> set[str]:
    """Whatever runs here for a function or a build, and whatever is half-made on disk."""
    settings = platform.settings
    found = {f"instance {each.name}" for each in settings.instances.glob("*")}
    for groups in (cgroup.discover, cgroup.of_builds):
        for hierarchy in groups(settings.mark, top=os.geteuid() == 0).hierarchies:
            found |= {f"cgroup {each.name}" for each in hierarchy.folder.glob("*") if _in_use(each)}
    found |= {f"process {name}" for name in _tools(platform)}
    for pattern in (
        "work/*",
        *(f"{kind}/*/.new-*" for kind in ("layers", "bundles", "caches")),
        "mirrors/*/*.new",
        *(f"{kind}/*/*/objects/{tmp}" for kind in ("git", "mirrors") for tmp in _HALF_PACKS),
        "git/*/.*",
    ):
        found |= {f"file {each}" for each in settings.state.glob(pattern)}
    return found


def _in_use(group: Path) -> bool:
    """Whether it is more than a warm parent's, or a child's that is no function yet."""
    try:
        running = (group / "cgroup.procs").read_text().split()
    except OSError:  # no folder, or gone
        return False
    return not running or not all(waits(int(pid)) for pid in running)


_HALF_PACKS = ("tmp_*", "incoming-*", "pack/tmp_*", "pack/.tmp*")


def _tools(platform: Platform) -> list[str]:
    """Programs that gateway and workers run just now: git, uv, npm, sandboxes of tests."""
    names = []
    for part in ("gateway", "workers"):
        for child in psutil.Process(platform.part(part)).children(recursive=True):
            try:
                name = child.name()
            except psutil.NoSuchProcess:
                continue
            if not name.startswith(("python", "gunicorn")):
                names.append(name)
    return names


def log_of(platform: Platform, release: str) -> list[dict[str, Any]]:
    """The whole log of a release, as the API gives it."""
    text = platform.request(f"/system/releases/{release}/logs", admin=True).text
    return [json.loads(line) for line in text.splitlines()]

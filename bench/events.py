"""Signed push events of GitHub, and repositories with a long history behind smart HTTP."""

from __future__ import annotations

import hashlib
import hmac
import json
import subprocess
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from bench import harness
from bench.harness import Platform

OWNER, OWNER_ID = "Crew", 7
NAMESPACE = "crew"
_ZONE = "1700000000 +0000"


@dataclass
class Source:
    """A bare repository of one function, whose every commit answers its own number."""

    number: int
    bare: Path
    commits: list[str] = field(default_factory=list)
    at: int = 0
    """Which of them the branch is at."""

    @property
    def name(self) -> str:
        return f"app{self.number}"

    @property
    def path(self) -> str:
        """Of its function, at the platform."""
        return f"/function/f{self.number}.{NAMESPACE}"

    def make(self, versions: int) -> None:
        """Writes the commits by ``git fast-import``; the branch is at the first."""
        git(self.bare.parent, "init", "--quiet", "--bare", "-b", "main", str(self.bare))
        stream = b"".join(self._commit(each) for each in range(versions))
        git(self.bare, "fast-import", "--quiet", stdin=stream)
        told = git(self.bare, "rev-list", "--reverse", "refs/heads/all")
        self.commits = told.decode().split()
        self.move(0)

    def move(self, to: int) -> None:
        """As git itself writes a loose reference: the whole file at once."""
        reference = self.bare / "refs" / "heads" / "main"
        draft = reference.with_name("main.draft")
        draft.write_text(self.commits[to] + "\n")
        draft.replace(reference)
        self.at = to

    def _commit(self, version: int) -> bytes:
        stack = (
            "version: 1.0\nprovider:\n  name: openfaas\nfunctions:\n"
            f"  f{self.number}:\n    lang: python3-http\n    handler: ./f\n"
        )
        code = f'def handle(event, context):\n    return "{version}"\n'
        parts = [
            f"commit refs/heads/all\ncommitter Bench <bench@example.com> {_ZONE}\n",
            _data(f"version {version}"),
            f"M 644 inline stack.yml\n{_data(stack)}" if not version else "",
            f"M 644 inline f/handler.py\n{_data(code)}\n",
        ]
        return "".join(parts).encode()

    def event(self) -> bytes:
        """What GitHub would send of where the branch is now."""
        return json.dumps(
            {
                "ref": "refs/heads/main",
                "after": self.commits[self.at],
                "deleted": False,
                "repository": {
                    "id": self.number + 1,
                    "name": self.name,
                    "full_name": f"{OWNER}/{self.name}",
                    "private": False,
                    "default_branch": "main",
                    "owner": {"id": OWNER_ID, "login": OWNER},
                },
            }
        ).encode()


def send(platform: Platform, secret: str, body: bytes, delivery: str = "") -> tuple[int, bytes]:
    """Delivers an event on a connection of its own: (status, answer)."""
    headers = {
        "Content-Type": "application/json",
        "X-GitHub-Event": "push",
        "X-GitHub-Delivery": delivery or str(uuid.uuid4()),
        "X-Hub-Signature-256": "sha256="
        + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest(),
    }
    return harness.ask(
        platform.url, "POST", "/webhooks/github", body=body, headers=headers, timeout=30
    )


def git(folder: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    env = {"PATH": "/usr/bin:/bin", "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null"}
    argv = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(argv, env=env, input=stdin, capture_output=True, check=True)
    return done.stdout


def _data(text: str) -> str:
    return f"data {len(text.encode())}\n{text}\n"

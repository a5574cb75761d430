"""A user's repository of small functions, pushed with the real git client."""

from __future__ import annotations

import subprocess
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

from bench.harness import BenchError, Platform

OWNER = "bench"
_IDENTITY = {
    "GIT_AUTHOR_NAME": "Bench",
    "GIT_AUTHOR_EMAIL": "bench@example.com",
    "GIT_COMMITTER_NAME": "Bench",
    "GIT_COMMITTER_EMAIL": "bench@example.com",
    "GIT_TERMINAL_PROMPT": "0",
}


class Repository:
    """Functions, most of them ``python3-http`` ones whose whole code answers one text."""

    def __init__(self, folder: Path, platform: Platform, name: str, *, owner: str = OWNER) -> None:
        self.folder = folder / name
        self.platform = platform
        self.name = name
        self._env = platform.env | _IDENTITY
        self.folder.mkdir()
        self._git("init", "--quiet", "--initial-branch=main")
        parts = urllib.parse.urlsplit(platform.url)
        self._git("remote", "add", "slipway", f"{platform.url}/git/{owner}/{name}.git")
        # As a user would: the password lies in a file, never on a command line.
        store = folder / f"{name}.credentials"
        store.touch(mode=0o600)
        password = urllib.parse.quote(platform.password, safe="")
        store.write_text(f"{parts.scheme}://admin:{password}@{parts.netloc}\n")
        self._git("config", "credential.helper", f"store --file={store}")

    def write_stack(self, functions: Sequence[str], *, lang: str = "python3-http") -> None:
        """Writes a stack file with these functions."""
        lines = ["version: 1.0", "provider:", "  name: openfaas", "functions:"]
        for name in functions:
            lines += [f"  {name}:", f"    lang: {lang}", f"    handler: ./{name}"]
        (self.folder / "stack.yml").write_text("\n".join(lines) + "\n")

    def write_function(self, name: str, text: str, *, test: bool = False) -> None:
        """Makes a function answer ``text``; ``test``: with one test of its own."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        write_handler(folder, text)
        if test:
            (folder / "handler_test.py").write_text(
                "from .handler import handle\n\n\n"
                "def test_answers():\n"
                '    assert handle(None, None).startswith("version")\n'
            )

    def write_code(self, name: str, code: str, file: str = "handler.py") -> None:
        """The same with the whole file of its handler."""
        (self.folder / name).mkdir(exist_ok=True)
        (self.folder / name / file).write_text(code)

    def require(self, name: str, requirement: str) -> None:
        """Adds a line to a function's requirements.txt."""
        with (self.folder / name / "requirements.txt").open("a") as out:
            out.write(requirement + "\n")

    def commit(self) -> str:
        """Commits everything; returns the commit's id."""
        self._git("add", "--all")
        self._git("commit", "--quiet", "--message", "Another version")
        return self._git("rev-parse", "HEAD").strip()

    def push(self) -> subprocess.Popen[str]:
        """Begins a push; ``finish`` waits for its end."""
        return subprocess.Popen(
            ["git", "-C", str(self.folder), "push", "slipway", "main"],
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, push: subprocess.Popen[str], *, timeout: float = 600) -> None:
        """Waits for the end of a push, which must have said that its release is live."""
        try:
            output, _ = push.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            push.kill()
            output, _ = push.communicate()
            raise BenchError(f"the push did not end in {timeout:g} s:\n{output}") from None
        if push.returncode != 0 or "slipway: live" not in output:
            raise BenchError(f"the push failed ({push.returncode}):\n{output}")

    def path(self, function: str) -> str:
        return f"/function/{function}.{OWNER}"

    def _git(self, *arguments: str) -> str:
        argv = ["git", "-C", str(self.folder), *arguments]
        done = subprocess.run(argv, env=self._env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"git {arguments[0]} failed: {done.stderr}")
        return done.stdout


def write_handler(folder: Path, text: str) -> None:
    """Writes handler.py: a function that answers ``text``."""
    (folder / "handler.py").write_text(f"def handle(event, context):\n    return {text!r}\n")

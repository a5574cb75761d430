"""GitPython's command runner, closed: for repositories whose content nobody vouches for.

``git.cmd.Git`` hands its whole environment to git, asks nothing of what git may write, and kills
at its time limit only the process that it started. Here git sees the variables named below and no
others, has no configuration but ours, writes no file above a bound, and ends with all its helpers.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from git.cmd import Git

_CONFIG = {
    "protocol.allow": "never",  # one scheme is allowed again, for the one command that needs it
    "protocol.version": "2",  # serves any commit by its id
    "transfer.fsckObjects": "true",
    "transfer.bundleURI": "false",
    # Old commits that every forge still serves; none of these reaches a file name.
    "fetch.fsck.badTimezone": "ignore",
    "fetch.fsck.missingSpaceBeforeDate": "ignore",
    "fetch.fsck.zeroPaddedFilemode": "ignore",
    # A pack is checked whole before it counts; unpacked objects would count one by one.
    "fetch.unpackLimit": "1",
    "fetch.recurseSubmodules": "false",
    "fetch.writeCommitGraph": "false",
    "submodule.recurse": "false",
    "http.followRedirects": "false",
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "30",
    "core.hooksPath": "/dev/null",
    "core.attributesFile": "/dev/null",
    "core.fsmonitor": "false",
    "core.symlinks": "false",
    "core.protectHFS": "true",
    "core.protectNTFS": "true",
    "core.bigFileThreshold": "16m",  # larger files are streamed, not held in memory
    "credential.helper": "",
    "safe.bareRepository": "explicit",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "pack.threads": "1",
}
_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/nonexistent",
    "XDG_CONFIG_HOME": "/nonexistent",
    "LC_ALL": "C",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "/bin/false",
    "GIT_SSH_COMMAND": "/bin/false",
    "GIT_LFS_SKIP_SMUDGE": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",  # refs/replace/… would show another file than the commit has
    "GIT_OPTIONAL_LOCKS": "0",
}
_FROM_OUTSIDE = (
    *("http_proxy", "https_proxy", "no_proxy", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE"),
)
"""How this machine reaches the outside: the administrator's own word."""

_MEMORY = 2**30
"""Bytes of data one git process may allocate: a delta can unfold to anything."""


_AT_ONCE = 500
"""Object ids that one write to git holds: it must fit in a pipe, as nobody reads meanwhile."""


class GitFailed(Exception):
    """A command ended with this status (negative: by a signal) and said this on stderr."""

    def __init__(self, status: int, stderr: str) -> None:
        super().__init__(f"git ended with status {status}: {stderr}")
        self.status = status
        self.stderr = stderr


class HardenedGit(Git):
    """``git`` in one bare repository; commands as GitPython spells them: ``git.ls_remote(…)``.

    Args:
        git_dir: the repository; nothing is searched for above it.
        timeout: seconds one command may take; then it and its helpers are killed.
        max_file: bytes of the largest file that a command may write; 0: no bound.
        config: further configuration of these commands, secrets included: it goes through the
            environment, so that no process list, log or file shows it.
        check: asked several times a second while a command runs; what it raises ends the command.

    Commands raise GitFailed, or subprocess.TimeoutExpired after ``timeout`` seconds.
    """

    def __init__(
        self,
        git_dir: Path,
        *,
        timeout: float,
        max_file: int = 0,
        config: Mapping[str, str] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(git_dir)
        self._timeout = timeout
        self._check = check
        limits = [f"--data={_MEMORY}", "--core=0"] + ([f"--fsize={max_file}"] if max_file else [])
        self._limits = ["prlimit", *limits, "--"]
        self._closed_environment = _environment(git_dir, {**_CONFIG, **(config or {})})

    def headers(self, oids: Sequence[str]) -> dict[str, tuple[str, int]]:
        """Object → (kind, bytes), of those that are there; asked in one go.

        Raises ValueError, BrokenPipeError: git ended.
        """
        git = self._get_persistent_cmd("cat_file_header", "cat_file", batch_check=True)
        found = {}
        answers = git.stdout
        with self._answered():
            for oid in self._asked(git, oids):
                words = answers.readline().split()
                if len(words) < 2:
                    raise ValueError("git cat-file ended")
                if len(words) == 3:  # else "<id> missing"
                    found[oid] = (words[1].decode(), int(words[2]))
        return found

    def contents(self, oids: Sequence[str]) -> list[tuple[str, bytes]]:
        """(object, content) of objects that are there, asked in one go.

        Raises ValueError, BrokenPipeError: one is gone, or git ended.
        """
        git = self._get_persistent_cmd("cat_file_all", "cat_file", batch=True)
        found = []
        answers = git.stdout
        with self._answered():
            for oid in self._asked(git, oids):
                size = self._parse_object_header(answers.readline())[2]
                data = answers.read(size + 1)
                if len(data) <= size:
                    raise ValueError("git cat-file ended")
                found.append((oid, data[:-1]))
        return found

    @contextlib.contextmanager
    def _answered(self) -> Iterator[None]:
        """Ends git where not every answer was read: the rest would be taken for that to the next
        question."""
        try:
            yield
        except BaseException:
            self.clear_cache()
            raise

    @staticmethod
    def _asked(git: Git.AutoInterrupt, oids: Sequence[str]) -> Iterator[str]:
        """Asks for some at a time, as many as a pipe holds; gives each whose answer comes next."""
        for begin in range(0, len(oids), _AT_ONCE):
            some = oids[begin : begin + _AT_ONCE]
            git.stdin.write("".join(f"{oid}\n" for oid in some).encode())
            git.stdin.flush()
            yield from some

    def execute(  # type: ignore[override]  # of GitPython's options we serve those we use
        self,
        command: Sequence[str],
        istream: int | IO[bytes] | None = None,
        as_process: bool = False,
        **_: Any,
    ) -> str | Git.AutoInterrupt:
        """Runs one command to its end, or hands over a running one (``cat-file --batch``)."""
        argv = [*self._limits, *command]
        if as_process:
            return Git.AutoInterrupt(
                subprocess.Popen(
                    argv,
                    cwd="/",
                    env=self._closed_environment,
                    stdin=istream,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                ),
                command,
            )
        # Files rather than pipes: the bound on written files then bounds the output, too.
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = subprocess.Popen(
                argv,
                cwd="/",
                env=self._closed_environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
            try:
                status = self._ended(process)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)  # its session: the helpers with it
                process.wait()
                raise
            if status:
                raise GitFailed(status, _tail(err).decode("utf-8", "replace"))
            out.seek(0)
            return out.read().decode("utf-8", "surrogateescape").rstrip("\n")

    def _ended(self, process: subprocess.Popen[bytes]) -> int:
        deadline = time.monotonic() + self._timeout
        while True:
            self._check()
            left = deadline - time.monotonic()
            try:
                return process.wait(max(min(left, 0.1), 0))
            except subprocess.TimeoutExpired:
                if left <= 0:
                    raise subprocess.TimeoutExpired(process.args, self._timeout) from None

    def _parse_object_header(self, header_line: str | bytes) -> tuple[str, str, int]:
        """As GitPython's, whose answer is bytes when it reads from a process."""
        text = header_line.decode() if isinstance(header_line, bytes) else header_line
        return super()._parse_object_header(text)


def _environment(git_dir: Path, config: Mapping[str, str]) -> dict[str, str]:
    environment = dict(_ENVIRONMENT)
    environment.update({name: os.environ[name] for name in _FROM_OUTSIDE if name in os.environ})
    if "SSL_CERT_FILE" in environment:  # git's own name for it
        environment.setdefault("GIT_SSL_CAINFO", environment["SSL_CERT_FILE"])
    environment["GIT_DIR"] = os.fspath(git_dir)
    environment["GIT_CONFIG_COUNT"] = str(len(config))
    for number, (key, value) in enumerate(config.items()):
        environment[f"GIT_CONFIG_KEY_{number}"] = key
        environment[f"GIT_CONFIG_VALUE_{number}"] = value
    return environment


def _tail(file: IO[bytes], length: int = 4096) -> bytes:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - length))
    return file.read()

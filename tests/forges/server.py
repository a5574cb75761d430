"""A server on loopback that stands for a forge: bare repositories behind smart HTTP, and an API
every request to which is held against the forge's own description.

It can be told to be away, slow, or to limit how often it is asked. What was asked wrongly is
answered with 422 and kept in ``wrong``, which must be empty at the end.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from tests.forges.schema import Description

_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "LC_ALL": "C",
}
_OF_GIT = re.compile(r"/(?P<name>.+?)(?:\.git)?/(?:info/refs|git-upload-pack|HEAD|objects/.*)")


@dataclass(frozen=True)
class Asked:
    """A request to the API or a page."""

    method: str
    path: str
    """Below the API's address; its parts are still quoted."""
    query: dict[str, str]
    headers: Mapping[str, str]
    """Case-insensitive."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body) if self.body else {}

    @property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True))

    @property
    def authorization(self) -> str:
        return self.headers.get("Authorization", "")


@dataclass(frozen=True)
class Answer:
    """``body``: JSON, or bytes as they are."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


Handle = Callable[[Asked], Answer]


@dataclass(frozen=True)
class Part:
    """What answers below one path."""

    prefix: str
    handle: Handle
    description: Description | None = None
    """None: pages, which nobody describes."""
    described_as: Callable[[str], str] = lambda path: path
    """The path that the description has for one that it lacks."""


@dataclass
class Forge:
    """``folder``/<owner>/<name>.git, served at ``url``."""

    folder: Path
    url: str
    asked: list[str] = field(default_factory=list)
    """Every path that was asked for, with its query."""
    away: bool = False
    """Whether it answers 503 to everything."""
    slow: float = 0.0
    """Seconds that each answer takes longer."""
    private: set[str] = field(default_factory=set)
    """Full names of repositories that git must show a credential for."""
    reads: Callable[[str, str], bool] = lambda *_: False
    """(full name, password of an ``Authorization`` header) → whether that opens a private
    repository."""
    wrong: list[str] = field(default_factory=list)
    """Requests that the description does not allow."""
    _parts: list[Part] = field(default_factory=list)
    _limits: list[Answer] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    def repository(self, full_name: str, branch: str = "master") -> Project:
        """Makes an empty repository with this default branch."""
        bare = self.folder / f"{full_name}.git"
        bare.parent.mkdir(parents=True, exist_ok=True)
        git(self.folder, "init", "--quiet", "--bare", f"--initial-branch={branch}", str(bare))
        work = self.folder / "work" / full_name
        work.mkdir(parents=True)
        git(work, "init", "--quiet", f"--initial-branch={branch}")
        return Project(bare, work, branch)

    def moved(self, old: str, new: str) -> None:
        """What was private stays so by its new full name; whoever takes the old one begins anew."""
        if old in self.private:
            self.private.remove(old)
            self.private.add(new)

    def serve(self, part: Part) -> None:
        """The part with the longest prefix that fits answers."""
        self._parts = sorted([*self._parts, part], key=lambda each: -len(each.prefix))

    def limit(self, times: int = 1, status: int = 429, **headers: str) -> None:
        """Refuses the next so many requests to the API; ``Retry_After="1"`` is a header."""
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        body = {"message": "API rate limit exceeded"}
        self._limits += [Answer(status, body, told)] * times

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """What the API or a page says."""
        for part in self._parts:
            if not target.startswith(part.prefix):
                continue
            path, _, query = target.removeprefix(part.prefix).partition("?")
            if part.description and self._limits:
                return self._limits.pop(0)
            if part.description:
                described = part.described_as(path) + (f"?{query}" if query else "")
                if wrong := part.description.mistakes(method, described, headers, body):
                    self.wrong += wrong
                    return Answer(422, {"message": "; ".join(wrong)})
            return part.handle(Asked(method, path, dict(parse_qsl(query)), headers, body))
        # Git alone: its API is away.
        return Answer(404 if self._parts else 503, {"message": "Not Found"})

    def opens(self, path: str, authorization: str) -> bool:
        """Whether git may read what lies at this path."""
        match = _OF_GIT.fullmatch(path)
        name = unquote(match["name"]) if match else ""
        return name not in self.private or self.reads(name, password(authorization))


@dataclass
class Project:
    """One repository of the forge, and the working tree that is pushed to it."""

    bare: Path
    work: Path
    branch: str

    def commit(self, files: Mapping[str, str], branch: str = "", *, force: bool = False) -> str:
        """Brings a commit with these files onto the default branch, or another; returns its id."""
        for name, text in files.items():
            path = self.work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        git(self.work, "add", "-A")
        author = ("-c", "user.name=Ann", "-c", "user.email=ann@example.com")
        git(self.work, *author, "commit", "--quiet", "--allow-empty", "-m", "change")
        where = f"{'+' * force}HEAD:refs/heads/{branch or self.branch}"
        git(self.work, "push", "--quiet", str(self.bare), where)
        return git(self.work, "rev-parse", "HEAD")

    def request(self, number: int, files: Mapping[str, str]) -> str:
        """Makes a commit with these files above the default branch the head of a pull request, as
        a forge keeps it whatever repository it came from; returns its id."""
        git(self.work, "checkout", "--quiet", "--detach")
        for name, text in files.items():
            path = self.work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        git(self.work, "add", "-A")
        author = ("-c", "user.name=Eve", "-c", "user.email=eve@example.com")
        git(self.work, *author, "commit", "--quiet", "--allow-empty", "-m", "a request")
        head = f"+HEAD:refs/pull/{number}/head"
        git(self.work, "push", "--quiet", str(self.bare), head)
        commit = git(self.work, "rev-parse", "HEAD")
        git(self.work, "checkout", "--quiet", self.branch)
        return commit

    def move(self, folder: Path, full_name: str) -> None:
        """Serves it by another name from now on."""
        for place, where in (("bare", f"{full_name}.git"), ("work", f"work/{full_name}")):
            new = folder / where
            new.parent.mkdir(parents=True, exist_ok=True)
            setattr(self, place, getattr(self, place).rename(new))

    def point(self, reference: str, commit: str) -> None:
        """Sets any reference, such as ``refs/pull/5/head``; an empty commit removes it."""
        what = ("-d", reference) if not commit else (reference, commit)
        git(self.bare, "update-ref", *what)

    def at(self, reference: str) -> str:
        """The commit that a reference is at; empty: there is no such."""
        found = git(self.bare, "for-each-ref", "--format=%(objectname) %(refname)", reference)
        pairs = (line.split(" ", 1) for line in found.splitlines())
        return next((commit for commit, name in pairs if name == reference), "")


@contextmanager
def serving(folder: Path, port: int = 0) -> Iterator[Forge]:
    """Runs ``git http-backend`` for each request, as a forge's web server would."""
    folder.mkdir(parents=True, exist_ok=True)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer()

        do_POST = do_PATCH = do_PUT = do_DELETE = do_GET

        def log_message(self, *_: object) -> None:
            """Says nothing."""

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            forge.asked.append(self.path)
            if forge.slow:
                forge._ended.wait(forge.slow)
            try:
                self._say(body)
            except (BrokenPipeError, ConnectionResetError):
                """Whoever asked has gone."""

        def _say(self, body: bytes) -> None:
            path = self.path.partition("?")[0]
            if forge.away:
                self.send_error(503)
            elif not _OF_GIT.fullmatch(path):
                self._told(forge.answer(self.command, self.path, self.headers, body))
            elif not forge.opens(path, self.headers.get("Authorization", "")):
                told = {"WWW-Authenticate": 'Basic realm="forge"'}
                self._told(Answer(401, b"who are you?", told))
            else:
                self._of_git(body)

        def _told(self, answer: Answer) -> None:
            given = answer.body
            content = given if isinstance(given, bytes) else b"" if given is None else _json(given)
            kind = "text/html" if isinstance(given, bytes) else "application/json"
            self._send(answer.status, {"Content-Type": kind, **answer.headers}, content)

        def _of_git(self, body: bytes) -> None:
            head, _, content = self._backend(body).partition(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
            status = headers.pop("Status", "200 OK")
            self._send(int(status.split()[0]), headers, content)

        def _send(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if status != 304:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _backend(self, body: bytes) -> bytes:
            path, _, query = self.path.partition("?")
            return subprocess.run(
                ["git", "http-backend"],
                input=body,
                env=_ENVIRONMENT
                | {
                    "GIT_PROJECT_ROOT": str(folder),
                    "GIT_HTTP_EXPORT_ALL": "1",
                    "PATH_INFO": unquote(path),
                    "QUERY_STRING": query,
                    "REQUEST_METHOD": self.command,
                    "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                    "CONTENT_LENGTH": str(len(body)),
                    "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                    "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                },
                capture_output=True,
                check=False,
                timeout=30,
            ).stdout

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    forge = Forge(folder, f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=[0.05])
    thread.start()
    try:
        yield forge
    finally:
        forge._ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
    assert forge.wrong == [], "these requests are not as the forge's description has them"


def password(authorization: str) -> str:
    """What an ``Authorization`` header holds as HTTP Basic's password, or as a token."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() in ("bearer", "token"):
        return value.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def git(cwd: Path, *argv: str) -> str:
    done = subprocess.run(
        ["git", *argv],
        cwd=cwd,
        env=_ENVIRONMENT,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout.strip()


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()

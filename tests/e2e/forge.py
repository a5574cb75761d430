"""A git server on loopback that stands for GitHub: bare repositories behind smart HTTP."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "LC_ALL": "C",
}


@dataclass
class Forge:
    """``folder``/<owner>/<name>.git, served at ``url``."""

    folder: Path
    url: str
    asked: list[str] = field(default_factory=list)
    """Every path that was asked for, with its query."""
    away: bool = False
    """Whether it answers 503 to everything."""

    def repository(self, full_name: str, branch: str = "master") -> Project:
        """Makes an empty repository with this default branch."""
        bare = self.folder / f"{full_name}.git"
        bare.parent.mkdir(parents=True, exist_ok=True)
        _git(self.folder, "init", "--quiet", "--bare", f"--initial-branch={branch}", str(bare))
        work = self.folder / "work" / full_name
        work.mkdir(parents=True)
        _git(work, "init", "--quiet", f"--initial-branch={branch}")
        return Project(bare, work, branch)


@dataclass
class Project:
    """One repository of the forge, and the working tree that is pushed to it."""

    bare: Path
    work: Path
    branch: str

    def commit(self, files: Mapping[str, str]) -> str:
        """Brings a commit with these files onto the default branch; returns its id."""
        for name, text in files.items():
            path = self.work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        _git(self.work, "add", "-A")
        author = ("-c", "user.name=Ann", "-c", "user.email=ann@example.com")
        _git(self.work, *author, "commit", "--quiet", "--allow-empty", "-m", "change")
        _git(self.work, "push", "--quiet", str(self.bare), f"HEAD:{self.branch}")
        return _git(self.work, "rev-parse", "HEAD")


@contextmanager
def serving(folder: Path) -> Iterator[Forge]:
    """Runs ``git http-backend`` for each request, as a forge's web server would."""
    folder.mkdir(parents=True, exist_ok=True)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(b"")

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers["Content-Length"])))

        def log_message(self, *_: object) -> None:
            """Says nothing."""

        def _answer(self, body: bytes) -> None:
            forge.asked.append(self.path)
            if forge.away:
                self.send_error(503)
                return
            head, _, content = self._backend(body).partition(b"\r\n\r\n")
            headers = [line.split(": ", 1) for line in head.decode().split("\r\n")]
            status = dict(headers).get("Status", "200 OK")
            self.send_response(int(status.split()[0]))
            for name, value in headers:
                if name != "Status":
                    self.send_header(name, value)
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
                    "PATH_INFO": path,
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

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    forge = Forge(folder, f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=[0.05])
    thread.start()
    try:
        yield forge
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _git(cwd: Path, *argv: str) -> str:
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

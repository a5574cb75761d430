"""A whole Slipway of a test's own: ``slipway up`` on a fresh state folder and a free port."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import psutil
from requests.structures import CaseInsensitiveDict

from core.settings import ROOT, Settings
from runtime.providers.docker.document import INSTALLATION
from supervisor.leftovers import Leftovers

PASSED = (
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "UV_DEFAULT_INDEX",
    "UV_INDEX_URL",
)
READY_SECONDS = 120.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    """Asked for in any case; of one that came several times, the last."""
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Platform:
    """Handles of one running Slipway."""

    folder: Path
    extra: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    python: tuple[str, ...] = (sys.executable,)
    """What runs it; another user's begins with what changes to that user."""

    @property
    def env(self) -> dict[str, str]:
        told = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "SLIPWAY_STATE": str(self.folder / "state"),
            "SLIPWAY_PORT": str(self.port),
            "SLIPWAY_HEALTH_TIMEOUT": "10s",
            "SLIPWAY_WATCH": "0s",  # who tests these two sets them
            "SLIPWAY_WARM": "0s",
            "SLIPWAY_RUNTIME": "process",
        }
        told |= {name: os.environ[name] for name in PASSED if name in os.environ}
        return told | self.extra

    @property
    def settings(self) -> Settings:
        return Settings.from_env(self.env)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def password(self) -> str:
        return self.settings.password_file.read_text().strip()

    # Starting and ending

    def start(self, *argv: str, wait: bool = True) -> None:
        """``slipway up --no-demo``, until it says that it is ready."""
        self.folder.mkdir(exist_ok=True)
        log = (self.folder / "up.log").open("ab")
        offset = log.tell()
        with log:
            self.process = subprocess.Popen(
                [*self.python, "-m", "cli.main", "up", *(argv or ("--no-demo",))],
                cwd=ROOT,
                env=self.env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if wait:
            self.await_ready(offset)

    def await_ready(self, offset: int = 0) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while "slipway: ready" not in (told := self.output()[offset:]):
            assert self.process is not None
            assert self.process.poll() is None, f"it ended by itself:\n{told}"
            assert time.monotonic() < deadline, f"it is not ready:\n{told}\n{self.logs()}"
            time.sleep(0.05)

    def output(self) -> str:
        return (self.folder / "up.log").read_text(errors="replace")

    def logs(self) -> str:
        """The last lines of every part, for a failing test."""
        parts = sorted((self.folder / "state").glob("log/*.log"))
        return "\n".join(f"== {p.name}\n{p.read_text(errors='replace')[-3000:]}" for p in parts)

    def stop(self) -> int:
        """Ctrl-C; returns the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)

    def kill_everything(self) -> None:
        """``kill -9`` of the supervisor, of all its children, and of every function."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):  # its parent's death was its own
                process.kill()
        psutil.wait_procs(self.processes(), timeout=10)
        if self.process:
            self.process.wait(10)

    def processes(self) -> list[psutil.Process]:
        """Every process that belongs to this Slipway: by the state folder it was started for, and
        by the control group or the container it is in."""
        mine = self._containers()
        mark, group = str(self.folder), f"/slipway-{self.settings.mark}"
        for process in psutil.process_iter():
            try:
                words = [*process.cmdline(), process.environ().get("SLIPWAY_STATE", "")]
                groups = Path(f"/proc/{process.pid}/cgroup").read_text()
            except (OSError, psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
            ours = group in groups or any(mark in word for word in words)
            if ours and process.pid != os.getpid():
                mine.append(process)
        return mine

    def _containers(self) -> list[psutil.Process]:
        """The first process of each: with it, a container ends."""
        if self.env["SLIPWAY_RUNTIME"] != "docker":
            return []
        label = {"label": f"{INSTALLATION}={self.settings.mark}"}
        with closing(docker.APIClient(self.settings.engine_url, version="auto")) as engine:
            found = []
            for each in engine.containers(filters=label):
                with suppress(docker.errors.NotFound, psutil.NoSuchProcess):  # gone meanwhile
                    if pid := engine.inspect_container(each)["State"]["Pid"]:
                        found.append(psutil.Process(pid))
        return found

    def part(self, name: str) -> int:
        """The pid of a part: of the process that the supervisor started for it."""
        for living in Leftovers(self.settings.state / "parts").read():
            if living.name == name:
                return living.pid
        raise ProcessLookupError(f"no part {name} just now")

    # Using it

    def request(
        self,
        path: str,
        *,
        method: str = "GET",
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        admin: bool = False,
        timeout: float = 30,
    ) -> Answer:
        """Raises OSError: there was no whole answer."""
        request = urllib.request.Request(self.url + path, data, dict(headers or {}), method=method)
        if admin:
            token = base64.b64encode(f"admin:{self.password}".encode()).decode()
            request.add_header("Authorization", f"Basic {token}")
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return Answer(
                    answer.status, CaseInsensitiveDict(answer.headers.items()), answer.read()
                )
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, CaseInsensitiveDict(error.headers.items()), error.read())
        except http.client.HTTPException as error:
            raise ConnectionError(f"the answer broke off: {error!r}") from error

    def call(self, function: str, data: bytes | None = None, path: str = "") -> Answer:
        method = "POST" if data is not None else "GET"
        return self.request(f"/function/{function}{path}", method=method, data=data)

    def release(self, namespace: str, repository: str) -> dict[str, Any]:
        """The newest release of a repository."""
        query = f"?namespace={namespace}&repository={repository}"
        found = self.request(f"/system/releases{query}", admin=True).json()
        return dict(found[0])

    def slipway(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """The command line client."""
        return subprocess.run(
            [*self.python, "-m", "cli.main", *argv],
            cwd=ROOT,
            env=self.env,
            check=check,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def repository(self, owner: str, name: str) -> Repository:
        return Repository(self, owner, name, self.folder / f"work-{owner}-{name}")


@dataclass
class Pushed:
    """What a push told its user."""

    status: int
    text: str

    @property
    def last(self) -> str:
        """The last ``remote:`` line, without its prefix."""
        lines = [line for line in self.text.splitlines() if line.startswith("remote:")]
        return lines[-1].removeprefix("remote:").strip() if lines else ""


@dataclass
class Repository:
    """A user's working tree, pushed to Slipway's own remote."""

    platform: Platform
    owner: str
    name: str
    folder: Path

    @property
    def url(self) -> str:
        return f"{self.platform.url}/git/{self.owner}/{self.name}.git"

    def git(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        self.folder.mkdir(exist_ok=True)
        credentials = self.platform.folder / "credentials"
        credentials.write_text(
            f"http://admin:{self.platform.password}@127.0.0.1:{self.platform.port}\n"
        )
        credentials.chmod(0o600)
        return subprocess.run(
            [
                "git",
                *("-c", "user.name=Ann", "-c", "user.email=ann@example.com"),
                *("-c", f"credential.helper=store --file={credentials}"),
                *("-c", "init.defaultBranch=main"),
                *argv,
            ],
            cwd=self.folder,
            env={
                "PATH": "/usr/bin:/bin",
                "HOME": str(self.platform.folder),
                "GIT_CONFIG_NOSYSTEM": "1",
                "GIT_TERMINAL_PROMPT": "0",
                "LANG": "C.UTF-8",
            },
            check=check,
            capture_output=True,
            text=True,
            timeout=120,  # sooner than that of the test, which does not tell why
        )

    def write(self, files: Mapping[str, str | bytes]) -> None:
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def commit(self, files: Mapping[str, str | bytes]) -> str:
        if not (self.folder / ".git").exists():
            self.git("init")
        self.write(files)
        self.git("add", "-A")
        self.git("commit", "--allow-empty", "-m", "change")
        return self.git("rev-parse", "HEAD").stdout.strip()

    def push(self, files: Mapping[str, str | bytes], *refs: str) -> Pushed:
        """Commits these files over what is there and pushes; progress as the user sees it."""
        self.commit(files)
        try:
            done = self.git("push", self.url, *(refs or ("HEAD:main",)), check=False)
        except subprocess.TimeoutExpired as late:
            told = (late.stderr or b"").decode(errors="replace")
            raise AssertionError(f"{late}\n{told}\n{self.platform.logs()}") from None
        return Pushed(done.returncode, done.stderr)


@contextmanager
def fresh_folder() -> Iterator[Path]:
    """A folder with a path short enough for sockets, which goes away whatever happens."""
    with tempfile.TemporaryDirectory(prefix="sw-", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


@contextmanager
def running(folder: Path, **extra: str) -> Iterator[Platform]:
    """A platform that is up, and that leaves nothing behind."""
    platform = Platform(folder, extra)
    try:
        platform.start()
        yield platform
    finally:
        if platform.process and platform.process.poll() is None:
            try:
                platform.stop()
            except subprocess.TimeoutExpired:
                platform.kill_everything()
        platform.kill_everything()


def stack(*functions: str, lang: str = "python3-http", **more: str) -> str:
    """A stack file with these functions, each in a folder of its name; ``more`` per function."""
    lines = ["version: 1.0", "provider:", "  name: openfaas", "functions:"]
    for name in functions:
        lines += [f"  {name}:", f"    lang: {lang}", f"    handler: ./{name}"]
        lines += [f"    {key}: {value}" for key, value in more.items()]
    return "\n".join(lines) + "\n"


def handler(text: str) -> str:
    """A python3-http handler that answers with this text."""
    return f"def handle(event, context):\n    return {text!r}\n"

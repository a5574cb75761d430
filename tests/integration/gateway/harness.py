"""A real gateway under gunicorn on loopback, a real git client, and a hand that plays builder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import requests

from core import queues
from core.models import (
    Artifact,
    Build,
    FunctionRow,
    FunctionSpec,
    LogLine,
    Observed,
    Release,
    State,
    now,
)
from core.repositories import Repository
from core.settings import Settings
from core.signing import secret_file
from core.store import Store
from supervisor import claims
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[3]
BUILDER = (State.QUEUED, State.BUILDING, State.TESTING)
AUTHOR = {"NAME": "Ann", "EMAIL": "ann@example.com", "DATE": "2026-01-01T00:00:00Z"}


class Gateway:
    """A running gateway: its settings, its public address, and clients for it."""

    def __init__(self, settings: Settings, process: subprocess.Popen[bytes], home: Path) -> None:
        self.settings = settings
        self.process = process
        self.home = home
        self.url = settings.base_url
        self.session = requests.Session()
        self.session.trust_env = False
        self._started: list[subprocess.Popen[str]] = []

    @property
    def auth(self) -> tuple[str, str]:
        return "admin", secret_file(self.settings.password_file)

    @property
    def token(self) -> str:
        return secret_file(self.settings.token_file)

    def call(self, method: str, path: str, **options: object) -> requests.Response:
        """A request as the admin."""
        options.setdefault("auth", self.auth)
        return self.anonymous(method, path, **options)

    def anonymous(self, method: str, path: str, **options: object) -> requests.Response:
        options.setdefault("timeout", 20)
        return self.session.request(method, self.url + path, **options)  # type: ignore[arg-type]  # requests' own types

    def remote(self, repository: str) -> str:
        return f"{self.url}/git/{repository}.git"

    def git(self, *arguments: str, cwd: Path, password: str = "") -> list[str]:
        """Arguments and environment for a git client that knows the password."""
        host = self.url.removeprefix("http://")
        credentials = self.home / f"credentials-{password}"
        if not credentials.exists():  # a git that runs already may be reading it
            credentials.write_text(f"http://admin:{password or self.auth[1]}@{host}\n")
            credentials.chmod(0o600)
        return [
            "git",
            *("-C", str(cwd)),
            *("-c", f"credential.helper=store --file={credentials}"),
            *("-c", "protocol.version=2"),
            *arguments,
        ]

    def run(self, *arguments: str, cwd: Path, password: str = "") -> tuple[int, str]:
        """Runs git; (exit status, what it said)."""
        done = subprocess.run(
            self.git(*arguments, cwd=cwd, password=password),
            env=git_environment(self.home),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=90,
            check=False,
        )
        return done.returncode, done.stdout

    def start(self, *arguments: str, cwd: Path) -> subprocess.Popen[str]:
        """Starts git, with everything that it says in ``stdout``."""
        process = subprocess.Popen(
            self.git(*arguments, cwd=cwd),
            env=git_environment(self.home),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def close(self) -> None:
        """Ends what a test that failed has left."""
        self.session.close()
        for process in self._started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            with process:
                pass

    def worker(self) -> int:
        """Process id of gunicorn's worker."""
        (child,) = children(self.process.pid)
        return child


def git_environment(home: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        **{
            f"GIT_{who}_{key}": value
            for who in ("AUTHOR", "COMMITTER")
            for key, value in AUTHOR.items()
        },
    }


@contextmanager
def running(
    folder: Path, redis_url: str, *, arguments: Sequence[str] = (), **overrides: str
) -> Iterator[Gateway]:
    """A gateway of its own, without an edge, until the end of the block; ``arguments`` are
    gunicorn's."""
    public = socket.socket()
    public.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    public.bind(("127.0.0.1", 0))
    public.listen(256)
    settings = Settings.from_env(
        {
            "SLIPWAY_STATE": str(folder / "state"),
            "SLIPWAY_REDIS_URL": redis_url,
            "SLIPWAY_PORT": str(public.getsockname()[1]),
            "SLIPWAY_EDGE": "none",
            "SLIPWAY_DRAIN_TIMEOUT": "3",
            "SLIPWAY_LOG_FORMAT": "json",
            **overrides,
        }
    )
    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    log = folder / "gateway.log"
    settings.state.mkdir(mode=0o700, exist_ok=True)
    claims.make_run_folder(settings.run, *settings.run_folders)
    within = claims.claim_gateway(settings)
    process = start_process(settings, [within.fileno(), public.fileno()], log, arguments)
    gateway = Gateway(settings, process, home)
    try:
        until(lambda: process.poll() is not None or answers(gateway), 20)
        assert process.poll() is None, log.read_text()
        yield gateway
    finally:
        gateway.close()
        if gateway.process.poll() is None:
            gateway.process.send_signal(signal.SIGTERM)
            try:
                gateway.process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(gateway.process.pid, signal.SIGKILL)
                gateway.process.wait()
        within.close()
        public.close()


def start_process(
    settings: Settings, listeners: Sequence[int], log: Path, arguments: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "gunicorn"),
                *("-c", "python:gateway.gunicorn_config", *arguments, "gateway.wsgi:app"),
            ],
            env={
                **settings.environment(),
                "PATH": os.environ["PATH"],
                "HOME": str(settings.state),
                "SLIPWAY_LISTEN_FDS": ",".join(map(str, listeners)),
            },
            cwd=ROOT,
            stdout=out,
            stderr=out,
            pass_fds=listeners,
            start_new_session=True,
        )


def answers(gateway: Gateway) -> bool:
    try:
        return gateway.anonymous("GET", "/", timeout=1).ok
    except requests.RequestException:
        return False


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(each) for each in found]


def descendants(pid: int) -> list[int]:
    """All living processes below one, whatever thread started them."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents[int(entry.name)] = int(fields[1])
    found: list[int] = []
    grown = {pid}
    while grown:
        grown = {each for each, parent in parents.items() if parent in grown}
        found += grown
    return found


def memory_mb(pid: int) -> float:
    """The most resident memory that a process had since the last reset, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError


def repository(folder: Path, files: dict[str, str | bytes], branch: str = "main") -> Path:
    """A repository with one commit."""
    folder.mkdir(parents=True)
    environment = git_environment(folder)
    run = [["init", "--quiet", f"--initial-branch={branch}"]]
    for arguments in run:
        subprocess.run(["git", *arguments], cwd=folder, env=environment, check=True)
    commit(folder, files)
    return folder


def commit(folder: Path, files: dict[str, str | bytes]) -> str:
    """Commits files; returns the commit's id."""
    environment = git_environment(folder)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for arguments in (["add", "-A"], ["commit", "--quiet", "--allow-empty", "-m", "Change"]):
        subprocess.run(["git", *arguments], cwd=folder, env=environment, check=True)
    return head(folder)


def head(folder: Path, revision: str = "HEAD") -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--verify", revision],
        cwd=folder,
        env=git_environment(folder),
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def artifact(release: Release, name: str, digest: str = "0") -> Artifact:
    bundle = f"bundle:sha256:{digest * 64}"
    spec = FunctionSpec(
        name=name,
        namespace=release.namespace,
        artifact=bundle,
        key="k",
        repository=release.repository,
        commit=release.commit,
    )
    return Artifact(name=name, key="k", artifact=bundle, spec=spec)


def line(function: str, step: str, stream: str, text: str) -> LogLine:
    return LogLine(time=now(), function=function, step=step, stream=stream, text=text)


def go_live(store: Store, release: Release, names: Sequence[str] = ("hello",)) -> Release:
    """What builder and controller do with a release, done by hand."""
    store.move(release.id, BUILDER, State.BUILDING)
    for name in names:
        store.append_log(release.id, [line(name, "context", "step", "building")])
        row = FunctionRow(name=name, key="k", build=Build.BUILT, seconds=0.1)
        store.save_row(release.id, row)
    store.put_artifacts(release.id, release.commit, [artifact(release, name) for name in names])
    store.switch(release.id, lambda _: 1)
    done = store.finish(release.id, "http://slipway.test")
    queues.dispatch(store, f"{release.namespace}/{release.repository}")
    return done


class Hand(threading.Thread):
    """Does ``work`` with every new release that has its turn, until told to stop."""

    def __init__(self, store: Store, work: Callable[[Release], object]) -> None:
        super().__init__(daemon=True)
        self.store = store
        self.work = work
        self.errors: list[BaseException] = []
        self._end = threading.Event()

    def __enter__(self) -> Hand:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()
        assert not self.errors, self.errors

    def run(self) -> None:
        seen = set()
        while not self._end.is_set():
            for release in self.store.releases(limit=20):
                turn = self.store.turn(f"{release.namespace}/{release.repository}")
                if release.id not in seen and turn == release.id:
                    seen.add(release.id)
                    try:
                        self.work(release)
                    except BaseException as error:
                        self.errors.append(error)
            time.sleep(0.02)


class Upstream:
    """A function's server, byte by byte: ``handle(connection, head)`` answers each connection."""

    def __init__(self, path: Path, handle: Callable[[socket.socket, bytes], None]) -> None:
        self.address = f"unix@{path}"
        self.heads: list[bytes] = []
        self._handle = handle
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(1024)  # as the runtime does
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Upstream:
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=[connection], daemon=True)
            thread.start()
            self._threads.append(thread)

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(10)
            head = b""
            try:
                while not head.endswith(b"\r\n\r\n"):
                    byte = connection.recv(1)
                    if not byte:
                        return
                    head += byte
                self.heads.append(head)
                self._handle(connection, head)
            except OSError:
                return

    def headers(self, number: int = -1) -> dict[str, str]:
        """Header fields of one request, names in lower case."""
        lines = self.heads[number].decode("latin-1").split("\r\n")[1:-2]
        return {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}

    def request_line(self, number: int = -1) -> str:
        return self.heads[number].decode("latin-1").split("\r\n")[0]


def answering(response: bytes) -> Callable[[socket.socket, bytes], None]:
    """A handler that always sends the same bytes."""
    return lambda connection, _: connection.sendall(response)


def deploy(store: Store, function: str, endpoints: Sequence[str], trouble: str = "") -> None:
    """Makes a function exist, with these endpoints, as the controller would."""
    name, _, namespace = function.rpartition(".")
    known = Repository(namespace=namespace, name="fns", source="git", deploy_branch="main")
    store.save_repository(known)
    release = store.create_release(known, "a" * 40, "main", again=True)
    queues.dispatch(store, known.key)
    go_live(store, release, [name])
    store.save_observed(
        {function: Observed(available=len(endpoints), endpoints=list(endpoints), trouble=trouble)}
    )


def raw(gateway: Gateway, request: bytes) -> socket.socket:
    """A connection on which these bytes were sent."""
    connection = socket.create_connection(("127.0.0.1", gateway.settings.port), 10)
    connection.sendall(request)
    return connection


def exchange(gateway: Gateway, request: bytes) -> bytes:
    """Everything that comes back for these bytes, until the connection ends."""
    with raw(gateway, request) as connection:
        got = b""
        while data := connection.recv(65536):
            got += data
        return got

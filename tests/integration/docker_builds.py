"""What tests of the docker builder share: a commit through the stages of the real pipeline."""

from __future__ import annotations

import contextlib
import http.server
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from builder import folders, pipeline, plan
from builder.lease import Lease
from builder.origins import local_url
from builder.secrets import room
from builder.steps import ReleaseLog, Steps
from builder.work import Job, Tools
from core import queues
from core.errors import SlipwayError
from core.models import Release, State
from core.repositories import Repository
from core.settings import Settings
from core.store import Store
from engine.client import Engine
from tests.unit.repositories import BareRepository, Content

HELLO = "def handle(event, context):\n    return {'statusCode': 200, 'body': 'ahoy'}\n"


@dataclass
class Workbench:
    """One owner's repository, and what building a commit of it needs."""

    settings: Settings
    store: Store
    namespace: str = "ann"
    ended: threading.Event = field(default_factory=threading.Event)
    seconds: dict[str, float] = field(default_factory=dict)
    """Of each stage of the last build."""
    last: str = ""
    """Id of the last release."""

    @property
    def repository(self) -> Repository:
        return Repository(namespace=self.namespace, name="fns", source="git", deploy_branch="main")

    def push(self, files: Mapping[str, Content]) -> Release:
        """A commit with its release, queued."""
        self.store.save_repository(self.repository)
        bare = BareRepository(Path(local_url(self.settings, self.repository)))
        release = self.store.create_release(self.repository, bare.commit(files), "main")
        queues.dispatch(self.store, self.repository.key)
        self.last = release.id
        return release

    def build(self, files: Mapping[str, Content]) -> list[Job]:
        """A commit through all stages but the hand-over; its release is over afterwards.

        Raises what the stage raises.
        """
        release = self.push(files)
        steps = Steps(
            ReleaseLog(self.store, release.id, self.settings.build_output),
            self.ended,
            self.settings.build_timeout,
        )
        tools = Tools(self.settings, self.store, steps)
        release = self.store.move(release.id, [State.QUEUED], State.BUILDING)
        work = self.settings.state / folders.WORK
        with (
            Lease(self.store, release.id),
            folders.making(work) as folder,
            room(self.settings, folder) as secret,
        ):
            try:
                release, source = pipeline.checkout(release, self.repository, tools)
                with source:
                    planned = self._timed(
                        "plan", lambda: plan.plan(release, self.repository, source, tools)
                    )
                    jobs = planned.jobs
                    jobs = self._timed(
                        "build",
                        lambda: [pipeline.assemble(j, source, folder, secret, tools) for j in jobs],
                    )
                jobs = self._timed("test", lambda: [pipeline.test(job, tools) for job in jobs])
                return self._timed(
                    "publish", lambda: [pipeline.publish(job, tools) for job in jobs]
                )
            finally:
                tools.engine.over(release.id)
                self.store.move(release.id, [State.BUILDING], State.FAILED)
                steps.log.flush()

    @property
    def log(self) -> str:
        """The last release's log."""
        lines = self.store.follow_log(self.last, follow=False)
        return "\n".join(line.text for line in lines if line is not None and hasattr(line, "text"))

    def _timed(self, name, work):  # type: ignore[no-untyped-def]  # whatever the stage gives
        begun = time.monotonic()
        result = work()
        self.seconds[name] = round(time.monotonic() - begun, 3)
        return result


def stack(*functions: str) -> str:
    """A stack file of functions, each given as its YAML lines."""
    return "provider: {name: openfaas}\nfunctions:\n" + "".join(functions)


def function(name: str, lang: str, more: str = "") -> str:
    lines = "".join(f"    {line}\n" for line in more.splitlines())
    return f"  {name}:\n    lang: {lang}\n    handler: ./{name}\n{lines}"


@contextlib.contextmanager
def registry(folder: Path, *, users: str = "", deleting: bool = False) -> Iterator[str]:
    """A real registry on loopback: ``127.0.0.1:port``. ``users``: an htpasswd file."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True)
    auth = f"auth: {{htpasswd: {{realm: r, path: {users}}}}}\n" if users else ""
    (folder / "config.yml").write_text(
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'data'}}}, "
        f"delete: {{enabled: {str(deleting).lower()}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}', secret: s}}\n{auth}"
    )
    program = shutil.which("docker-registry") or shutil.which("registry")
    assert program
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "serve", str(folder / "config.yml")],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={"PATH": "/usr/bin:/bin", "OTEL_TRACES_EXPORTER": "none"},
        )
    try:
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(requests.ConnectionError):
                requests.get(f"http://127.0.0.1:{port}/v2/", timeout=2)
                break
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def started(engine: Engine, job: Job, **host: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """A container of an artifact as the provider runs it: (its address, what the engine says)."""
    with engine.asking("") as api:
        if "@" in job.artifact:  # else it is the engine's own
            api.pull(job.artifact)
        made = api.create_container(
            job.artifact,
            user="1234567:1234567",
            host_config=api.create_host_config(
                read_only=True, tmpfs={"/tmp": ""}, cap_drop=["ALL"], **host
            ),
        )
        try:
            api.start(made["Id"])
            told = api.inspect_container(made["Id"])
            yield f"http://{told['NetworkSettings']['IPAddress']}:8080", told
        finally:
            api.remove_container(made["Id"], force=True)


def answer(url: str) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        deadline = time.monotonic() + 20
        while True:
            try:
                return session.get(url, timeout=5)
            except requests.ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.05)


def tidy(settings: Settings, namespace: str = "") -> None:
    """Removes the images that a test's builds left in its engine; without a registry, those of
    ``namespace``, as what other tests build beside it lies in the same place."""
    engine = Engine(settings.build_engine_url)
    assert settings.registry or namespace
    place = settings.registry or f"slipway/{namespace}"
    with contextlib.suppress(SlipwayError), engine.asking("") as api:
        for each in api.images():
            for tag in each["RepoTags"] or []:
                if tag.startswith((f"{place}/", f"slipway-build:{settings.mark}-")):
                    with contextlib.suppress(SlipwayError), engine.asking(""):
                        api.remove_image(tag, force=True)
    engine.close()


class Failing(http.server.ThreadingHTTPServer):
    """Stands before a registry, and answers 500 to what ``fails`` says: (method, path) → bool."""

    daemon_threads = True

    def __init__(self, registry: str, fails: Callable[[str, str], bool]) -> None:
        super().__init__(("127.0.0.1", 0), _Proxy)
        self.registry = registry
        self.fails = fails
        self.failed = 0
        self.name = f"127.0.0.1:{self.server_address[1]}"


class _Proxy(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Failing

    def _pass(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.fails(self.command, self.path):
            self.server.failed += 1
            self._answer(500, {}, b"no")
            return
        kept = {k: v for k, v in self.headers.items() if k.lower() != "transfer-encoding"}
        with requests.Session() as session:
            session.trust_env = False
            got = session.request(
                self.command,
                f"http://{self.server.registry}{self.path}",
                data=body,
                headers=kept,
                allow_redirects=False,
            )
        self._answer(got.status_code, dict(got.headers), got.content)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = _pass

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        length = headers.get("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def failing(registry: str, fails: Callable[[str, str], bool]) -> Iterator[Failing]:
    with Failing(registry, fails) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def sleeping(command: str) -> bool:
    """Whether a process of this command line runs on this host."""
    wanted = command.replace(" ", "\0") + "\0"
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if each.read_text() == wanted:
                return True
    return False

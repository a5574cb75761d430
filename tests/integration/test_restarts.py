"""Planned restarts as the supervisor does them: what commands ask, and an edge that is replaced."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from click.testing import CliRunner

from cli import installation, restart
from core.errors import ConfigError, Unavailable
from core.settings import Settings
from runtime.edge import config
from runtime.edge.admin import AdminSocket
from supervisor import control, parts
from supervisor.keeper import Interrupted, Keeper
from supervisor.leftovers import Leftovers
from supervisor.logfiles import LogFiles
from supervisor.restarts import Restarts
from tests.integration.certificates import issue


@pytest.fixture
def settings(short_tmp: Path) -> Settings:
    made = Settings.from_env({"SLIPWAY_STATE": str(short_tmp), "SLIPWAY_DRAIN_TIMEOUT": "2s"})
    for folder in made.run_folders:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return made


# What commands ask.

Ask = Callable[[bytes], list[dict[str, Any]]]


@pytest.fixture
def ask(settings: Settings) -> Iterator[Ask]:
    """Has one line served, by parts of which the workers fail; gives what is answered."""

    def restarted(name: str) -> dict[str, Any]:
        if name == "workers":
            raise OSError(28, "No space left on device")
        if name == "queue":
            raise Interrupted
        return {"part": name, "pid": 1, "seconds": 0.1}

    with closing(control.claim(settings)) as listener:

        def asked(line: bytes) -> list[dict[str, Any]]:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(control.path(settings)))
                client.sendall(line)
                control.serve(listener, restarted, told.append)
                with client.makefile() as lines:
                    return [json.loads(each) for each in lines]

        told: list[str] = []
        asked.told = told  # type: ignore[attr-defined]
        yield asked


def test_no_failure_of_a_restart_stops_the_installation(ask: Ask) -> None:
    answers = ask(b'{"restart": ["gateway", "workers"]}\n')
    assert answers[0]["part"] == "gateway"
    assert "No space left on device" in answers[1]["error"]
    assert "No space left on device" in ask.told[0]  # type: ignore[attr-defined]
    with pytest.raises(Interrupted):
        ask(b'{"restart": ["queue"]}\n')


@pytest.mark.parametrize(
    "line",
    [
        *(b"[" * 4096, b"\xff\n", b"{}\n", b"[]\n", b'{"restart": 1}\n', b'{"restart": [[]]}\n'),
        *(b'{"restart": ["store"]}\n', b'{"restart": [1, "a"]}\n'),
    ],
)
def test_what_is_no_wish_of_ours_is_refused(ask: Ask, line: bytes) -> None:
    answers = ask(line)
    assert [list(each) for each in answers] == [["error"]]
    assert ask.told == []  # type: ignore[attr-defined]


def test_a_client_that_dawdles_holds_nobody_up(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte would renew a patience that began with it."""
    monkeypatch.setattr(control, "_ASK_SECONDS", 0.5)
    over = threading.Event()
    with closing(control.claim(settings)) as listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(control.path(settings)))

        def dawdle() -> None:
            while not over.wait(0.1):
                with suppress(OSError):
                    client.send(b" ")

        dawdling = threading.Thread(target=dawdle)
        dawdling.start()
        serving = threading.Thread(target=control.serve, args=(listener, dict, print))
        serving.start()
        serving.join(20)
        held_up = serving.is_alive()
        over.set()
        dawdling.join()
        client.shutdown(socket.SHUT_WR)
        serving.join()
        assert not held_up
        assert b"another form" in client.recv(4096)


def test_json_says_what_was_restarted_before_a_failure(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(*_: object) -> Iterator[dict[str, Any]]:
        yield {"part": "gateway", "pid": 7, "seconds": 1.0}
        raise Unavailable("the edge was not ready")

    class Context:
        url = ""
        running = settings

    monkeypatch.setattr(installation, "runs", lambda _: True)
    monkeypatch.setattr(control, "ask", half)
    done = CliRunner().invoke(restart.restart, ["-o", "json"], obj=Context())
    assert isinstance(done.exception, Unavailable)
    assert json.loads(done.output) == [{"part": "gateway", "pid": 7, "seconds": 1.0}]


# The edge.

DIES = """
import os, socket, sys, time
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1] + ".new")
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(float(sys.argv[2]))
"""
"""Takes the admin socket's path as HAProxy does, and ends."""


class Edge:
    """An edge that a keeper runs; ``starts`` are the arguments that replace it, where not its
    own."""

    def __init__(self, settings: Settings, keeper: Keeper, listener: socket.socket) -> None:
        self.settings = settings
        self.keeper = keeper
        self.listener = listener
        self.starts: list[str] = []
        self.broken = ""
        self.admin = AdminSocket(config.admin_socket(settings))
        argv = self._configure("start")
        keeper.start(parts.edge(settings, argv, [listener.fileno()]))
        assert keeper.wait(30, self.is_back)
        self.restarts = Restarts(
            settings, keeper, self._configure, [listener.fileno()], lambda: True
        )

    def _configure(self, purpose: config.Purpose) -> list[str]:
        path = config.write(
            self.settings, listener=self.listener.fileno(), pool=16, purpose=purpose
        )
        if self.broken:
            path.write_text(path.read_text() + self.broken)
        return self.starts if self.starts and purpose == "replace" else config.command(path)

    def pid(self) -> int:
        return self.keeper.pid("edge")

    def is_back(self) -> bool:
        """Whether the one that is kept running accepts, and can be driven."""
        try:
            told = self.admin.send("show info")
        except Unavailable:
            return False
        return f"\nPid: {self.pid()}\n" in told and "\nStopping: 0\n" in told


@contextmanager
def running(settings: Settings) -> Iterator[Edge]:
    with ExitStack() as held:
        listener = held.enter_context(socket.create_server(("127.0.0.1", 0)))
        keeper = Keeper(
            {"PATH": "/usr/bin:/bin"},
            settings.state,
            LogFiles(settings.state / "log"),
            Leftovers(settings.state / "parts"),
            print,
        )
        held.enter_context(keeper)
        held.callback(lambda: keeper.stop(keeper.names))
        yield Edge(settings, keeper, listener)


@pytest.fixture
def edge(settings: Settings) -> Iterator[Edge]:
    with running(settings) as made:
        yield made


def test_an_edge_is_replaced_and_ends(edge: Edge) -> None:
    old = edge.pid()
    told = edge.restarts.restart("edge")
    assert told["pid"] == edge.pid() != old
    assert config.replaced(edge.settings) == [old]
    assert edge.is_back()
    assert edge.keeper.wait(30, lambda: not Path(f"/proc/{old}").exists())
    assert [each.name for each in edge.settings.edge_folder.glob("*.old")] == []


def test_a_new_edge_has_the_certificate_of_now(settings: Settings) -> None:
    authority = trustme.CA()
    cert = settings.state / "served.pem"
    issue(authority, cert)
    with running(replace(settings, tls_cert=cert)) as edge:
        now = issue(authority, cert)
        edge.restarts.restart("edge")
        port = edge.listener.getsockname()[1]
        served = ssl.get_server_certificate(("127.0.0.1", port), timeout=10)
        assert ssl.PEM_cert_to_DER_cert(served) == now
        left = {each.name for each in settings.edge_folder.iterdir()}
        assert not left & {"check.cfg", "check.pem"}, "a key is kept in one place"


@pytest.mark.parametrize("seconds", ["0", "120"], ids=["dies", "hangs"])
def test_the_old_edge_goes_on_where_the_new_one_fails(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, seconds: str
) -> None:
    """Although the new one had come as far as to take the admin socket."""
    monkeypatch.setattr("supervisor.restarts.UP_SECONDS", 2.0)
    old = edge.pid()
    path = str(config.admin_socket(edge.settings))
    edge.starts = [sys.executable, "-c", DIES, path, seconds]
    with pytest.raises(ConfigError, match="the old one goes on"):
        edge.restarts.restart("edge")
    assert edge.pid() == old
    assert edge.is_back()
    assert config.replaced(edge.settings) == []
    edge.starts = []
    assert edge.restarts.restart("edge")["pid"] != old


def test_the_old_edge_goes_on_after_ctrl_c(edge: Edge) -> None:
    old = edge.pid()
    path = str(config.admin_socket(edge.settings))
    edge.starts = [sys.executable, "-c", DIES, path, "120"]
    before = Path(path).stat().st_ino

    def look() -> None:
        if Path(path).stat().st_ino != before:
            signal.raise_signal(signal.SIGINT)

    edge.keeper.tick = look
    with pytest.raises(Interrupted):
        edge.restarts.restart("edge")
    edge.keeper.tick = lambda: None
    assert edge.pid() == old
    assert edge.is_back()


def test_files_that_haproxy_does_not_take_replace_none(edge: Edge) -> None:
    """The next crash would start from them."""
    old = edge.pid()
    written = (edge.settings.edge_folder / "haproxy.cfg").read_text()
    edge.broken = "nonsense\n"
    with pytest.raises(ConfigError, match="does not take") as refused:
        edge.restarts.restart("edge")
    log = Path(str(refused.value).rpartition(" ")[2])
    assert "nonsense" in log.read_text()
    assert (edge.settings.edge_folder / "haproxy.cfg").read_text() == written
    os.kill(old, signal.SIGKILL)
    assert edge.keeper.wait(30, lambda: edge.pid() not in (0, old) and edge.is_back())


def test_a_damaged_list_of_those_that_were_replaced_stops_nobody(settings: Settings) -> None:
    config.takeover_file(settings).write_bytes(b"12 \xff3x 45")
    assert config.replaced(settings) == [12, 45]
    with config.takeover(settings, lead=True) as replaced:
        assert replaced == [12, 45]

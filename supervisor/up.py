"""`slipway up`: the story of one installation from its start to its end.

    claim state → end leftovers → process or docker → claim port → registry, engine for builds,
    store → gateway, workers, queue, reporter → functions' network → controller, edge → healthy →
    demo → `slipway: ready` → … → Ctrl-C → stop in order

The listening sockets are ours: when the edge dies, connections wait in them until it is back. Parts
are restarted when a command asks for it (restarts.py).

At the end whoever watches a push is told that it goes on. Then the workers and the queue go: for a
few seconds a build may still hand over what it made and a call be answered, which needs the edge
and the gateway. Then the edge stops accepting and finishes what it has, then the gateway and the
reporter, the controller, the functions, the network, registry and engine for builds, and last the
store, which all others write to.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from core import disk, http, keys
from core.errors import ConfigError, SlipwayError
from core.settings import ROOT, Settings
from supervisor import claims, control, parts, runtime_choice
from supervisor.docker_parts import DockerParts
from supervisor.keeper import Interrupted, Keeper
from supervisor.leftovers import Leftovers
from supervisor.logfiles import LogFiles
from supervisor.restarts import Restarts
from supervisor.runtime_choice import Choice
from supervisor.screen import Screen

if TYPE_CHECKING:
    from runtime.edge.config import Purpose

STORE_SECONDS = 120.0
"""A large append-only file takes time to load."""
PART_SECONDS = 60.0
NETWORK_SECONDS = 30.0
DEMO_SECONDS = 900.0
STOP_FUNCTIONS_SECONDS = 20.0
TRIES = 4
"""A part that has ended so often while it was starting will not come up."""


def up(settings: Settings, env: Mapping[str, str], screen: Screen, *, demo: bool) -> None:
    """Starts everything, keeps it running until a signal comes, stops it.

    Raises:
        ConfigError: it cannot be started here; everything is stopped again.
    """
    lock = claims.claim_state(settings)
    try:
        claims.make_run_folder(settings.run, *settings.run_folders)
        leftovers = Leftovers(settings.state / "parts")
        screen.doing("looking for what an earlier run left behind")
        if ended := leftovers.end():
            screen.say(f"slipway: an earlier run was killed; ended its {', '.join(ended)}")
        warnings, local = _with_tls(settings)
        if local:
            settings = replace(settings, local_port=local.getsockname()[1])
        choice = runtime_choice.choose(settings, env, screen)
        with Installation(choice, env, screen, leftovers, local, warnings) as installation:
            installation.keep(demo=demo)
    finally:
        os.close(lock)


def _with_tls(settings: Settings) -> tuple[list[str], socket.socket | None]:
    """What should be said of the certificate, and the listener that it makes needful.

    Raises:
        ConfigError: it cannot be served, or nobody is there to serve it.
    """
    if not settings.tls_cert:
        return [], None
    if settings.edge == "none":
        raise ConfigError(
            "SLIPWAY_TLS_CERT needs the edge, which speaks TLS: take SLIPWAY_EDGE=none away, or "
            "put a proxy with TLS in front and take SLIPWAY_TLS_CERT away"
        )
    from runtime.edge import tls

    return tls.read(settings.tls_cert).concerns(settings), claims.claim_local(settings)


class Installation:
    """Everything that runs, from the claimed port on; leaving it stops everything."""

    def __init__(
        self,
        choice: Choice,
        env: Mapping[str, str],
        screen: Screen,
        leftovers: Leftovers,
        local: socket.socket | None = None,
        warnings: Sequence[str] = (),
    ) -> None:
        """``local``: listens for this machine's own parts, with TLS; ``warnings``: to be shown."""
        self.choice = choice
        self.local = local
        self.warnings = warnings
        self.settings = settings = choice.settings
        self.env = env
        self.screen = screen
        self.logs = LogFiles(settings.state / "log")
        self.logs.rotate()
        self.listener = claims.claim_port(settings)
        self.within = claims.claim_gateway(settings)
        self.control = control.claim(settings)
        self.inside: socket.socket | None = None
        self._functions_remain = False
        """Whether some may still run when all else has ended."""
        self.keeper = Keeper(
            parts.environment(env, settings),
            ROOT,
            self.logs,
            leftovers,
            tell=lambda text: screen.say(f"slipway: {text}"),
            tick=screen.tick,
        )
        self.docker = DockerParts(choice, env, self.keeper, self.logs, screen)

    def __enter__(self) -> Installation:
        self.keeper.__enter__()
        return self

    def __exit__(self, *exit_: object) -> None:
        try:
            self._stop()
        finally:
            self.keeper.__exit__(None, None, None)
            self._close_listeners()

    def keep(self, *, demo: bool) -> None:
        """Starts, shows, and stands by until the user has had enough."""
        try:
            self._start()
            self._introduce()
            self.screen.say(f"slipway: {self._show() if demo else 'ready'}")
            self._stand_by()
        except Interrupted:
            self.screen.say("\nslipway: stopping (Ctrl-C again: at once)")

    # Starting

    def _start(self) -> None:
        settings, keeper = self.settings, self.keeper
        self.docker.begin()
        if settings.redis_url:
            self._ask_store()
        else:
            (settings.state / "store").mkdir(mode=0o700, exist_ok=True)
            keeper.start(parts.store(settings, self.env))
            self._await("starting the store", STORE_SECONDS, self._store_is_fresh, "store")
        self.settings = settings = self.docker.settle()
        claims.tell_settings(settings)
        stand = keeper.names
        public = [self.listener] if settings.edge == "none" else []
        keeper.start(parts.gateway(settings, [each.fileno() for each in (self.within, *public)]))
        keeper.start(parts.workers())
        keeper.start(parts.queue(self.settings))
        keeper.start(parts.reporter(self.settings))
        address = self._make_network()
        keeper.start(parts.controller(settings))
        if settings.edge != "none":
            self._start_edge(address)
        names = [name for name in keeper.names if name not in stand]
        self._await(f"starting {', '.join(names)}", PART_SECONDS, self._healthy, *names)

    def _start_edge(self, inside: str) -> None:
        if inside:
            self.inside = claims.claim_inside(self.settings, inside)
        argv = self._configure_edge("start")
        self.keeper.start(parts.edge(self.settings, argv, self._edge_listeners()))

    def _edge_listeners(self) -> list[int]:
        return [each.fileno() for each in (self.listener, self.inside, self.local) if each]

    def _configure_edge(self, purpose: Purpose) -> list[str]:
        """Writes the edge's configuration, with the secrets and the certificate that there are now;
        returns what starts it."""
        from runtime.edge import config

        path = config.write(
            self.settings,
            listener=self.listener.fileno(),
            local=self.local.fileno() if self.local else "",
            functions_bind=f"fd@{self.inside.fileno()}" if self.inside else "",
            purpose=purpose,
        )
        return config.command(path)

    def _make_network(self) -> str:
        """Makes the functions' network; returns our address in it, or '' where there is none."""
        self.screen.doing("making the functions' network")
        result = self.settings.run / "network.json"
        argv = parts.python("supervisor.chores", "network-up", str(result))
        if self.keeper.run("network", argv, NETWORK_SECONDS) != 0:
            raise ConfigError(self._words("the functions' network could not be made", "network"))
        told = json.loads(result.read_text())
        if missing := told.get("missing"):
            self.screen.say(f"slipway: functions have no network: {missing}")
        if unfenced := told.get("unfenced"):
            self.screen.say(
                "slipway: WARNING: functions reach all that this host reaches, inside addresses "
                f"too: {unfenced}"
            )
        return str(told["address"])

    def _ask_store(self) -> None:
        self.screen.doing("asking the store")
        if self.keeper.run("store", parts.python("supervisor.chores", "store"), 20) != 0:
            raise ConfigError(self._words("the store does not answer", "store"))

    def _await(self, doing: str, seconds: float, ready: Callable[[], bool], *names: str) -> None:
        """Waits until ready; raises ConfigError with the last words of the part at fault."""
        self.screen.doing(doing)

        def failing() -> list[str]:
            return [name for name in names if self.keeper.deaths(name) >= TRIES]

        done = self.keeper.wait(seconds, lambda: bool(failing()) or ready())
        if at_fault := failing():
            raise ConfigError(self._words(f"the {at_fault[0]} keeps ending", at_fault[0]))
        if not done:
            missing = self._missing()
            at_fault = [each for each in names if each.split("-")[0] in missing] or list(names)
            silent = ", ".join(missing or names)
            text = f"not ready after {seconds:.0f} s: no answer from {silent}"
            raise ConfigError(self._words(text, *at_fault))
        self.screen.doing("")

    def _words(self, what: str, *names: str) -> str:
        """A failure's text: what, then the last lines of the logs of the parts concerned."""
        told = [what]
        for name in names:
            last = self.logs.tail(name) or "(it wrote nothing)"
            told.append(f"--- the end of {self.logs.path(name)}:\n{last}")
        told.append("Correct what it says and start again; what was stored is kept.")
        return "\n".join(told)

    def _store_is_fresh(self) -> bool:
        """Whether the store answers, and has forgotten the signs of life of an earlier run."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(1)
                connection.connect(str(self.settings.store_socket))
                connection.sendall(f"DEL {keys.BEATS} {keys.DEATHS}\r\n".encode())
                return connection.recv(64).startswith(b":")  # -LOADING until it has read its file
        except OSError:
            return False

    def _healthy(self) -> bool:
        return self._health()[0] == 200

    def _missing(self) -> list[str]:
        """Parts that give no sign of life, as the gateway tells."""
        status, body = self._health()
        try:
            return [str(each) for each in json.loads(body)["missing"]]
        except (ValueError, KeyError, TypeError):
            return [] if status else ["gateway"]

    def _health(self) -> tuple[int, bytes]:
        """(0, b'') where nobody answers. The gateway first: it says who is missing. Its socket is
        open while it is not there, so it is not waited for for long."""
        try:
            here = f"unix@{self.settings.gateway_socket}"
            status, body = http.request(here, "GET", "/healthz", timeout=0.5)
            if status == 200:
                return http.request(self._address(), "GET", "/healthz", timeout=2)
            return status, body
        except OSError:
            return 0, b""

    def _address(self) -> str:
        host, port = (self.local or self.listener).getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    # Running

    def _stand_by(self) -> None:
        """Keeps everything running, and does what commands ask, until a signal comes."""
        restarts = Restarts(
            self.settings,
            self.keeper,
            self._configure_edge,
            self._edge_listeners(),
            self._healthy,
        )
        while True:
            self.keeper.stand_by(self.control)
            control.serve(self.control, restarts.restart, self.keeper.tell)

    def _introduce(self) -> None:
        settings = self.settings
        # So that the commands find us without being told the port again.
        (settings.state / "url").write_text(settings.base_url + "\n")
        self.screen.say(f"slipway: {settings.user_url} answers, state in {settings.state}")
        low = disk.IMAGES_LOW if settings.runtime == "docker" else disk.LOW
        for warning in disk.warnings(self.choice.disks or [settings.state], low):
            self.screen.say(f"slipway: WARNING: {warning}")
        for warning in self.warnings:
            self.screen.say(f"slipway: WARNING: {warning}")
        if claims.exposed(settings) and not settings.tls_cert:
            self.screen.say(
                "slipway: WARNING: others can reach this address, and there is no TLS: the admin's "
                "password and all\nslipway: WARNING: requests cross the network readable by anyone "
                "on the way. Name a certificate with\nslipway: WARNING: SLIPWAY_TLS_CERT, put a "
                "TLS proxy in front, or listen on this machine only:\nslipway: WARNING: "
                "SLIPWAY_BIND=127.0.0.1"
            )

    def _show(self) -> str:
        """Runs the demo; returns the words of the closing line."""
        argv = parts.python("supervisor.demo")
        try:
            status = self.keeper.run("demo", argv, DEMO_SECONDS, on_screen=True)
        finally:  # ended with us, it leaves its repository and the password for it
            shutil.rmtree(self.settings.demo_folder, ignore_errors=True)
        if status == 0:
            return "ready"
        why = "see above" if status is not None else f"over {DEMO_SECONDS:.0f} s, or ended"
        return f"ready (the demo failed: {why})"

    # Ending

    def _stop(self) -> None:
        """Takes every step, whatever became of those before: nothing is left running."""
        steps = {
            "whoever watches a push": self._tell_watchers,
            "builds and asynchronous calls": self._stop_work,
            "requests on their way": self._stop_requests,
            "functions": self._stop_functions,
            "registry and engine for builds": self.docker.stop,
            "the store": self._stop_store,
        }
        for what, step in steps.items():
            self.screen.doing(f"stopping: {what}")
            try:
                step()
            except Exception as error:
                self.screen.say(f"slipway: could not stop {what} in order: {error}")
        self.screen.doing("")
        self.screen.say("slipway: stopped; what was pushed is kept for the next start")

    def _tell_watchers(self) -> None:
        """Those who would keep edge and gateway open until their time is up go now, with a word."""
        self.keeper.send("gateway", parts.END_STREAMS)

    def _stop_work(self) -> None:
        self.keeper.stop(["workers", "queue"])
        from builder.secrets import memory  # not carried while everything runs

        shutil.rmtree(memory(self.settings), ignore_errors=True)  # of builds that were cut off

    def _stop_requests(self) -> None:
        self._close_listeners()
        self.keeper.stop(["edge"])
        self.keeper.stop(["gateway", "reporter"])

    def _stop_functions(self) -> None:
        if "controller" not in self.keeper.names:
            return
        self._functions_remain = True
        self.keeper.stop(["controller"])
        stop_all = parts.python("runtime.controller", "--stop-all")
        ended = self.keeper.run("controller", stop_all, STOP_FUNCTIONS_SECONDS) == 0
        if not ended:  # Ctrl-C came again, or one does not end: it is not asked any more
            now = parts.python("runtime.controller", "--stop-all-now")
            ended = self._chore("controller", now, STOP_FUNCTIONS_SECONDS)
        self._functions_remain = not ended
        self._chore("network", parts.python("supervisor.chores", "network-down"), 10)

    def _stop_store(self) -> None:
        self.keeper.stop(self.keeper.names)
        parts.end_shares(self.settings)
        if not self._functions_remain and self.settings.run.parent != self.settings.state:
            shutil.rmtree(self.settings.run, ignore_errors=True)  # nobody would tidy up in /tmp

    def _chore(self, name: str, argv: list[str], seconds: float) -> bool:
        """Runs a helper and tells of a failure; returns whether it succeeded."""
        if self.keeper.run(name, argv, seconds) == 0:
            return True
        log = self.logs.path(name)
        self.screen.say(f"slipway: '{' '.join(argv[3:])}' did not succeed: see {log}")
        return False

    def _close_listeners(self) -> None:
        for each in (self.listener, self.local, self.within, self.inside, self.control):
            if each:
                each.close()


def main() -> int:
    """``python -m supervisor.up [--no-demo]``: settings from the environment."""
    screen = Screen()
    try:
        settings = Settings.from_env(os.environ)
        up(settings, os.environ, screen, demo="--no-demo" not in sys.argv[1:])
    except SlipwayError as error:
        screen.doing("")
        print(f"slipway: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before there was anything to stop
        screen.doing("")
    return 0


if __name__ == "__main__":
    sys.exit(main())

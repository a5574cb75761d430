"""HAProxy as the edge. The state is HAProxy's own: each full pass reads its rows and servers,
compares them with the wanted table and acts on the difference, so that a restart of either side
needs no special case.

    place    which backend each function has: the one it has while any wanted endpoint is in it
             (then it is the same revision), else a fresh one of the pool
    add      endpoints that are missing, ready before a row names them
    switch   the whole map in one transaction, if a row differs
    drain    servers that nothing wants: no new requests, wait for the last, delete

A server is named after its endpoint. In a backend that stays in use a leaving server is set to
drain. A backend that no row names any more gets no new requests, and its servers stay up until the
last request, so that one that was routed just before the switch, or waits in its queue, is served.

HAProxy logs a request when it ends, so nobody but us can say what a killed one had: each pass looks
how many requests every function has, and when it meets an HAProxy that no supervisor put in the
place of the one before, what was seen last is told as lost. What began or ended since is not known.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from core import failpoints, logging
from core.errors import InvalidRequest, Unavailable
from core.names import DEFAULT_NAMESPACE, split_function
from core.settings import Settings
from runtime.edge import Route, config, tls
from runtime.edge.admin import AdminSocket, chunks

log = logging.get()

_GRACE = 0.1
"""Seconds after a switch in which a request that read the old map may still reach its backend."""
_DEAD_SECONDS = 3.0
"""How long the requests of a dead replica may still be delivered."""
_LOOKS_SHARE = 20
"""Requests under way are counted as often as takes one part in so many of our time."""
_ONE_BY_ONE = 250
"""Backends; of more than these all are asked for at once."""
_FORGOTTEN = 3600.0
"""Seconds after which no HAProxy lives any more that may know an endpoint that was dropped."""
_REREAD = 2.0
"""Seconds after which an unchanged table is compared again with what HAProxy really has."""

_FUNCTION = re.compile(r"[a-z0-9-]{1,63}\.[a-z0-9-]{1,63}")
_ENDPOINT = re.compile(r"unix@/[\w.~+/-]{1,96}|[a-z0-9.-]{1,253}:\d{1,5}", re.ASCII)
_POOL_NAME = re.compile(r"b\d+")
_BACKENDS, _SERVERS = 2, 4
"""Kinds of rows of ``show stat``, bits."""
_ANSWERS = slice(39, 45)
"""Its columns ``hrsp_1xx`` to ``hrsp_other``: of a server they count heads of answers as they come,
of a backend only what has ended (HAProxy's management guide, 9.1)."""

Server = tuple[str, str]
"""Backend and server name."""


@dataclass(frozen=True)
class _Process:
    pid: int
    started: str


@dataclass(frozen=True)
class _Told:
    """A row of ``show stat``."""

    sessions: int
    """Of a backend with those in its queue."""
    queued: int
    answered: int


@dataclass
class _Seen:
    """What HAProxy has."""

    rows: dict[str, str] = field(default_factory=dict)
    """Function → its row: backend, ``BY_PATH`` where it has no host, and ``:`` milliseconds of
    patience where it has its own."""
    servers: dict[str, dict[str, int]] = field(default_factory=dict)
    """Backend → server → srv_admin_state."""


class HAProxyEdge:
    """Drives the HAProxy that was started with ``config.command``; its only writer."""

    def __init__(
        self,
        settings: Settings,
        *,
        pool: int = config.POOL,
        lost: Callable[[Mapping[str, int]], None] = lambda _: None,
    ) -> None:
        """``lost``: told how many requests each function (``name.namespace``) had in an HAProxy
        that ended without being replaced, when they were last counted."""
        self._settings = settings
        self._lost = lost
        self._socket = AdminSocket(config.admin_socket(settings))
        self._renewal = tls.Renewal(settings, self._socket)
        self._map = config.map_file(settings)
        self._drain_timeout = settings.drain_timeout
        self._pool = pool
        self._lock = threading.RLock()
        self._routes: dict[str, Route] | None = None
        """What was applied last; None: nothing yet, or it failed half-way."""
        self._process: _Process | None = None
        self._under_way: Mapping[str, int] = {}
        """Function → its requests when they were last counted."""
        self._count_at = 0.0
        self._functions: dict[str, str] = {}
        """Backend → the function that it has, or had until it is empty."""
        self._written: object = None
        """What the next HAProxy starts with, as far as we wrote it down."""
        self._dropped: dict[str, float] = {}
        """Names of servers that are not wanted any more → since when."""
        self._names: set[str] = set()
        """Wanted servers."""
        self._servers: set[Server] = set()
        """All servers that HAProxy has."""
        self._leaving: dict[Server, float] = {}
        """Unwanted servers → monotonic time since when."""
        self._retired: dict[str, float] = {}
        """Backends that no row names but that have servers → since when."""
        self._next = 0
        self._read_at = 0.0
        self._overflow = 0

    # The interface: see runtime.edge.Edge.

    def apply(self, routes: Mapping[str, Route]) -> None:
        with self._lock:
            same = self._routes == routes
            self._routes = None  # until it is done
            with config.takeover(self._settings, lead=False) as replaced:
                fresh = self._meet_process(replaced)
                if fresh or not same or time.monotonic() - self._read_at > _REREAD:
                    self._compare(routes)
                self._drain()
                self._count()
            self._routes = dict(routes)
            self._renewal.look()

    def tick(self) -> None:
        with self._lock:
            if self._routes is not None:
                self.apply(self._routes)

    def released(self, endpoint: str) -> bool:
        name = _server_name(endpoint)
        with self._lock:
            if self._routes is None or name in self._names:
                return False
            if any(server == name for _, server in self._servers):
                return False
            # An HAProxy that was replaced may have requests with it, which nobody counts.
            dropped = self._dropped.setdefault(name, time.monotonic())
            over = time.monotonic() - dropped > self._drain_timeout
            return over or not self._predecessor_serves()

    def mark_down(self, endpoint: str) -> None:
        name = _server_name(endpoint)
        with self._lock:
            known = [server for server in self._servers if server[1] == name]
            if not known:
                return
            self._names.discard(name)
            self._read_at = 0.0  # if it is wanted all the same, the next pass takes it back in
            # A container that is gone resets nothing: who waits for its answer is cut off, once
            # what it had sent before has had the time to reach its client.
            since = time.monotonic() - max(self._drain_timeout - _DEAD_SECONDS, 0)
            for server in known:
                self._leaving[server] = min(self._leaving.get(server, since), since)
            try:
                self._socket.run(f"set server {b}/{s} state maint" for b, s in known)
            except Unavailable as error:
                log.info("edge_unavailable", error=str(error))

    def unanswered(self, function: str) -> int:
        with self._lock:
            routed = {
                backend
                for backend, each in self._functions.items()
                if each == function and backend not in self._retired
            }
            told = self._statistics(routed, _SERVERS).values()
        answered = any(each.answered for each in told)
        return 0 if answered else sum(each.sessions + each.queued for each in told)

    def under_way(self) -> Mapping[str, int]:
        with self._lock:
            if self._routes is None:
                raise Unavailable("the edge has no routes yet")
            self._count()
            return dict(self._under_way)

    def alive(self) -> bool:
        try:
            self._identify()
        except Unavailable:
            return False
        return True

    # Who answers.

    def _identify(self) -> _Process:
        told = dict(
            line.split(": ", 1)
            for line in self._socket.send("show info").splitlines()
            if ": " in line
        )
        try:
            return _Process(int(told["Pid"]), told["Start_time_sec"])
        except (KeyError, ValueError) as error:
            raise Unavailable(f"the edge does not say who it is: {sorted(told)[:5]}") from error

    def _meet_process(self, replaced: list[int]) -> bool:
        """True if this HAProxy is not the one of the last call: what we remember is void."""
        process = self._identify()
        if process == self._process:
            return False
        before, self._process = self._process, process
        if before and before.pid in replaced:
            log.info("edge_replaced", pid=process.pid, before=before.pid)
        elif before:
            lost = {function: count for function, count in self._under_way.items() if count}
            log.warning("edge_killed", pid=process.pid, before=before.pid, lost=sum(lost.values()))
            self._lost(lost)
        self._under_way = {}
        self._leaving.clear()
        self._retired.clear()
        self._servers.clear()
        return True

    def _predecessor_serves(self) -> bool:
        """Whether an HAProxy that was replaced may still have requests with old endpoints."""
        return not all(_ended(pid) for pid in config.replaced(self._settings))

    def _count(self) -> None:
        """Notes how many requests every function has."""
        now = time.monotonic()
        if now < self._count_at:
            return
        backends = set(self._functions)
        asked = {"-1"} if len(backends) > _ONE_BY_ONE else backends
        under_way: Counter[str] = Counter()
        for (backend, _), told in self._statistics(asked, _BACKENDS).items():
            if backend in backends:
                under_way[self._functions[backend]] += told.sessions
        self._under_way = under_way
        self._count_at = now + _LOOKS_SHARE * (time.monotonic() - now)

    # A full pass.

    def _compare(self, routes: Mapping[str, Route]) -> None:
        wanted = _wanted(routes)
        seen = self._read()
        placed = self._place(wanted, seen)
        self._add(wanted, placed, seen)
        rows = {each: _row(backend, routes[each]) for each, backend in placed.items()}
        # First: what starts in the place of an HAProxy that dies now goes on from there.
        self._remember(seen, rows, {b: wanted[function] for function, b in placed.items()})
        if rows != seen.rows:
            self._switch(rows)
            log.info("edge_switched", functions=len(rows), changed=_changes(seen.rows, rows))
        self._leave(wanted, placed, seen)
        self._read_at = time.monotonic()

    def _remember(
        self,
        seen: _Seen,
        rows: Mapping[str, str],
        servers: Mapping[str, Mapping[str, str]],
    ) -> None:
        """Whose backend is whose; and for the next HAProxy, what it shall start with."""
        for function, row in (*seen.rows.items(), *rows.items()):
            self._functions[_backend_of(row)] = function
        used = {backend for backend, _ in self._servers}
        self._functions = {b: each for b, each in self._functions.items() if b in used}
        keyed = {key: row for function, row in rows.items() for key in _keys(function)}
        if self._written != (keyed, servers):
            try:
                config.write_routes(self._settings, keyed, servers, pool=self._pool)
            except OSError as error:
                log.warning("routes_not_written", reason=str(error))
            else:
                self._written = keyed, servers

    def _read(self) -> _Seen:
        seen = _Seen()
        for line in self._socket.send(f"show map {self._map}").splitlines():
            words = line.split(" ")
            if len(words) == 3 and "." in words[1]:
                seen.rows[words[1]] = words[2]
        for line in self._socket.send("show servers state").splitlines():
            words = line.split(" ")
            if len(words) > 6 and words[0].isdigit() and _POOL_NAME.fullmatch(words[1]):
                seen.servers.setdefault(words[1], {})[words[3]] = int(words[6])
        self._servers = {(b, s) for b, names in seen.servers.items() for s in names}
        return seen

    def _place(self, wanted: Mapping[str, Mapping[str, str]], seen: _Seen) -> dict[str, str]:
        placed: dict[str, str] = {}
        held = {function: _backend_of(row) for function, row in seen.rows.items()}
        taken = set(seen.servers) | set(held.values())
        free = self._free(taken)
        homeless = 0
        for function, endpoints in wanted.items():
            backend = held.get(function, "")
            if not endpoints.keys() & seen.servers.get(backend, {}).keys():
                backend = next(free, "")
            if backend:
                placed[function] = backend
            else:
                homeless += 1
        if homeless and homeless != self._overflow:
            log.warning("edge_pool_empty", functions=homeless, served_by="gateway")
        self._overflow = homeless
        return placed

    def _free(self, taken: set[str]) -> Iterator[str]:
        """Backends without servers, the longest unused first."""
        for _ in range(self._pool):
            name = config.backend_name(self._next)
            self._next = (self._next + 1) % self._pool
            if name not in taken:
                yield name

    def _add(
        self,
        wanted: Mapping[str, Mapping[str, str]],
        placed: Mapping[str, str],
        seen: _Seen,
    ) -> None:
        commands, expected = [], []
        before = self._names
        self._names = {name for endpoints in wanted.values() for name in endpoints}
        now = time.monotonic()
        self._dropped = {
            name: since
            for name, since in self._dropped.items()
            if name not in self._names and now - since < _FORGOTTEN
        }
        for name in before - self._names:
            self._dropped.setdefault(name, now)
        for function, backend in placed.items():
            there = seen.servers.get(backend, {})
            self._retired.pop(backend, None)
            for name, endpoint in wanted[function].items():
                server = (backend, name)
                self._leaving.pop(server, None)
                if there.get(name) == 0:
                    continue
                if name not in there:
                    commands.append(f"add server {backend}/{name} {endpoint} {config.SERVER}")
                    expected.append("New server registered.")
                    self._servers.add(server)
                commands += [
                    f"set server {backend}/{name} state ready",
                    f"enable health {backend}/{name}",
                ]
                expected += ["", ""]
        self._do(commands, expected)

    def _switch(self, wanted: Mapping[str, str]) -> None:
        reply = self._socket.send(f"prepare map {self._map}")
        version = re.fullmatch(r"New version created: (\d+)", reply.strip())
        if not version:
            raise Unavailable(f"the edge cannot prepare new routes: {reply.strip()!r}")
        rows = (f"{key} {row}" for function, row in wanted.items() for key in _keys(function))
        for chunk in chunks(rows, "\n"):
            self._silent(f"add map @{version[1]} {self._map}", "\n".join(chunk))
        failpoints.at("routes-prepared")
        self._silent(f"commit map @{version[1]} {self._map}")
        failpoints.at("routes-moved")

    def _leave(
        self,
        wanted: Mapping[str, Mapping[str, str]],
        placed: Mapping[str, str],
        seen: _Seen,
    ) -> None:
        now = time.monotonic()
        in_use = {backend: wanted[function] for function, backend in placed.items()}
        commands = []
        for backend, servers in seen.servers.items():
            if backend not in in_use:
                self._retired.setdefault(backend, now)
            for name, admin_state in servers.items():
                if name in in_use.get(backend, {}):
                    continue
                self._leaving.setdefault((backend, name), now)
                if backend in in_use and admin_state == 0:
                    commands.append(f"set server {backend}/{name} state drain")
        self._do(commands, [""] * len(commands))
        self._leaving = {s: since for s, since in self._leaving.items() if s in self._servers}
        self._retired = {b: t for b, t in self._retired.items() if b in seen.servers}

    # Drains.

    def _drain(self) -> None:
        """One look at what leaves: deletes the idle, cuts off what is over its time."""
        if not self._leaving:
            return
        now = time.monotonic()
        busy = self._sessions({backend for backend, _ in self._leaving})
        commands, deleted = [], []
        for server, since in self._leaving.items():
            backend, name = server
            retired = self._retired.get(backend)
            if retired is None:
                idle = busy.get(server, 0) == 0
            else:
                idle = busy.get((backend, "BACKEND"), 0) == 0 and now - retired > _GRACE
            if not idle and now - since > self._drain_timeout:
                commands += [
                    f"set server {backend}/{name} state maint",
                    f"shutdown sessions server {backend}/{name}",
                ]
            elif idle:
                commands.append(f"set server {backend}/{name} state maint")
                deleted.append(server)
        self._do(commands, [""] * len(commands))
        for server, reply in zip(
            deleted, self._socket.run(f"del server {b}/{s}" for b, s in deleted), strict=True
        ):
            if reply in ("Server deleted.", "No such server."):
                self._forget(server)
            # Else its idle connections are not closed yet: the next look tries again.

    def _sessions(self, backends: set[str]) -> dict[Server, int]:
        """Requests that each server has, and each backend as ``BACKEND`` (its queue included)."""
        told = self._statistics(backends, _BACKENDS | _SERVERS)
        return {server: each.sessions + each.queued for server, each in told.items()}

    def _statistics(self, backends: set[str], kinds: int) -> dict[Server, _Told]:
        busy = {}
        for chunk in chunks((f"show stat {backend} {kinds} -1" for backend in backends), ";"):
            for line in self._socket.send(";".join(chunk)).splitlines():
                fields = line.split(",", _ANSWERS.stop)
                if len(fields) > _ANSWERS.stop and not line.startswith("#"):
                    busy[fields[0], fields[1]] = _Told(
                        sessions=int(fields[4] or 0),
                        queued=int(fields[2] or 0),
                        answered=sum(int(each or 0) for each in fields[_ANSWERS]),
                    )
        return busy

    def _forget(self, server: Server) -> None:
        self._servers.discard(server)
        self._leaving.pop(server, None)
        if all(backend != server[0] for backend, _ in self._servers):
            self._retired.pop(server[0], None)

    # Commands.

    def _do(self, commands: list[str], expected: list[str]) -> None:
        """Runs commands; any other reply than expected voids what we remember."""
        replies = self._socket.run(commands)
        for command, reply, right in zip(commands, replies, expected, strict=True):
            if reply != right:
                raise Unavailable(f"the edge answered {reply!r} to {command[:200]!r}")

    def _silent(self, command: str, payload: str = "") -> None:
        reply = self._socket.send(command, payload).strip()
        if reply:
            raise Unavailable(f"the edge answered {reply!r} to {command!r}")


def _wanted(routes: Mapping[str, Route]) -> dict[str, dict[str, str]]:
    """Function → server name → endpoint, of those that have endpoints."""
    wanted = {}
    for function, route in routes.items():
        if not _FUNCTION.fullmatch(function):
            raise InvalidRequest(f"{function[:100]!r} is not name.namespace")
        for endpoint in route.endpoints:
            if not _ENDPOINT.fullmatch(endpoint):
                raise InvalidRequest(
                    f"{endpoint[:120]!r} is no endpoint: unix@/path of at most 97 plain "
                    "characters, or host:port"
                )
        if route.endpoints:
            wanted[function] = {_server_name(each): each for each in route.endpoints}
    return wanted


def _row(backend: str, route: Route) -> str:
    where = backend + config.BY_PATH if route.hostless else backend
    return f"{where}:{route.patience * 1000:.0f}" if route.patience else where


def _backend_of(row: str) -> str:
    return row.partition(":")[0].removesuffix(config.BY_PATH)


def _keys(function: str) -> list[str]:
    """What a path may call it: without its namespace as well, if that is the default one."""
    name, namespace = split_function(function)
    return [function, name] if namespace == DEFAULT_NAMESPACE else [function]


def _server_name(endpoint: str) -> str:
    return "s" + hashlib.sha256(endpoint.encode()).hexdigest()[:16]


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> int:
    return len(dict(before.items() ^ after.items()))


def _ended(pid: int) -> bool:
    """Whether the process is gone, or a zombie that nobody has collected yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    except (OSError, IndexError):
        return False
    return state in "ZX"

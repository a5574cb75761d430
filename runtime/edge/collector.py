"""Counts requests from the edge's log: one line per function request, over a unix socket.

HAProxy keeps the newest lines in a ring and connects to us. After a break it goes on where it was,
but it notices the break only by the first write that fails, and what that had is lost; a full ring
forgets its oldest lines silently. So counts may be a little too low, never too high.

Only functions that it was told of are counted: callers make names up, and must fill neither our
memory nor the store.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from core.models import Receipt, Traffic
from core.names import DEFAULT_NAMESPACE
from core.settings import Settings
from core.store.metrics import Tally, code
from runtime.edge import config
from runtime.edge.receipt import Gaps
from runtime.edge.traffic import Recent, Since

_MAX_LINE = 4096


@dataclass(frozen=True, slots=True)
class Line:
    """One request, as config.py's log-format writes it."""

    function: str
    status: int
    """0: the client got no answer."""
    answered: float
    """Unix time of the answer's first byte; of the end where there was none."""
    arrived: float
    """Unix time at which its headers were complete."""
    seconds: float
    """From there to the end of the answer."""
    platform_failed: bool
    """No answer, or one that broke off, or a 5xx that the platform made and not the function."""
    code: int
    """The status as it is counted: 499 (as other proxies have it) where the client went away before
    there was one, 502 where there was none for another reason."""
    uploaded: int = 0
    """Bytes of the request."""

    @classmethod
    def parse(cls, text: str) -> Line:
        """Raises ValueError for a line that is torn or not of a function."""
        words = text.split(" ")
        if len(words) != 10:
            raise ValueError(f"{len(words)} fields")
        function, status, start, receive, total, data, uploaded, _, end, backend = words
        code = max(int(status), 0)
        arrived = int(start) / 1e9
        spent = max(int(total) - max(int(receive), 0), 0)
        return cls(
            function=function if "." in function else f"{function}.{DEFAULT_NAMESPACE}",
            status=code,
            answered=arrived + max(spent - max(int(data), 0), 0) / 1e3,
            arrived=arrived,
            seconds=spent / 1e3,
            platform_failed=_platform_failed(code, end, by_gateway=backend == config.GATEWAY),
            code=_counted(code, end),
            uploaded=int(uploaded),
        )


def _platform_failed(status: int, end: str, *, by_gateway: bool) -> bool:
    """``end`` is HAProxy's termination state: who ended it (- nobody, C/c the client, L the edge's
    own rules), and when (D: while the answer was on its way).

    A function's own 5xx ends with ``--``. Of what the gateway passed on, 502, 503 and 504 are taken
    for its own words. A WebSocket (101) that was cut off at its drain deadline had its answer.
    """
    who, when = end[0], end[1]
    if who in "CcL":
        return False
    if who == "-":
        return by_gateway and status in (502, 503, 504)
    return status < 100 or status >= 500 or (when == "D" and status != 101)


def _counted(status: int, end: str) -> int:
    gone = end[0] == "C" and end[1] != "D"
    if gone or not status:  # HAProxy may say 400 of who went away
        return 499 if end[0] in "Cc" else 502
    return status


class Window:
    """Requests of some functions from ``since`` (Unix time) until ``close``."""

    def __init__(
        self, collector: Collector, functions: Iterable[str], since: float, before: Receipt
    ) -> None:
        """``before``: what an earlier controller counted of it already."""
        self.functions = frozenset(functions)
        self.since = since
        self.requests, self.failed = before.requests, before.failed
        self.gaps = Gaps(self.since)
        self._before = before.longest_gap_ms
        self._collector = collector

    def add(self, line: Line) -> None:
        if line.answered < self.since:
            return
        self.requests += 1
        self.failed += line.platform_failed
        answered = line.status > 0 and not line.platform_failed
        self.gaps.add(line.arrived, line.answered, answered=answered)

    def so_far(self) -> Receipt:
        """What is known of it, for whoever has to go on with it."""
        with self._collector.lock:
            return self._receipt(self.gaps.so_far)

    def close(self) -> Receipt:
        """Ends the window; a request is in it if its answer began in it and its end was logged.

        ``longest_gap_ms`` as ``Gaps`` defines it.
        """
        with self._collector.lock:
            self._collector.windows.discard(self)
            return self._receipt(self.gaps.longest(time.time()))

    def _receipt(self, gap: float) -> Receipt:
        return Receipt(
            requests=self.requests,
            failed=self.failed,
            longest_gap_ms=max(round(gap * 1000, 1), self._before),
        )


class _Connection:
    """One HAProxy process that sends us its lines."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.rest = b""
        """Begin of a line whose end is still to come."""


class Collector:
    """Listens in a thread of its own between ``start`` and ``stop``."""

    def __init__(self, settings: Settings) -> None:
        self._path = config.log_socket(settings)
        self.lock = threading.Lock()
        self.windows: set[Window | Since] = set()
        self.tally = Tally("edge")
        self._recent = Recent()
        self._requests: Counter[str] = Counter()
        """Since the start, of functions that are known."""
        self._refused: Counter[str] = Counter()
        """Of these, answered 429."""
        self._since = 0.0
        """Unix time of the start."""
        self._known: frozenset[str] = frozenset()
        self._wake: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to listen; HAProxy connects within a second or two.

        Raises:
            OSError: the folder of the edge is not there.
        """
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(self._path))
            self._path.chmod(0o600)
            listener.listen(8)
            listener.setblocking(False)
        except OSError:
            listener.close()
            raise
        self._wake, waker = socket.socketpair()
        self._since = time.time()
        self._thread = threading.Thread(
            target=self._run, args=(listener, waker), name="collector", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; HAProxy keeps what comes meanwhile in its ring."""
        if self._thread and self._wake:
            self._wake.close()
            self._thread.join()
            self._thread = None
            self._path.unlink(missing_ok=True)

    def only(self, functions: Collection[str]) -> None:
        """Counts these functions (``name.namespace``) from now on and forgets all others."""
        with self.lock:
            self._known = frozenset(functions)
            self.tally.only(self._known)
            self._recent.only(self._known)
            for gone in self._requests.keys() - self._known:
                del self._requests[gone]
                self._refused.pop(gone, None)

    def requests(self, functions: Iterable[str]) -> dict[str, tuple[int, int]]:
        """How many requests of these have ended since we listen, and how many of them by 429."""
        with self.lock:
            return {each: (self._requests[each], self._refused[each]) for each in functions}

    def counts(self) -> dict[str, int]:
        """Requests of each function that is counted, as far as ``tally`` still has them."""
        with self.lock:
            return {function: self.tally.requests(function) for function in self._known}

    def begin_window(
        self,
        functions: Iterable[str],
        since: float = 0.0,
        before: Receipt | None = None,
    ) -> Window:
        """Starts to watch the requests of ``functions`` (``name.namespace``), from now or from
        ``since`` on; ``before``: what was counted until then."""
        none = Receipt(requests=0, failed=0, longest_gap_ms=0.0)
        window = Window(self, functions, since or time.time(), before or none)
        with self.lock:
            self.windows.add(window)
        return window

    def recent(self, functions: Iterable[str]) -> dict[str, Traffic]:
        """How these answered in the last minute."""
        with self.lock:
            return {function: self._recent.traffic(function) for function in functions}

    def watch(self, functions: Iterable[str], timed_from: float) -> Since:
        """Starts to note how these answer, until ``forget``; times from ``timed_from`` on."""
        since = Since(functions, timed_from)
        with self.lock:
            self.windows.add(since)
        return since

    def restart(self, since: Since, functions: Iterable[str]) -> None:
        with self.lock:
            since.restart(functions)

    def answered(self, since: Since) -> dict[str, Traffic]:
        with self.lock:
            return {function: since.traffic(function) for function in since.functions}

    def forget(self, since: Since) -> None:
        with self.lock:
            self.windows.discard(since)

    def lose(self, counts: Mapping[str, int]) -> None:
        """Counts requests that nobody logs: of each function, those that a killed edge had."""
        with self.lock:
            for function, count in counts.items():
                if function in self._known:
                    self.tally.lose(function, count)
                for window in self.windows:
                    if isinstance(window, Window) and function in window.functions:
                        window.requests += count
                        window.failed += count

    # The thread.

    def _run(self, listener: socket.socket, waker: socket.socket) -> None:
        with selectors.DefaultSelector() as selector, listener, waker:
            selector.register(listener, selectors.EVENT_READ)
            selector.register(waker, selectors.EVENT_READ)
            open_: list[_Connection] = []
            stopping = False
            while not stopping:
                for key, _ in selector.select():
                    if key.fileobj is waker:
                        stopping = True
                    elif key.fileobj is listener:
                        with contextlib.suppress(OSError):
                            sock, _ = listener.accept()
                            sock.setblocking(False)
                            connection = _Connection(sock)
                            open_.append(connection)
                            selector.register(sock, selectors.EVENT_READ, connection)
                    elif not self._receive(key.data):
                        selector.unregister(key.data.socket)
                        key.data.socket.close()
                        open_.remove(key.data)
            for connection in open_:
                connection.socket.close()

    def _receive(self, connection: _Connection) -> bool:
        """Reads what there is; False at the end of the connection."""
        try:
            data = connection.socket.recv(1 << 18)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data:
            return False
        self._since = min(self._since, time.time())  # a clock may be set back
        lines = (connection.rest + data).split(b"\n")
        connection.rest = lines.pop()[-_MAX_LINE:]
        with self.lock:
            for each in lines:
                if each and not each.startswith(b"- "):
                    self._count(each.decode("ascii", "replace"))
        return True

    def _count(self, text: str) -> None:
        try:
            line = Line.parse(text)
        except (ValueError, IndexError):
            return  # torn where the ring overflowed
        if line.function in self._known:
            self.tally.add(line.function, code(line.code), line.seconds)
            if line.arrived + line.seconds >= self._since:  # what the ring kept is no load of now
                self._requests[line.function] += 1
                self._refused[line.function] += line.code == 429
            self._recent.add(line)
        for window in self.windows:
            if line.function in window.functions:
                window.add(line)

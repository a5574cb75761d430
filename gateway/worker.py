"""gunicorn's worker with threads, without the waits that a client can draw out as it likes.

gunicorn gives a connection a thread at its first byte, then reads what is left of a request's body
with a patience that each byte renews, and closes connections in the loop that accepts them: a few
clients that send little could stop everything. Here a thread begins with a whole head, and the
loop, which never waits, reads what a client still sends after its answer.

Made for gunicorn 27, whose workers have no interface for this.
"""

from __future__ import annotations

import inspect
import io
import os
import select
import socket
import struct
import time
from collections import deque
from contextlib import suppress
from functools import partial
from pathlib import Path
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any

from gunicorn.http import get_parser
from gunicorn.workers.gthread import ThreadWorker

from gateway.detach import Detached

STALL_SECONDS = 60
"""A client that neither sends nor takes anything for so long in a request is dropped. The edge has
the same patience."""
HEAD_SECONDS = 30.0
"""From a connection's begin, or a request's first byte, to the end of the request's head."""
HEAD_LIMIT = 2**16
LINGER_SECONDS = 5.0
"""For a client to end what it sends and read its answer: one that is cut off may lose it."""
READ = 2**14
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """A connection waits in the loop for a head, is answered by a thread, leaves by the loop.

    An answer may leave its thread (``Detached``): then the loop hands the connection over, and gets
    it back in its end. It counts as ours all the time, so that a stop waits for it.

    Its listening sockets are shared with the worker that replaces it. git's hooks come by one of
    its own, also while it stops: their pushes are known to nobody else.
    """

    pending_conns: deque[Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._leaving: deque[Any] = deque()
        self._hooks: socket.socket | None = None
        self.parting = False
        """Whether we will be asked to end soon: what may last for ever ends now."""

    def listen_for_hooks(self, folder: Path) -> Path:
        """Returns where; to be called before ``run``."""
        for left in folder.glob("hooks-*"):  # of one that was killed
            if not Path("/proc", left.name.removeprefix("hooks-")).exists():
                left.unlink(missing_ok=True)
        path = folder / f"hooks-{os.getpid()}"
        path.unlink(missing_ok=True)
        self._hooks = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._hooks.bind(str(path))
        path.chmod(0o600)
        self._hooks.listen()
        self.poller.register(self._hooks, EVENT_READ, self.accept)
        return path

    def run(self) -> None:
        try:
            super().run()
        finally:
            if self._hooks:
                Path(self._hooks.getsockname()).unlink(missing_ok=True)
                self._hooks.close()

    def handle_usr1(self, sig: int, frame: Any) -> None:  # noqa: ARG002 - gunicorn's signature
        self.parting = True

    def enqueue_req(self, conn: Any) -> None:
        """A connection is new, or was idle, or its next request came together with the last."""
        if conn.parser is None:
            conn.parser = get_parser(self.cfg, conn.sock, conn.client)
            limit = struct.pack("@ll", STALL_SECONDS, 0)  # struct timeval
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                conn.sock.setsockopt(socket.SOL_SOCKET, option, limit)
        conn.sock.setblocking(False)
        awaited = _awaited(conn)
        if not awaited:
            conn.data_ready = True  # else the thread would wait for more
            super().enqueue_req(conn)
            return
        conn.timeout = time.monotonic() + HEAD_SECONDS
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, awaited, partial(self.on_pending_socket_readable, conn))

    def on_pending_socket_readable(self, conn: Any, client: Any) -> None:
        awaited = _awaited(conn)
        if awaited:
            self.poller.modify(client, awaited, partial(self.on_pending_socket_readable, conn))
        else:
            super().on_pending_socket_readable(conn, client)

    def handle_request(self, req: Any, conn: Any) -> bool:
        """In a thread: answers; True if the connection may have another request."""
        if req._expected_100_continue:
            # gunicorn would say it before anybody has looked at the request.
            req._expected_100_continue = False
            req.body.invite = partial(conn.sock.sendall, CONTINUE)
        ends = req.should_close
        req.should_close = lambda: ends() or _unread(req.body)
        try:
            return bool(super().handle_request(req, conn))
        except Detached as left:
            conn.take = left.take
            return False
        except BlockingIOError:  # it did not take the answer for STALL_SECONDS
            return False

    def finish_request(self, conn: Any, fs: Any) -> None:
        if fs.exception() is None and fs.result():
            super().finish_request(conn, fs)
        elif take := getattr(conn, "take", None):
            take(conn.sock, partial(self.method_queue.defer, self._leave, conn))
        else:
            self._leave(conn)

    def _leave(self, conn: Any) -> None:
        conn.timeout = time.monotonic() + LINGER_SECONDS
        self._leaving.append(conn)
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
            self.poller.register(conn.sock, EVENT_READ, partial(self._drop, conn))
        except (OSError, ValueError):  # the other side is gone, or it is closed already
            self._close(conn)

    def _drop(self, conn: Any, client: Any) -> None:
        """Reads what nobody wants any more."""
        try:
            ended = not client.recv(READ)
        except BlockingIOError:
            return
        except OSError:
            ended = True
        if ended:
            self.poller.unregister(client)
            self._close(conn)

    def _close(self, conn: Any) -> None:
        self._leaving.remove(conn)
        self.nr_conns -= 1
        conn.close()

    def murder_pending(self) -> None:
        super().murder_pending()
        while self._leaving and self._leaving[0].timeout < time.monotonic():
            self.poller.unregister(self._leaving[0].sock)
            self._close(self._leaving[0])

    def _cap_keepalive(self, deadline: float) -> None:
        """At a stop, who has sent nothing does not keep us any more than who had an answer. Who has
        begun a request has its time."""
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            if not conn.parser.unreader.buf.getvalue():
                conn.timeout = min(conn.timeout, deadline)
        self.pending_conns = deque(sorted(self.pending_conns, key=lambda conn: conn.timeout))


def _awaited(conn: Any) -> int:
    """Reads what is there; says for which event a thread would have to wait now, or 0."""
    got: io.BytesIO = conn.parser.unreader.buf
    got.seek(0, io.SEEK_END)
    try:
        data = conn.sock.recv(READ)
        ended = not data
        got.write(data)
    except BlockingIOError:
        ended = False
    except OSError:
        ended = True
    head = got.getvalue()
    # A line may not end in LF alone: that is for gunicorn to say.
    if not ended and b"\r\n\r\n" not in head and b"\n\n" not in head:
        if len(head) <= HEAD_LIMIT:
            return EVENT_READ
        with suppress(OSError):  # it went away just now
            conn.sock.shutdown(socket.SHUT_RD)  # gunicorn gets no more than this to make sense of
    # Answers that pile up, as nobody reads them, must not hold threads either.
    room = select.poll()
    room.register(conn.sock, select.POLLOUT)
    return 0 if room.poll(0) else EVENT_WRITE


def _unread(body: Any) -> bool:
    """Whether some of a request's body was not read: nobody knows where the next one begins."""
    chunks = getattr(body.reader, "parser", None)
    return bool(
        body.failed
        or getattr(body.reader, "length", 0)
        or (chunks is not None and inspect.getgeneratorstate(chunks) != inspect.GEN_CLOSED)
    )

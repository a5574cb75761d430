"""``git http-backend`` as a CGI process (RFC 3875): bytes flow both ways and none are kept.

Whatever happens to the client, what it sent in full is stored: the process is left to finish, its
output dropped, for a bounded time. It runs in a session of its own, so that it can be ended with
all it started.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from core import logging
from core.errors import SlipwayError
from gateway.streams import CHUNK, Pump, has_body

HEAD_LIMIT = 16384
FINISH_SECONDS = 600.0
"""Time that git has to finish after its client went away."""
EXIT_SECONDS = 10.0
"""Time that it has to exit after its last word."""

log = logging.get()


class Backend:
    """One request to git.

    Args:
        environ: the WSGI request; its body goes to git.
        env: the process's whole environment.
        ended: called once when the process is over.
        keep: whether it is left to finish when the client goes away.
    """

    def __init__(
        self,
        environ: dict[str, Any],
        env: dict[str, str],
        cwd: Path,
        *,
        ended: Callable[[], None],
        keep: bool,
    ) -> None:
        self._ended = ended
        self._keep = keep
        self._complete = False
        self._pump: Pump | None = None
        with_body = has_body(environ)
        try:
            self._process = subprocess.Popen(
                ["git", "http-backend"],
                cwd=cwd,
                env=env,
                stdin=subprocess.PIPE if with_body else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            raise SlipwayError(f"git could not be run: {error}; is it installed?") from error
        assert self._process.stdout is not None
        self._output = self._process.stdout
        stdin = self._process.stdin
        if stdin is not None:
            # Without CONTENT_LENGTH git reads to the end: a body that breaks off is a pack that
            # ends early, which git refuses.
            self._pump = Pump(environ, stdin.write, lambda _: stdin.close())

    def head(self) -> tuple[int, list[tuple[str, str]], bytes]:
        """(status, headers, the first bytes of the body) as git sends them.

        Raises:
            SlipwayError: git ended without an answer.
        """
        got = b""
        while b"\r\n\r\n" not in got:
            more = os.read(self._output.fileno(), CHUNK)
            if not more or len(got) > HEAD_LIMIT:
                raise SlipwayError("git gave no answer: the gateway's log has its message")
            got += more
        head, _, body = got.partition(b"\r\n\r\n")
        status = 200
        headers = []
        for line in head.decode("latin-1").split("\r\n"):
            name, _, value = line.partition(":")
            if name.lower() == "status":
                status = int(value.split()[0])
            else:
                headers.append((name, value.strip()))
        return status, headers, body

    def body(self, first: bytes) -> Iterator[bytes]:
        """The rest of the answer, each read passed on at once."""
        if first:
            yield first
        while data := os.read(self._output.fileno(), CHUNK):
            yield data
        self._complete = True

    def close(self) -> None:
        """Ends this request's part; a process that still has something to store goes on alone."""
        if self._pump:
            self._pump.end()
        if self._complete:
            self._see_off(EXIT_SECONDS)
        elif not self._keep:
            self._see_off(0.0)
        else:
            threading.Thread(
                target=self._see_off, args=[FINISH_SECONDS], name="see-off", daemon=True
            ).start()

    def _see_off(self, seconds: float) -> None:
        """Waits for the process, dropping what it still says; kills it after so many seconds."""
        killer = threading.Timer(seconds, self._kill)
        killer.daemon = True
        killer.start()
        try:
            with self._output:
                while os.read(self._output.fileno(), CHUNK):
                    pass
            self._process.wait()
        finally:
            killer.cancel()
            self._ended()

    def _kill(self) -> None:
        if self._keep:
            log.warning("git_killed", reason="it did not end in time")
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

"""Serves one request that nobody made, before it is known for which function.

What a process has run once is in its memory: what a forked function would else do first, and
slowly, is done here, with a handler of ours on a socket of ours. Nothing is left but that memory.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable
from typing import Any

from slipway_watchdog.options import Options
from slipway_watchdog.watchdog import Invoke, Watchdog


def rehearse(adapt: Callable[[Callable[..., Any]], Invoke]) -> None:
    """``adapt``: the template's own, as in ``loader.start``. For the main thread."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")  # a name of the kernel's choice, on no file system
        listener.listen()
        listener.setblocking(False)
        server = Watchdog(Options(suppress_lock=True), adapt(lambda *_: "ok"))
        client = threading.Thread(target=_ask, args=[listener.getsockname()])
        client.start()
        server.run(listener)
        client.join()
        server.close()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    asyncio.set_event_loop_policy(None)  # no loop was ever set
    tempfile.tempdir = None


def _ask(address: bytes) -> None:
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(address)
            client.sendall(b"GET / HTTP/1.1\r\nHost: nobody\r\nConnection: close\r\n\r\n")
            while client.recv(65536):
                pass
    finally:
        os.kill(os.getpid(), signal.SIGTERM)

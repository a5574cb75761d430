"""Connections to functions."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.http import Connection
from tests.waiting import until


@pytest.fixture
def listener(short_tmp: Path) -> Iterator[socket.socket]:
    """A function whose queue has room for one connection beside the one that is taken next."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(short_tmp / "f.sock"))
        listening.listen(1)
        listening.settimeout(30)
        yield listening


def connect(listener: socket.socket, seconds: float) -> Connection:
    connection = Connection(f"unix@{listener.getsockname()}", seconds)
    connection.connect()
    return connection


def test_who_finds_the_queue_full_waits_for_a_place(listener: socket.socket) -> None:
    made: list[Connection] = []
    callers = [
        threading.Thread(target=lambda: made.append(connect(listener, 20))) for _ in range(20)
    ]
    for caller in callers:
        caller.start()
    until(lambda: len(made) == 2)
    time.sleep(0.1)
    assert len(made) == 2, "the queue is full"
    taken = [listener.accept()[0] for _ in callers]
    for caller in callers:
        caller.join()
    assert len(made) == len(taken) == 20
    for each in (*made, *taken):
        each.close()


def test_and_no_longer_than_it_may(listener: socket.socket) -> None:
    kept = [connect(listener, 1) for _ in range(2)]
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match="its queue of connections is full"):
        connect(listener, 0.3)
    assert time.monotonic() - begun >= 0.3
    for each in kept:
        each.close()


def test_a_socket_that_nobody_listens_on_refuses_at_once(listener: socket.socket) -> None:
    path = listener.getsockname()
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        Connection(f"unix@{path}", 20).connect()

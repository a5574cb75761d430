"""What a container writes, as the engine's frames of it are read."""

from __future__ import annotations

import socket
from pathlib import Path

import msgspec
import pytest

from core.logfiles import LogWriter, read_lines
from core.models import FunctionLogLine
from runtime.providers.docker.follow import Followed, last_time

FIRST, SECOND = "2026-01-02T03:04:05.000000001Z", "2026-01-02T03:04:05.000000002Z"


def frame(text: str) -> bytes:
    return b"\x01\0\0\0" + len(text).to_bytes(4) + text.encode()


def test_what_the_engine_says_itself_is_no_output(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours, engine = socket.socketpair()
    ours.setblocking(False)
    followed = Followed("box-1", LogWriter(tmp_path, 2**20), ours, "")
    engine.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + frame(f"{FIRST} one\n") + frame(f"{SECOND} two\n"))
    engine.sendall(frame("Error grabbing logs: unexpected EOF\n"))
    engine.close()
    followed.read()
    assert followed.ended
    assert followed.last == SECOND, "where the next request goes on from"
    followed.close()
    lines = [msgspec.json.decode(line, type=FunctionLogLine) for line in read_lines(tmp_path)]
    assert [line.text for line in lines] == ["one", "two"]
    assert last_time(tmp_path, "box-1") == SECOND
    assert "unexpected EOF" in caplog.text

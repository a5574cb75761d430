"""Answers of servers that send a byte now and then."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import requests

from core import web
from core.errors import TooLarge, Unavailable
from forges import api
from gateway import policysources

SILENCE = 0.5
"""Seconds; what drips is never silent for that long."""
FOREVER = 60.0

Serve = Callable[[bytes, bytes], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Gives the URL of what sends the first bytes at once, and the others one by one for ever."""
    ended = threading.Event()
    listeners = []

    def answer(client: socket.socket, head: bytes, drops: bytes) -> None:
        with client:
            client.recv(2**16)
            client.sendall(head)
            while drops and not ended.wait(0.05):
                try:
                    client.sendall(drops)
                except OSError:
                    return

    def begin(head: bytes, drops: bytes) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def run() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(client, head, drops), daemon=True).start()

        threading.Thread(target=run, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/"

    yield begin
    ended.set()
    for each in listeners:
        each.shutdown(socket.SHUT_RDWR)
        each.close()


def get(url: str, limit: int = 100, seconds: float = SILENCE) -> bytes:
    with (
        web.session() as session,
        session.get(url, stream=True, timeout=(FOREVER, seconds)) as answer,
    ):
        return web.whole(answer, limit, seconds)


@pytest.mark.parametrize(
    ("head", "drops"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50;", b"x"),
    ],
)
def test_what_drips_is_cut_off(serve: Serve, head: bytes, drops: bytes) -> None:
    url, begun = serve(head, drops), time.monotonic()
    with pytest.raises(requests.RequestException):
        get(url)
    assert time.monotonic() - begun < 2 * SILENCE + 3


def test_what_is_in_time_is_read(serve: Serve) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    assert get(serve(head + b"hello", b""), seconds=FOREVER) == b"hello"
    with pytest.raises(TooLarge):
        get(serve(head + b"hello", b""), limit=4, seconds=FOREVER)
    with pytest.raises(requests.RequestException):
        get(serve(head + b"hell", b""), seconds=FOREVER)


@pytest.mark.parametrize(
    ("head", "drops"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n", b" "),
    ],
)
def test_forges_and_policies_that_drip_are_told_as_away(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, head: bytes, drops: bytes
) -> None:
    for module in (api, policysources):
        for name in ("READ_SECONDS", "WHOLE_SECONDS"):
            monkeypatch.setattr(module, name, SILENCE)
    url = serve(head, drops)
    with pytest.raises(api.Later, match=r"too slowly|does not answer"):
        api.Api(url.rstrip("/"), "GitHub").ask("GET", "/")
    with pytest.raises(Unavailable, match=r"too slowly|does not answer"):
        policysources.Url(url).read("")


def test_proxies_that_speak_socks_go_on_as_requests_has_them() -> None:
    with web.session() as session, pytest.raises(requests.ConnectionError):
        session.get("http://forge.example/", proxies={"http": "socks5h://127.0.0.1:1"}, timeout=5)

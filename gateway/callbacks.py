"""Posts the answer of an asynchronous call to the URL that its caller named.

The caller is anybody, so the URL may not make us call an inside address: what its name resolves to
is checked and then connected to, no redirect is followed, no proxy asked, and nothing of the answer
is read but its status. URLs of our own functions go through the edge, whatever host names us.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Sequence
from contextlib import closing
from ipaddress import ip_network
from typing import IO
from urllib.parse import SplitResult, urlsplit

from core.addresses import outside_addresses
from core.errors import Unavailable
from core.http import Answer, deadline
from core.settings import Settings
from gateway.bodies import Body

CONNECT_SECONDS = 5.0
SECONDS = 10.0
"""The longest that a callback may take once its name is resolved: it holds one of few threads."""
PACE = 2**20
"""Bytes of an answer for each of which it has a second more."""
MOST_ADDRESSES = 3
"""Of a name, that are tried."""
GATEWAYS = ("gateway", "gateway.openfaas", "gateway.openfaas.svc.cluster.local")
"""Names of the gateway in OpenFaaS, which functions' authors write into callbacks."""
CHUNK = 2**16
"""Bytes that are read and sent at once."""

_PATHS = ("/function/", "/async-function/")


def is_ours(parts: SplitResult, settings: Settings) -> bool:
    """Whether it is the URL of a function here: by a name of OpenFaaS' gateway, or by ours."""
    host = parts.hostname or ""
    if settings.domain and host.endswith(f".{settings.domain}"):
        return True
    if not parts.path.startswith(_PATHS):
        return False
    bridge = ip_network(settings.functions_subnet)[1]
    ours = {urlsplit(url).netloc.lower() for url in (settings.user_url, settings.base_url)}
    return host in GATEWAYS or parts.netloc.lower() in {*ours, f"{bridge}:{settings.port}"}


def post(url: str, headers: Sequence[tuple[str, str]], body: Body, settings: Settings) -> int:
    """Returns the status of what answered.

    Raises:
        NotAllowed: it is an inside address.
        NotFound: the body is gone.
        Unavailable: nothing answered in time.
    """
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        if is_ours(parts, settings):
            to = urlsplit(settings.base_url)
            allowed = [to.hostname or ""]
        else:
            to = parts
            port = parts.port or {"http": 80, "https": 443}[parts.scheme]
            allowed = outside_addresses(
                parts.hostname or "", port, allow_hosts=settings.allow_hosts
            )
        seconds = SECONDS + body.length / PACE
        until = time.monotonic() + seconds
        connection = connect(to, allowed[:MOST_ADDRESSES], CONNECT_SECONDS)
        left = until - time.monotonic()
        with closing(connection), deadline(connection.sock, left), body.open() as opened:
            connection.sock.settimeout(seconds)
            told = [("Host", parts.netloc), *headers]
            send(connection, target, told, opened, body.length)
            with closing(connection.getresponse()) as answer:
                return answer.status
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise Unavailable(f"no answer from {parts.hostname}: {type(error).__name__}") from error


def connect(
    to: SplitResult, addresses: Sequence[str], seconds: float
) -> http.client.HTTPConnection:
    """A connection to the first of these addresses that takes one; a certificate must be made out
    for the name in ``to``.

    Raises:
        OSError: none does within so many seconds, which all of them share.
    """
    port = to.port or {"http": 80, "https": 443}[to.scheme]
    until = time.monotonic() + seconds
    failed: OSError | None = None
    for tried, address in enumerate(addresses):
        share = (until - time.monotonic()) / (len(addresses) - tried)
        try:
            sock = socket.create_connection((address, port), max(share, 0.1))
        except OSError as error:
            failed = error
            continue
        try:
            if to.scheme == "https":
                sock.settimeout(max(until - time.monotonic(), 0.1))  # of the whole handshake
                sock = ssl.create_default_context().wrap_socket(sock, server_hostname=to.hostname)
        except OSError:
            sock.close()
            raise
        connection = http.client.HTTPConnection(to.hostname or "", port)
        connection.response_class = Answer
        connection.sock = sock
        return connection
    raise failed or OSError("it has no address")


def send(
    connection: http.client.HTTPConnection,
    target: str,
    headers: Sequence[tuple[str, str]],
    body: IO[bytes],
    length: int,
) -> None:
    """Sends a POST. Raises OSError, ValueError (a header that cannot be one) or HTTPException."""
    connection.putrequest("POST", target, skip_host=True, skip_accept_encoding=True)
    for name, value in headers:
        connection.putheader(name, value)
    connection.putheader("Content-Length", str(length))
    connection.putheader("Connection", "close")
    connection.endheaders(body.read(CHUNK))  # in one packet with them, where it is small
    while piece := body.read(CHUNK):
        connection.send(piece)

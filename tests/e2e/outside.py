"""The world beyond the host, one cable away: a network namespace with addresses of every kind.

The host has a route to all of them, so that whatever of it a function cannot reach is kept from it
by us. Nothing leaves the machine: even the clouds' metadata address is in the namespace.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator

from pyroute2 import netns
from pyroute2.iproute.linux import IPRoute

from core.sandbox.netns import in_namespace

PUBLIC = "198.51.100.10"
"""For documentation (RFC 5737): to a firewall it is an address like any on the internet."""
FORBIDDEN = (
    "10.94.0.10",  # private (RFC 1918), three times
    "172.30.94.10",
    "192.168.94.10",
    "100.64.94.10",  # carrier-grade NAT
    "169.254.169.254",  # the clouds' metadata
)
HOST = "198.51.100.9"
"""The host's own end of the cable."""
PREFIX = 29
"""No wider than the two need: some networks use the documentation ranges."""


class Outside:
    """Listeners on port 80, which answer with the address they were asked from."""

    def __init__(self, namespace: int) -> None:
        self.seen: list[tuple[str, str]] = []
        """(the address that was asked, who asked)"""
        self._sockets: list[socket.socket] = []
        in_namespace(namespace, self._listen)
        self._threads = [
            threading.Thread(target=self._serve, args=[listener]) for listener in self._sockets
        ]
        for thread in self._threads:
            thread.start()

    def _listen(self) -> None:
        self._sockets = [socket.create_server((each, 80)) for each in (PUBLIC, *FORBIDDEN)]

    def _serve(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # shut down
            while True:
                connection, peer = listener.accept()
                with connection, contextlib.suppress(OSError):
                    self.seen.append((connection.getsockname()[0], peer[0]))
                    connection.sendall(peer[0].encode())

    def close(self) -> None:
        for listener in self._sockets:
            listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for listener in self._sockets:
            listener.close()


@contextlib.contextmanager
def outside() -> Iterator[Outside]:
    """Makes namespace, cable, addresses and routes; takes all of it away again."""
    name, cable = f"slwe2e{os.getpid()}", f"slwe{os.getpid() % 100_000}"
    netns.create(name)
    namespace = os.open(f"/var/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    ip = IPRoute()
    try:
        ip.link("add", ifname=cable, kind="veth", peer={"ifname": "eth0", "net_ns_fd": namespace})
        index = ip.link_lookup(ifname=cable)[0]
        ip.addr("add", index=index, address=HOST, prefixlen=PREFIX)
        ip.link("set", index=index, state="up")
        in_namespace(namespace, _configure)
        for address in FORBIDDEN:
            ip.route("add", dst=f"{address}/32", oif=index, prefsrc=HOST)
        world = Outside(namespace)
        try:
            yield world
        finally:
            world.close()
    finally:
        for index in ip.link_lookup(ifname=cable):
            ip.link("del", index=index)
        ip.close()
        os.close(namespace)
        netns.remove(name)


def _configure() -> None:
    with IPRoute() as there:
        link = there.link_lookup(ifname="eth0")[0]
        there.addr("add", index=link, address=PUBLIC, prefixlen=PREFIX)
        for address in FORBIDDEN:
            there.addr("add", index=link, address=address, prefixlen=32)
        there.link("set", index=link, state="up")

"""Addresses that users may make us call, and those that they may not.

A clone URL or a callback that names an inside host (loopback, private, link-local, a cloud's
metadata service) would let a stranger talk to it through us (server-side request forgery).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection

from core.errors import NotAllowed, Unavailable


def is_inside(address: str) -> bool:
    """Tells whether an IP address is anything but a public one.

    Raises:
        ValueError: it is no IP address.
    """
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if embedded is None and ip in _NAT64:
            embedded = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if embedded is not None:
            return is_inside(str(embedded))
        if ip.is_site_local or any(ip in each for each in _LEADING_IN):
            return True
    return not ip.is_global or ip.is_multicast


def outside_addresses(host: str, port: int, *, allow_hosts: Collection[str] = ()) -> list[str]:
    """Resolves ``host`` and returns its addresses, to be connected to instead of the name.

    Connecting by the name would ask the resolver a second time, which may then say otherwise.

    Raises:
        NotAllowed: one of them is an inside address and ``allow_hosts`` does not name the host.
        Unavailable: the name does not resolve.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        told = f"the host {host[:253]!r} cannot be resolved: check its name, or the resolver"
        raise Unavailable(told) from error
    addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
    if host.lower().rstrip(".") not in allow_hosts:
        for address in addresses:
            if is_inside(address):
                raise NotAllowed(
                    f"the host {host[:253]!r} has the inside address {address}, which is not to be "
                    "reached from here: the administrator can add it to SLIPWAY_ALLOW_HOSTS"
                )
    return addresses


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
_LEADING_IN = [
    ipaddress.IPv6Network("::/96"),  # IPv4-compatible (RFC 4291 §2.5.5.1)
    ipaddress.IPv6Network("::ffff:0:0:0/96"),  # IPv4-translated (RFC 2765)
    ipaddress.IPv6Network("64:ff9b:1::/48"),  # a network's own NAT64 (RFC 8215)
]

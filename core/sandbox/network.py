"""The functions' own network: a bridge, one address a cell, NAT to the outside.

    cell ── veth (isolated port) ── bridge slipway<mark> ── forward + NAT ── the outside world
                                        │ first address of the subnet
                                        └ one port: the edge's listener for functions

From a cell one reaches: the resolvers of resolv.conf (port 53), the edge's port on the bridge, and
whatever is outside the private, link-local and multicast ranges. Not the host on any address, not
another cell (isolated ports never see each other), not the metadata address. There is no IPv6 in
cells. Only root can make this; elsewhere cells have nothing but their own loopback.

``setup`` makes it and may be repeated; ``teardown`` removes every trace. A cell's part of it goes
away with the cell's network namespace, however the cell ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import logging
import os
import random
import threading
from collections.abc import Callable, Iterable, Sequence
from ipaddress import AddressValueError, IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any

from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from core.errors import ConfigError, Unavailable
from core.sandbox import nft
from core.settings import Settings

log = logging.getLogger(__name__)

DENIED = tuple(
    IPv4Network(each)
    for each in (
        "0.0.0.0/8",  # this host, RFC 1122
        "10.0.0.0/8",  # private, RFC 1918
        "100.64.0.0/10",  # carrier-grade NAT, RFC 6598
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local and the clouds' metadata, RFC 3927
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments, RFC 6890
        "192.168.0.0/16",  # private
        "224.0.0.0/3",  # multicast, reserved and broadcast
    )
)
"""Where no cell may go. The documentation ranges are not in it: some networks use them."""

_HOOK_INPUT, _HOOK_FORWARD = 1, 2
_POLICY_DROP = 0
_CLONE_NEWNET = 0x40000000
_READY = "ready"
"""A chain without rules, added last: a table that has it is whole."""

_libc = ctypes.CDLL(None, use_errno=True)


class Network:
    """One installation's network; cheap to make, changes nothing until ``setup``."""

    def __init__(self, mark: str, subnet: str, port: int) -> None:
        """``mark``: at most 6 characters that tell installations apart. ``port``: the edge's; 0:
        there is none, and nothing of the host is open to functions.

        Raises:
            ConfigError: the subnet is none, or too small.
        """
        try:
            self.subnet = IPv4Network(subnet)
        except ValueError as error:
            raise ConfigError(
                f"SLIPWAY_SUBNET={subnet!r} is no IPv4 network ({error}): write 10.99.0.0/16"
            ) from error
        if not 16 <= self.subnet.prefixlen <= 28:
            raise ConfigError(f"SLIPWAY_SUBNET={subnet}: take a network between /16 and /28")
        self.mark = mark
        self.port = port
        self.bridge = f"slipway{mark}"
        self.address = self.subnet[1]
        """The bridge's own address: where functions reach the edge, on ``port``."""
        self.nameservers = nameservers()

    @classmethod
    def from_settings(cls, settings: Settings) -> Network:
        """The network of this installation, the same in every process of it."""
        port = 0 if settings.edge == "none" else settings.port
        return cls(settings.mark, settings.functions_subnet, port)

    def setup(self) -> None:
        """Makes bridge, rules and forwarding, or repairs them.

        Raises:
            Unavailable: not permitted here, the subnet is taken, or the kernel lacks a part.
        """
        if os.geteuid() != 0:
            raise Unavailable("only root can make the functions' network")
        try:
            with IPRoute() as ip:
                self._refuse_taken_subnet(ip)
                uplinks, mtu = _uplinks(ip, self.bridge)
                self._make_bridge(ip, mtu)
        except (OSError, NetlinkError) as error:
            raise Unavailable(f"the functions' network cannot be made: {error}") from error
        with nft.Firewall() as firewall:
            self._make_rules(firewall, uplinks)
            self._open_foreign(firewall)
        for name in (self.bridge, *uplinks):
            _sysctl(f"ipv4/conf/{name}/forwarding", "1")

    def teardown(self) -> None:
        """Removes all that ``setup`` made; cells that still run lose their network."""
        if os.geteuid() != 0:
            return
        with nft.Firewall() as firewall:
            self.close_foreign(firewall)
            for table in firewall.tables():
                if table.startswith(f"slipway_{self.mark}_"):
                    firewall.delete_table(table)
            others = any(table.startswith("slipway_") for table in firewall.tables())
        with IPRoute() as ip:
            uplinks, _ = _uplinks(ip, self.bridge)
            for link in ip.get_links():
                name = link.get_attr("IFLA_IFNAME")
                if name == self.bridge or name.startswith(f"sl{self.mark}"):
                    with contextlib.suppress(NetlinkError):  # gone with its cell meanwhile
                        ip.link("del", index=link["index"])
        if not others and not _host_forwards():
            for name in uplinks:
                _sysctl(f"ipv4/conf/{name}/forwarding", "0")

    def available(self) -> bool:
        """Whether ``setup`` was done (by whichever process) and still stands."""
        if os.geteuid() != 0:
            return False
        with contextlib.suppress(OSError, NetlinkError), IPRoute() as ip:
            index = ip.link_lookup(ifname=self.bridge)
            if index:
                addresses = ip.get_addr(index=index[0])
                return any(each.get_attr("IFA_ADDRESS") == str(self.address) for each in addresses)
        return False

    def attach(self, pid: int) -> str:
        """Gives the network namespace of ``pid`` an address; returns it.

        The name of the host's end of the cable carries the address' number, so that the kernel
        itself refuses to give one address twice.

        Raises:
            Unavailable: the process is gone, the network is not there, or all addresses are taken.
        """
        try:
            namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise Unavailable(f"the cell ended before it had a network: {error}") from error
        try:
            with IPRoute() as ip:
                bridge = ip.link_lookup(ifname=self.bridge)
                if not bridge:
                    raise Unavailable(
                        "the functions' network is gone: restart Slipway, which makes it"
                    )
                number = self._plug(ip, bridge[0], namespace)
            address = self.subnet[number]
            in_namespace(namespace, lambda: self._configure(address))
        except (OSError, NetlinkError) as error:
            raise Unavailable(f"a cell got no network: {error}") from error
        finally:
            os.close(namespace)
        return str(address)

    def _plug(self, ip: IPRoute, bridge: int, namespace: int) -> int:
        """Makes the cable from a port of the bridge into the namespace; returns the number."""
        last = min(self.subnet.num_addresses, 0x10000) - 2
        free = range(2, last + 1)
        for number in random.sample(free, len(free)) if len(free) < 256 else _draws(free):
            name = f"sl{self.mark}{number:x}"
            try:
                ip.link(
                    "add",
                    ifname=name,
                    kind="veth",
                    peer={"ifname": "eth0", "net_ns_fd": namespace},
                )
            except NetlinkError as error:
                if error.code == errno.EEXIST:
                    continue
                raise
            port = ip.link_lookup(ifname=name)[0]
            ip.link("set", index=port, master=bridge)
            # Isolated ports talk to the bridge itself only; set before the port is up.
            ip.link("set", index=port, kind="bridge_slave", isolated=1)
            _sysctl(f"ipv6/conf/{name}/disable_ipv6", "1")
            ip.link("set", index=port, state="up")
            return number
        raise Unavailable(f"all addresses of {self.subnet} are taken: widen SLIPWAY_SUBNET")

    def _configure(self, address: IPv4Address) -> None:
        """Runs inside the cell's network namespace."""
        for each in ("all", "default", "eth0"):
            _sysctl(f"ipv6/conf/{each}/disable_ipv6", "1")
        with IPRoute() as ip:
            link = ip.link_lookup(ifname="eth0")[0]
            ip.addr("add", index=link, address=str(address), prefixlen=self.subnet.prefixlen)
            ip.link("set", index=link, state="up")
            ip.route("add", dst="default", gateway=str(self.address))

    def _refuse_taken_subnet(self, ip: IPRoute) -> None:
        ours = set(ip.link_lookup(ifname=self.bridge))
        for route in ip.get_routes(family=2, table=254):
            text = route.get_attr("RTA_DST")
            if text is None or route.get_attr("RTA_OIF") in ours:
                continue
            taken = IPv4Network((text, route["dst_len"]))
            if taken.overlaps(self.subnet):
                raise Unavailable(
                    f"the functions' network {self.subnet} overlaps {taken}, which this host "
                    "already routes (another Slipway, a VPN): set SLIPWAY_SUBNET to a free one"
                )

    def _make_bridge(self, ip: IPRoute, mtu: int) -> None:
        if not ip.link_lookup(ifname=self.bridge):
            ip.link("add", ifname=self.bridge, kind="bridge")
        index = ip.link_lookup(ifname=self.bridge)[0]
        _sysctl(f"ipv6/conf/{self.bridge}/disable_ipv6", "1")
        own = str(IPv4Interface((self.address, self.subnet.prefixlen)).ip)
        if not any(each.get_attr("IFA_ADDRESS") == own for each in ip.get_addr(index=index)):
            ip.addr("add", index=index, address=own, prefixlen=self.subnet.prefixlen)
        ip.link("set", index=index, state="up", mtu=mtu)

    def _make_rules(self, firewall: nft.Firewall, uplinks: Sequence[str]) -> None:
        """One table, named by what is in it; made whole before an older one goes."""
        rules = list(self._rules([] if _host_forwards() else uplinks))
        digest = hashlib.sha256(repr(rules).encode()).hexdigest()[:8]
        table = f"slipway_{self.mark}_{digest}"
        tables = firewall.tables()
        if table not in tables or _READY not in firewall.chain_names(table):
            if table in tables:
                firewall.delete_table(table)
            firewall.add_table(table)
            for chain, kind, priority in (
                ("input", "filter", -10),
                ("forward", "filter", -10),
                ("postrouting", "nat", 100),
            ):
                firewall.add_chain(table, chain, type=kind, hook=chain, priority=priority, policy=1)
            for chain, parts in rules:
                firewall.add_rule(table, chain, *parts)
            firewall.add_chain(table, _READY)
        for old in tables:
            if old.startswith(f"slipway_{self.mark}_") and old != table:
                firewall.delete_table(old)

    def _rules(self, guarded: Sequence[str]) -> Iterable[tuple[str, list[nft.Rule]]]:
        """(chain, parts) in order. ``guarded``: interfaces that forward only because of us."""
        inside, outside = nft.comes_in(self.bridge), nft.goes_out(self.bridge)
        edge = nft.destination(IPv4Network(self.address))
        if self.port:
            yield "input", [inside, edge, nft.port("tcp", self.port), nft.ACCEPT]
        for chain in ("input", "forward"):
            for server in self.nameservers:
                for protocol in nft.PROTOCOLS:
                    there = nft.destination(IPv4Network(server))
                    yield chain, [inside, there, nft.port(protocol, 53), nft.ACCEPT]
        yield "input", [inside, nft.REFUSE]
        yield "forward", [inside, outside, nft.DROP]
        for network in DENIED:
            yield "forward", [inside, nft.destination(network), nft.REFUSE]
        yield "forward", [inside, nft.ACCEPT]
        yield "forward", [outside, nft.answers(), nft.ACCEPT]
        yield "forward", [outside, nft.DROP]
        for name in guarded:
            # Our forwarding must not make the host a router for its neighbours.
            yield (
                "forward",
                [nft.comes_in(name), nft.opens(), nft.not_forwarded_port(), nft.DROP],
            )
        elsewhere = nft.goes_elsewhere(self.bridge)
        yield "postrouting", [nft.source(self.subnet), elsewhere, nft.MASQUERADE]

    def _open_foreign(self, firewall: nft.Firewall) -> None:
        """Lets our traffic through others' chains that drop by default (Docker, ufw).

        An accept in our table does not override a drop in theirs. What may pass was decided in
        ours, which comes first. The rules have the shape that iptables itself would give them.
        """
        for chain in _dropping(firewall):
            table, name = chain["table"], chain["name"]
            if firewall.rules_about(table, name, self.bridge):
                continue
            firewall.insert_rule(table, name, nft.comes_in(self.bridge), nft.ACCEPT)
            if chain["hook"] == _HOOK_FORWARD:
                firewall.insert_rule(table, name, nft.goes_out(self.bridge), nft.ACCEPT)

    def close_foreign(self, firewall: nft.Firewall) -> None:
        """Takes back what ``setup`` put into others' chains."""
        for chain in firewall.chains():
            if chain["table"].startswith(f"slipway_{self.mark}_"):
                continue
            for handle in firewall.rules_about(chain["table"], chain["name"], self.bridge):
                firewall.delete_rule(chain["table"], chain["name"], handle)


def nameservers(paths: Iterable[Path] | None = None) -> tuple[str, ...]:
    """The host's IPv4 resolvers that a cell could reach: not those on the host's loopback.

    systemd-resolved listens on loopback and keeps the real ones in a file of its own.
    """
    known = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
    for path in known if paths is None else paths:
        found = []
        with contextlib.suppress(OSError):
            for line in path.read_text().splitlines():
                words = line.split()
                if len(words) >= 2 and words[0] == "nameserver":
                    with contextlib.suppress(AddressValueError):
                        if not IPv4Address(words[1]).is_loopback:
                            found.append(words[1])
        if found:
            return tuple(found)
    return ()


def _draws(numbers: range) -> Iterable[int]:
    """Some of many numbers, in no order: two processes that draw rarely meet."""
    return (random.choice(numbers) for _ in range(1000))


def _uplinks(ip: IPRoute, bridge: str) -> tuple[list[str], int]:
    """Interfaces towards the outside (a default route, or one to a network that is allowed), and
    the smallest MTU among them."""
    names, mtu = set(), 1500
    for route in ip.get_routes(family=2, table=254):
        text, index = route.get_attr("RTA_DST"), route.get_attr("RTA_OIF")
        if index is None:
            continue
        if text is not None:
            there = IPv4Network((text, route["dst_len"]))
            if any(there.subnet_of(each) for each in DENIED):
                continue
        link = ip.get_links(index)[0]
        name = link.get_attr("IFLA_IFNAME")
        if name not in ("lo", bridge):
            names.add(name)
            mtu = min(mtu, link.get_attr("IFLA_MTU"))
    return sorted(names), mtu


def _dropping(firewall: nft.Firewall) -> list[dict[str, Any]]:
    """Others' chains that would drop what we let through."""
    return [
        chain
        for chain in firewall.chains()
        if chain["type"] == "filter"
        and chain["policy"] == _POLICY_DROP
        and chain["hook"] in (_HOOK_INPUT, _HOOK_FORWARD)
    ]


def _host_forwards() -> bool:
    """Whether someone made the host a router on purpose (we set single interfaces only)."""
    return Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "1"


def _sysctl(name: str, value: str) -> None:
    """Sets net.<name> of the calling thread's network namespace; absent ones need no setting."""
    path = Path("/proc/sys/net", name)
    if not path.exists():
        return
    try:
        path.write_text(value)
    except OSError as error:
        raise Unavailable(f"the kernel setting {path} cannot be changed: {error}") from error


def in_namespace(namespace: int, work: Callable[[], None]) -> None:
    """Runs ``work()`` in the network namespace of a descriptor: in a thread that ends with it."""
    failed: list[BaseException] = []

    def inside() -> None:
        try:
            if _libc.setns(namespace, _CLONE_NEWNET):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=inside, name="netns")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]

"""The functions' own network: a bridge, one address a cell, NAT to the outside.

    cell ── veth (isolated port) ── bridge slipway<mark> ── forward + NAT ── the outside world
                                        │ first address of the subnet
                                        └ one port: the edge's listener for functions

From a cell one reaches: the resolvers of resolv.conf (port 53), the edge's port on the bridge, and
whatever is outside the private, link-local and multicast ranges. Not the host on any address, not
another cell (isolated ports never see each other), not the metadata address. There is no IPv6 in
cells. Only root can make this; elsewhere cells have nothing but their own loopback.

``setup`` makes it and may be repeated; ``teardown`` removes every trace. A cell's part of it goes
away with the cell's network namespace, however the cell ended. In between, others on the host take
parts of it away: a reload of nftables begins with ``flush ruleset`` and leaves a bridge without a
fence, a restart of Docker forgets our rules. ``mend`` makes it whole again, and until then no cell
gets in.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import random
import socket
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from core.errors import ConfigError, Unavailable
from core.sandbox import nft
from core.sandbox.fence import DENIED, Fence
from core.sandbox.netns import in_namespace
from core.settings import Settings

log = logging.getLogger(__name__)

_WRITABLE = Path("/host/sys/net")
"""In a container the kernel's settings are read-only; docker-compose.yml mounts those of the
network there once more, for the controller."""


class Network:
    """One installation's network; cheap to make, changes nothing until ``setup``."""

    def __init__(self, mark: str, subnet: str, port: int, *, containers: bool = False) -> None:
        """``mark``: at most 7 characters that tell networks apart. ``port``: the edge's; 0: there
        is none, and nothing of the host is open to functions. ``containers``: an engine plugs them
        in, the host reaches them there, and those in the upper half of the subnet reach nothing.

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
        self.containers = containers
        self.quiet = next(reversed(list(self.subnet.subnets()))) if containers else None
        """Addresses of containers without a way out."""
        self._seen = False
        self._intact: tuple[int, Sequence[str]] | None = None
        """The ruleset and the uplinks with which ``mend`` last found all rules in place."""

    @property
    def fence(self) -> Fence:
        return Fence(
            mark=self.mark,
            bridge=self.bridge,
            address=self.address,
            subnet=self.subnet,
            port=self.port,
            nameservers=self.nameservers,
            reached=self.containers,
            quiet=self.quiet,
        )

    @classmethod
    def from_settings(cls, settings: Settings) -> Network:
        """The network of this installation, the same in every process of it."""
        port = 0 if settings.edge == "none" else settings.port
        containers = settings.runtime == "docker"
        return cls(settings.mark, settings.functions_subnet, port, containers=containers)

    @classmethod
    def for_builds(cls, settings: Settings) -> Network:
        """The network of image builds on an engine of our own: the outside world, nothing else."""
        return cls(f"{settings.mark}b", settings.builds_subnet, 0)

    def setup(self) -> None:
        """Makes bridge, rules and forwarding, or repairs them.

        Raises:
            Unavailable: not permitted here, the subnet is taken, or the kernel lacks a part.
        """
        if os.geteuid() != 0:
            raise Unavailable("only root can make the functions' network")
        with _netlink("the functions' network cannot be made") as ip:
            routes = _routes(ip)
            self._refuse_taken_subnet(routes)
            uplinks = _uplinks(routes, self.bridge)
            links = [ip.link("get", ifname=name)[0] for name in uplinks]
            self._make_bridge(ip, min([1500, *(link.get_attr("IFLA_MTU") for link in links)]))
        self._seen = True
        with nft.Firewall() as firewall:
            self.fence.make(firewall, _guarded(uplinks))
            firewall.open_to(self.bridge)
        for name in (self.bridge, *uplinks):
            _sysctl(_forwarding(name), "1")

    def teardown(self) -> None:
        """Removes all that ``setup`` made; cells that still run lose their network.

        Raises:
            Unavailable: the kernel refuses to remove the rules; links are gone.
        """
        if os.geteuid() != 0:
            return
        self._seen = False
        with _netlink("the functions' network cannot be removed") as ip:
            uplinks = _uplinks(_routes(ip), self.bridge)
            for link in ip.get_links():
                name = link.get_attr("IFLA_IFNAME")
                if name == self.bridge or name.startswith(f"sl{self.mark}"):
                    with contextlib.suppress(NetlinkError):  # gone with its cell meanwhile
                        ip.link("del", index=link["index"])
        with nft.Firewall() as firewall:
            self.fence.remove(firewall)
            others = any(table.startswith("slipway_") for table in firewall.tables())
        if not others and not _host_forwards():
            for name in uplinks:
                _sysctl(_forwarding(name), "0")

    def exists(self) -> bool:
        """Whether cells get a network here: ``setup`` was done, by whichever process. Where it was
        damaged since, they have to wait, and are not to start without one.

        Raises:
            Unavailable: the kernel cannot be asked now.
        """
        if not self._seen and os.geteuid() == 0:
            with _netlink("the functions' network cannot be looked at") as ip:
                self._seen = bool(ip.link_lookup(ifname=self.bridge))
        return self._seen

    def available(self) -> bool:
        """Whether ``setup`` was done (by whichever process) and cells can be let in: bridge and
        fence still stand."""
        if os.geteuid() != 0:
            return False
        with contextlib.suppress(Unavailable):
            self.require()
            return True
        return False

    def mend(self) -> bool:
        """Makes anew what was taken away since ``setup``; returns whether there was anything.

        For one thread of one process, every few seconds: a few questions to the kernel while all is
        well. Never beside ``setup`` or ``teardown``. Running cells stay connected, or are again.

        Raises:
            Unavailable: it cannot be made now.
        """
        if not self.exists():
            return False
        try:
            self._check()
        except Unavailable as error:
            log.warning("%s", error)
            self.setup()
            return True
        return False

    def attach(self, pid: int) -> str:
        """Gives the network namespace of ``pid`` an address; returns it.

        The name of the host's end of the cable carries the address' number, so that the kernel
        itself refuses to give one address twice.

        Raises:
            Unavailable: the process is gone, the network is not there or has lost its fence, or all
                addresses are taken.
        """
        try:
            namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise Unavailable(f"the cell ended before it had a network: {error}") from error
        try:
            return self.plug(namespace)
        finally:
            os.close(namespace)

    def plug(self, namespace: int) -> str:
        """The same for the network namespace of a descriptor."""
        with _netlink("a cell got no network") as ip:
            number = self._plug(ip, self._entrance(ip), namespace)
            address = self.subnet[number]
            in_namespace(namespace, lambda: self._configure(address))
        return str(address)

    def require(self) -> None:
        """Raises Unavailable: no cell may be let in now, as bridge or fence do not stand."""
        with _netlink("the functions' network cannot be looked at") as ip:
            self._entrance(ip)

    def _check(self) -> None:
        """Raises Unavailable: something is not as ``setup`` makes it."""
        with _netlink("the functions' network cannot be looked at") as ip:
            _, uplinks = self._look(ip)
            for name in (self.bridge, *uplinks):
                if Path("/proc/sys/net", _forwarding(name)).read_text().strip() != "1":
                    raise _lacks(f"forwarding on {name}")
        with nft.Firewall() as firewall:
            # Read first: a change that comes in between makes it another.
            now = (nft.generation(), _guarded(uplinks))
            if now != self._intact:
                self._require_fence(firewall, now[1])
                if firewall.closed_to(self.bridge):
                    raise _lacks("a way through the host's own firewall")
                self._intact = now

    def _entrance(self, ip: IPRoute) -> int:
        """Returns the bridge's index; raises Unavailable where it or the fence is missing."""
        bridge, uplinks = self._look(ip)
        with nft.Firewall() as firewall:
            self._require_fence(firewall, _guarded(uplinks))
        return bridge

    def _look(self, ip: IPRoute) -> tuple[int, list[str]]:
        """Returns the bridge's index and the uplinks; raises Unavailable where there is no route to
        the cells, which takes the bridge, up and with its address."""
        routes = _routes(ip)
        for route in routes:
            if (
                _destination(route) == self.subnet
                and _interface(route) == self.bridge
                and route.get_attr("RTA_PREFSRC") == str(self.address)
            ):
                return route.get_attr("RTA_OIF"), _uplinks(routes, self.bridge)
        raise _lacks("its bridge")

    def _require_fence(self, firewall: nft.Firewall, guarded: Sequence[str]) -> None:
        if not self.fence.stands(firewall, guarded):
            raise _lacks("the firewall rules that fence it")

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
            _sysctl(f"ipv6/conf/{name}/disable_ipv6", "1")
            _join(ip, ip.link_lookup(ifname=name)[0], bridge)
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

    def _refuse_taken_subnet(self, routes: Sequence[Any]) -> None:
        for route in routes:
            taken = _destination(route)
            if taken and taken.overlaps(self.subnet) and _interface(route) != self.bridge:
                raise Unavailable(
                    f"the functions' network {self.subnet} overlaps {taken}, which this host "
                    "already routes (another Slipway, a VPN): set SLIPWAY_SUBNET to a free one"
                )

    def _make_bridge(self, ip: IPRoute, mtu: int) -> None:
        # A bridge without a hardware address of its own takes its ports' lowest: whenever that one
        # left, the other cells would send to nobody for a minute.
        hardware = bytes([0x02, *hashlib.sha256(self.bridge.encode()).digest()[:5]]).hex(":")
        if not ip.link_lookup(ifname=self.bridge):
            ip.link("add", ifname=self.bridge, kind="bridge", address=hardware)
        index = ip.link_lookup(ifname=self.bridge)[0]
        for link in ip.get_links():  # cells that are left when somebody removed the bridge
            ours = link.get_attr("IFLA_IFNAME").startswith(f"sl{self.mark}")
            if ours and link.get_attr("IFLA_MASTER") is None:
                _join(ip, link["index"], index)
        _sysctl(f"ipv6/conf/{self.bridge}/disable_ipv6", "1")
        own = str(self.address)
        if not any(each.get_attr("IFA_ADDRESS") == own for each in ip.get_addr(index=index)):
            ip.addr("add", index=index, address=own, prefixlen=self.subnet.prefixlen)
        ip.link("set", index=index, state="up", mtu=mtu)
        # The kernel makes this one by itself, but not again.
        ip.route("replace", dst=str(self.subnet), oif=index, prefsrc=own, scope=253, proto=2)


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


def _routes(ip: IPRoute) -> list[Any]:
    """The host's main table."""
    return list(ip.get_routes(family=2, table=254))


def _destination(route: Any) -> IPv4Network | None:
    """None: the default route."""
    address = route.get_attr("RTA_DST")
    return IPv4Network((address, route["dst_len"])) if address else None


def _interface(route: Any) -> str:
    """'' where there is not exactly one, or it is gone by now."""
    with contextlib.suppress(OSError):
        return socket.if_indextoname(route.get_attr("RTA_OIF") or 0)
    return ""


def _uplinks(routes: Iterable[Any], bridge: str) -> list[str]:
    """Interfaces towards the outside: a default route, or one to a network that is allowed."""
    names = set()
    for route in routes:
        there = _destination(route)
        if not there or not any(there.subnet_of(each) for each in DENIED):
            names.add(_interface(route))
    return sorted(names - {"", "lo", bridge})


@contextlib.contextmanager
def _netlink(what: str) -> Iterator[IPRoute]:
    """A socket to ask the kernel; Unavailable, with ``what`` failed, where it refuses."""
    try:
        with IPRoute() as ip:
            yield ip
    except (OSError, NetlinkError) as error:
        raise Unavailable(f"{what}: {error}") from error


def _lacks(what: str) -> Unavailable:
    return Unavailable(
        f"the functions' network lacks {what}, which another program took away or made "
        "insufficient: Slipway makes it anew within seconds, and functions start then"
    )


def _join(ip: IPRoute, port: int, bridge: int) -> None:
    """Makes a link a port of the bridge, up only when it is isolated: such ports talk to the
    bridge itself and not to each other."""
    ip.link("set", index=port, state="down")
    ip.link("set", index=port, master=bridge)
    ip.link("set", index=port, kind="bridge_slave", isolated=1)
    ip.link("set", index=port, state="up")


def _guarded(uplinks: Sequence[str]) -> Sequence[str]:
    """Interfaces that forward only because of us: not where the host is a router anyway."""
    return [] if _host_forwards() else uplinks


def _host_forwards() -> bool:
    """Whether someone made the host a router on purpose (we set single interfaces only)."""
    return Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "1"


def _forwarding(interface: str) -> str:
    """The name of a kernel setting."""
    return f"ipv4/conf/{interface}/forwarding"


def _sysctl(name: str, value: str) -> None:
    """Sets net.<name> of the calling thread's network namespace; absent ones need no setting."""
    path = Path("/proc/sys/net", name)
    if not path.exists():
        return
    if _WRITABLE.is_dir():
        path = _WRITABLE / name
    try:
        path.write_text(value)
    except OSError as error:
        raise Unavailable(f"the kernel setting {path} cannot be changed: {error}") from error

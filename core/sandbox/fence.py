"""The functions' fence: the firewall rules that say what a cell may reach, in one table.

The table's name carries a hash of what is in it, and its last chain marks it as whole: one that was
half made, or made by another version or for other interfaces, is noticed and made anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from core.sandbox import nft

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

_READY = "ready"
"""A chain without rules, added last: a table that has it is whole."""

_Placed = tuple[str, list[nft.Rule]]
"""A chain of ours and the parts of a rule in it."""


@dataclass(frozen=True, kw_only=True)
class Fence:
    """The rules of one functions' network."""

    mark: str
    """Tells installations apart."""
    bridge: str
    address: IPv4Address
    """The bridge's own, on which the edge listens."""
    subnet: IPv4Network
    port: int
    """The edge's; 0: there is none, and nothing of the host is open to functions."""
    nameservers: Sequence[str]
    reached: bool = False
    """Whether the host opens connections to cells: containers listen on addresses of the bridge."""
    quiet: IPv4Network | None = None
    """Addresses that reach nothing at all, not even the edge."""

    def stands(self, firewall: nft.Firewall, guarded: Sequence[str]) -> bool:
        """Whether every rule is in force. ``guarded``: interfaces that forward only because of
        us."""
        rules = list(self._rules(guarded))
        return firewall.holds(self._table(rules), _READY, len(rules))

    def make(self, firewall: nft.Firewall, guarded: Sequence[str]) -> None:
        """One table, made whole before an older one goes."""
        rules = list(self._rules(guarded))
        table = self._table(rules)
        tables = firewall.tables()
        if not firewall.holds(table, _READY, len(rules)):
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

    def remove(self, firewall: nft.Firewall) -> None:
        """Removes all rules, those in others' chains too."""
        self.close_foreign(firewall)
        for table in firewall.tables():
            if table.startswith(f"slipway_{self.mark}_"):
                firewall.delete_table(table)

    def close_foreign(self, firewall: nft.Firewall) -> None:
        """Takes back what was put into others' chains to let functions through."""
        for chain in firewall.chains():
            if chain.table.startswith(f"slipway_{self.mark}_"):
                continue
            for handle in firewall.rules_about(chain.table, chain.name, self.bridge):
                firewall.delete_rule(chain.table, chain.name, handle)

    def _table(self, rules: Sequence[_Placed]) -> str:
        """A table is named by what is in it."""
        digest = hashlib.sha256(repr(rules).encode()).hexdigest()[:8]
        return f"slipway_{self.mark}_{digest}"

    def _rules(self, guarded: Sequence[str]) -> Iterable[_Placed]:
        """In order. ``guarded``: interfaces that forward only because of us."""
        inside, outside = nft.comes_in(self.bridge), nft.goes_out(self.bridge)
        edge = nft.destination(IPv4Network(self.address))
        if self.reached:
            yield "input", [inside, nft.answers(), nft.ACCEPT]
        if self.quiet:
            yield "input", [inside, nft.source(self.quiet), nft.REFUSE]
            yield "forward", [inside, nft.source(self.quiet), nft.REFUSE]
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

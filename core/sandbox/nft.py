"""Rules of nftables, spoken over netlink: no nft program is needed.

A rule is a list of expressions that load something into a register and compare it; the first
comparison that fails ends the rule. Numbers are those of <linux/netfilter/nf_tables.h>.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any

from pyroute2.netlink import NETLINK_NETFILTER, NLM_F_REQUEST
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_NFTABLES
from pyroute2.netlink.nfnetlink.nftsocket import (
    NFT_MSG_GETGEN,
    NFT_MSG_GETRULE,
    NFT_MSG_NEWGEN,
    nft_rule_msg,
)
from pyroute2.nftables.expressions import genex
from pyroute2.nftables.main import NFTables

from core.errors import Unavailable

Expression = dict[str, Any]
Rule = list[Expression]

_IIFNAME, _OIFNAME, _L4PROTO = 6, 7, 16  # meta keys
_NETWORK, _TRANSPORT = 1, 2  # payload bases
_EQUAL, _DIFFERS = 0, 1
_CT_STATE, _CT_STATUS = 0, 2
_DNAT = 1 << 5  # IPS_DST_NAT
_NEW = 1 << 3  # NF_CT_STATE_BIT(IP_CT_NEW)
_ESTABLISHED_RELATED = (1 << 1) | (1 << 2)
_ADMIN_PROHIBITED = 13  # ICMP code, RFC 1812 §5.2.7.1
_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
_POLICY_DROP = 0
PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}


def _value(data: bytes) -> Expression:
    return {"attrs": [("NFTA_DATA_VALUE", data)]}


def _compare(data: bytes, operator: int = _EQUAL) -> Expression:
    return dict(genex("cmp", {"sreg": 1, "op": operator, "data": _value(data)}))


def _mask(data: bytes) -> Expression:
    zero = _value(bytes(len(data)))
    return dict(
        genex(
            "bitwise", {"sreg": 1, "dreg": 1, "len": len(data), "mask": _value(data), "xor": zero}
        )
    )


def _interface(key: int, name: str, operator: int) -> Rule:
    padded = name.encode().ljust(16, b"\0")  # IFNAMSIZ
    return [genex("meta", {"key": key, "dreg": 1}), _compare(padded, operator)]


def comes_in(name: str) -> Rule:
    return _interface(_IIFNAME, name, _EQUAL)


def goes_out(name: str) -> Rule:
    return _interface(_OIFNAME, name, _EQUAL)


def goes_elsewhere(name: str) -> Rule:
    return _interface(_OIFNAME, name, _DIFFERS)


def _address(network: IPv4Network, offset: int) -> Rule:
    load = genex("payload", {"dreg": 1, "base": _NETWORK, "offset": offset, "len": 4})
    return [load, _mask(network.netmask.packed), _compare(network.network_address.packed)]


def source(network: IPv4Network) -> Rule:
    return _address(network, 12)


def destination(network: IPv4Network) -> Rule:
    return _address(network, 16)


def port(protocol: str, number: int) -> Rule:
    """Destination port of ``tcp`` or ``udp``."""
    return [
        genex("meta", {"key": _L4PROTO, "dreg": 1}),
        _compare(bytes([PROTOCOLS[protocol]])),
        genex("payload", {"dreg": 1, "base": _TRANSPORT, "offset": 2, "len": 2}),
        _compare(number.to_bytes(2, "big")),
    ]


def _conntrack(key: int, bits: int, operator: int) -> Rule:
    """``operator`` compares with nothing set: DIFFERS = any of the bits, EQUAL = none."""
    mask = _mask(bits.to_bytes(4, sys.byteorder))
    return [genex("ct", {"dreg": 1, "key": key}), mask, _compare(bytes(4), operator)]


def answers() -> Rule:
    """Belongs to a connection that was let through."""
    return _conntrack(_CT_STATE, _ESTABLISHED_RELATED, _DIFFERS)


def opens() -> Rule:
    """Begins a connection."""
    return _conntrack(_CT_STATE, _NEW, _DIFFERS)


def not_forwarded_port() -> Rule:
    """Its destination was not rewritten (a container's published port would be)."""
    return _conntrack(_CT_STATUS, _DNAT, _EQUAL)


def _verdict(code: int) -> Rule:
    verdict = {"attrs": [("NFTA_DATA_VERDICT", {"attrs": [("NFTA_VERDICT_CODE", code)]})]}
    return [genex("immediate", {"dreg": 0, "data": verdict})]


ACCEPT = _verdict(1)
DROP = _verdict(0)
REFUSE: Rule = [genex("reject", {"type": 0, "icmp_code": _ADMIN_PROHIBITED})]
"""Told to the sender, who would wait for a timeout otherwise."""
MASQUERADE: Rule = [genex("masq", {})]


@dataclass(frozen=True)
class Chain:
    """A chain that packets come to by themselves."""

    table: str
    name: str
    hook: str
    drops: bool
    """What no rule of it decides."""


_GETGEN = struct.Struct("=IHHII BBH")
"""struct nlmsghdr and struct nfgenmsg: all that is asked."""
_GEN_ID = struct.Struct(">I")
_GEN_ID_AT = _GETGEN.size + 4  # after its own header, the first attribute of the answer


def generation() -> int:
    """The kernel's number of the rules as they are: any change by anybody makes it another.

    Every start asks: so without pyroute2, whose sockets take a millisecond to open.

    Raises:
        Unavailable: the kernel refuses; no permission, no nf_tables.
    """
    kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN
    asked = _GETGEN.pack(_GETGEN.size, kind, NLM_F_REQUEST, 0, 0, 0, 0, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as kernel:
            kernel.sendto(asked, (0, 0))
            answer = kernel.recv(4096)
    except OSError as error:
        raise Unavailable(f"nftables cannot be reached: {error}") from error
    if _GETGEN.unpack_from(answer)[1] != kind & 0xFF00 | NFT_MSG_NEWGEN:
        raise Unavailable("nftables does not tell its generation: the kernel may lack nf_tables")
    number: int = _GEN_ID.unpack_from(answer, _GEN_ID_AT)[0]
    return number


class Firewall:
    """Tables of the family ip; close it after use.

    Raises Unavailable from every method where the kernel refuses: no permission, no nf_tables.
    """

    def __init__(self) -> None:
        try:
            self._nft = NFTables(nfgen_family=socket.AF_INET)
        except (OSError, NetlinkError) as error:
            raise Unavailable(f"nftables cannot be reached: {error}") from error

    def __enter__(self) -> Firewall:
        return self

    def __exit__(self, *_: object) -> None:
        self._nft.close()

    def tables(self) -> list[str]:
        return [each.get_attr("NFTA_TABLE_NAME") for each in self._ask(self._nft.get_tables)]

    def chains(self) -> list[Chain]:
        """All that filter or rewrite at a hook."""
        found = []
        for each in self._ask(self._nft.get_chains):
            hook = each.get_attr("NFTA_CHAIN_HOOK")
            if hook is not None:
                table, name = each.get_attr("NFTA_CHAIN_TABLE"), each.get_attr("NFTA_CHAIN_NAME")
                number = hook.get_attr("NFTA_HOOK_HOOKNUM")
                filters = each.get_attr("NFTA_CHAIN_TYPE") == "filter"
                drops = filters and each.get_attr("NFTA_CHAIN_POLICY") == _POLICY_DROP
                found.append(Chain(table, name, _HOOKS[number], drops))
        return found

    def chain_names(self, table: str) -> set[str]:
        return {
            each.get_attr("NFTA_CHAIN_NAME")
            for each in self._ask(self._nft.get_chains)
            if each.get_attr("NFTA_CHAIN_TABLE") == table
        }

    def holds(self, table: str, chain: str, rules: int) -> bool:
        """Whether there is a table with such a chain, and so many rules in all its chains."""
        return chain in self.chain_names(table) and len(self._rules(NFTA_RULE_TABLE=table)) == rules

    def closed_to(self, interface: str) -> list[Chain]:
        """Others' chains that would drop what comes in at an interface and what is forwarded out
        of it, because they lack the rules that ``open_to`` inserts."""
        return [
            chain
            for chain in self.chains()
            if chain.drops
            and len(self.rules_about(chain.table, chain.name, interface))
            < len(_ways(chain, interface))
        ]

    def open_to(self, interface: str) -> None:
        """Lets an interface's traffic through others' chains that drop by policy (Docker, ufw).

        An accept in one table does not override a drop in another: what shall not pass has to be
        dropped by an earlier one. The rules have the shape that iptables itself would give them.
        """
        for chain in self.closed_to(interface):
            for way in _ways(chain, interface):
                self.insert_rule(chain.table, chain.name, way, ACCEPT)

    def rules_about(self, table: str, chain: str, interface: str) -> list[int]:
        """Handles of a chain's rules that begin by comparing this interface's name."""
        wanted = interface.encode().ljust(16, b"\0")
        handles = []
        for rule in self._rules(NFTA_RULE_TABLE=table, NFTA_RULE_CHAIN=chain):
            expressions = rule.get_attr("NFTA_RULE_EXPRESSIONS") or []
            if len(expressions) < 2 or expressions[1].get_attr("NFTA_EXPR_NAME") != "cmp":
                continue
            data = expressions[1].get_attr("NFTA_EXPR_DATA").get_attr("NFTA_CMP_DATA")
            if data.get_attr("NFTA_DATA_VALUE") == wanted:
                handles.append(rule.get_attr("NFTA_RULE_HANDLE"))
        return handles

    def add_table(self, name: str) -> None:
        self._do("table", "add", name=name)

    def delete_table(self, name: str) -> None:
        self._do("table", "del", name=name)

    def add_chain(self, table: str, name: str, **base: Any) -> None:
        """``base``: type, hook, priority and policy; without them it hooks nowhere."""
        if base:
            self._do("chain", "add", table=table, name=name, **base)
        else:
            # pyroute2 gives every chain a type, which the kernel takes for base chains only.
            self._do("chain", "add", kwarg={"table": table, "name": name})

    def add_rule(self, table: str, chain: str, *parts: Rule) -> None:
        self._do("rule", "add", table=table, chain=chain, expressions=parts)

    def insert_rule(self, table: str, chain: str, *parts: Rule) -> None:
        """Puts a rule before all others of its chain."""
        self._do("rule", "insert", table=table, chain=chain, expressions=parts)

    def delete_rule(self, table: str, chain: str, handle: int) -> None:
        self._do("rule", "del", table=table, chain=chain, handle=handle)

    def _rules(self, **where: str) -> Sequence[Any]:
        """The kernel picks them: others may have thousands, which take long to read."""
        message = nft_rule_msg()
        message["attrs"] = list(where.items())
        return self._ask(lambda: self._nft.request_get(message, NFT_MSG_GETRULE))

    def _ask(self, query: Callable[[], Any]) -> Sequence[Any]:
        try:
            return list(query())
        except (OSError, NetlinkError) as error:
            raise Unavailable(f"nftables cannot be read: {error}") from error

    def _do(self, what: str, verb: str, **arguments: Any) -> None:
        try:
            getattr(self._nft, what)(verb, **arguments)
        except (OSError, NetlinkError) as error:
            raise Unavailable(f"nftables refused to {verb} a {what}: {error}") from error


def _ways(chain: Chain, interface: str) -> list[Rule]:
    """What an interface's traffic needs in another's chain."""
    inside, outside = comes_in(interface), goes_out(interface)
    return {"input": [inside], "forward": [inside, outside]}.get(chain.hook, [])

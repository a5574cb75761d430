"""The functions' network, tried from inside cells: what they reach, and what they do not.

"Outside" is a network namespace of the test's own with a documentation address (RFC 5737), a
private one, a resolver on a private address and the clouds' metadata address. The host can reach
all of them; a cell only the first, and port 53 of the resolver. "The host" is one as well: the
tests flush its rules and take its links away.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import netns
from pyroute2.iproute.linux import IPRoute

from core.errors import ConfigError, Unavailable
from core.sandbox import PATH, Cell, Network, Process, Sandbox, nft
from core.sandbox.netns import in_namespace
from core.sandbox.network import nameservers
from core.settings import Settings
from supervisor import chores

pytestmark = [
    pytest.mark.alone,  # it flushes the machine's firewall, and stops its forwarding
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make networks"),
]

OUTSIDE, PRIVATE, RESOLVER, METADATA = (
    "198.51.100.10",
    "10.97.0.10",
    "10.97.0.53",
    "169.254.169.254",
)
HOST = "198.51.100.1"


class Outside:
    """Listeners in a network namespace, which answer with the address they were asked from."""

    def __init__(self, namespace: int) -> None:
        self.seen: list[str] = []
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        in_namespace(namespace, self._listen)
        for listener in self._sockets:
            thread = threading.Thread(target=self._serve, args=(listener,))
            thread.start()
            self._threads.append(thread)

    def _listen(self) -> None:
        for address, port in ((OUTSIDE, 80), (PRIVATE, 80), (RESOLVER, 80), (METADATA, 80)):
            self._sockets.append(socket.create_server((address, port)))
        self._sockets.append(socket.create_server((RESOLVER, 53)))
        names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        names.bind((RESOLVER, 53))
        self._sockets.append(names)

    def _serve(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                if listener.type == socket.SOCK_DGRAM:
                    question, peer = listener.recvfrom(1024)
                    if not question:  # shut down
                        return
                    listener.sendto(peer[0].encode(), peer)
                    continue
                connection, peer = listener.accept()
                with connection:
                    connection.sendall(peer[0].encode())
                self.seen.append(peer[0])

    def close(self) -> None:
        for listener in self._sockets:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for listener in self._sockets:
            listener.close()


@pytest.fixture(scope="module", autouse=True)
def own_host() -> Iterator[None]:
    """Moves the tests' thread, and what it starts, to a network namespace that is the host."""
    name = f"slwhost{os.getpid()}"
    netns.create(name)
    netns.pushns(name)
    try:
        with IPRoute() as ip:
            ip.link("set", index=ip.link_lookup(ifname="lo")[0], state="up")
        yield
    finally:
        netns.popns()
        netns.remove(name)


@pytest.fixture(scope="module")
def outside() -> Iterator[Outside]:
    """The outside world, one cable away from the host."""
    name = f"slwtest{os.getpid()}"
    cable = f"slwt{os.getpid() % 100000}"
    netns.create(name)
    namespace = os.open(f"/var/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    ip = IPRoute()
    try:
        ip.link("add", ifname=cable, kind="veth", peer={"ifname": "eth0", "net_ns_fd": namespace})
        index = ip.link_lookup(ifname=cable)[0]
        ip.addr("add", index=index, address=HOST, prefixlen=24)
        ip.addr("add", index=index, address="10.97.0.1", prefixlen=24)
        ip.link("set", index=index, state="up")
        ip.route("add", dst=f"{METADATA}/32", oif=index)

        def inside() -> None:
            with IPRoute() as there:
                link = there.link_lookup(ifname="eth0")[0]
                for address in (OUTSIDE, PRIVATE, RESOLVER):
                    there.addr("add", index=link, address=address, prefixlen=24)
                there.addr("add", index=link, address=METADATA, prefixlen=32)
                there.link("set", index=link, state="up")

        in_namespace(namespace, inside)
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


@pytest.fixture(scope="module")
def edge_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def network(
    outside: Outside,  # noqa: ARG001 - its route decides what setup() takes for an uplink
    edge_port: int,
) -> Iterator[Network]:
    made = Network(f"t{random.getrandbits(16):04x}", "10.98.0.0/24", edge_port)
    made.nameservers = (RESOLVER,)
    made.setup()
    try:
        yield made
    finally:
        made.teardown()


@pytest.fixture(scope="module")
def sandbox(network: Network) -> Sandbox:
    return Sandbox("net", network)


def cell(code: str, **more: Any) -> Cell:
    bounds: dict[str, Any] = {"memory": 96 * 2**20, "cpus": 1.0, "pids": 20, "network": "egress"}
    argv = ["python3", "-c", textwrap.dedent(code)]
    return Cell(argv=argv, env={"PATH": PATH}, **(bounds | more))


def ask(sandbox: Sandbox, code: str, **more: Any) -> Any:
    lines: list[str] = []
    name = f"net-{time.monotonic_ns()}"
    result = sandbox.run(
        cell(code, **more), name, timeout=30, max_output=10_000, on_line=lines.append
    )
    assert result.ok, lines
    return json.loads(lines[-1])


REACH = """
import errno, json, socket
def reach(address, port, seconds=3):
    with socket.socket() as client:
        client.settimeout(seconds)
        try:
            client.connect((address, port))
            return "connected, seen as " + client.recv(100).decode()
        except TimeoutError: return "ETIMEDOUT"
        except OSError as error: return errno.errorcode[error.errno]
"""
UNREACHABLE = {"EHOSTUNREACH", "ENETUNREACH", "ETIMEDOUT"}


def reach(sandbox: Sandbox, *targets: tuple[str, int], **more: Any) -> list[str]:
    code = REACH + f"print(json.dumps([reach(*target) for target in {list(targets)!r}]))"
    found: list[str] = ask(sandbox, code, **more)
    return found


@pytest.fixture
def host_listener() -> Iterator[int]:
    """A service of the host on every address of it, which answers."""

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # shut down
            while True:
                connection, peer = listener.accept()
                with connection:
                    connection.sendall(peer[0].encode())

    with socket.create_server(("0.0.0.0", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_outside_is_reached_through_nat(sandbox: Sandbox, outside: Outside) -> None:
    assert reach(sandbox, (OUTSIDE, 80)) == [f"connected, seen as {HOST}"]
    assert outside.seen[-1] == HOST
    assert "NAT" in sandbox.enforced()["network"]


def test_policy_none_reaches_nothing(sandbox: Sandbox, network: Network, edge_port: int) -> None:
    targets = [(OUTSIDE, 80), (str(network.address), edge_port), (METADATA, 80)]
    assert set(reach(sandbox, *targets, network="none")) <= UNREACHABLE


def test_private_and_metadata_addresses_are_refused(sandbox: Sandbox) -> None:
    for target in ((PRIVATE, 80), (METADATA, 80)):
        with socket.create_connection(target, 3) as reachable:
            assert reachable.recv(100), "the host itself reaches it"
    targets = [(PRIVATE, 80), (METADATA, 80), ("100.64.0.1", 80), ("192.168.1.1", 80)]
    assert set(reach(sandbox, *targets, ("172.17.0.1", 80))) <= UNREACHABLE


def test_host_is_out_of_reach_but_for_the_edge(
    sandbox: Sandbox, network: Network, edge_port: int, host_listener: int
) -> None:
    bridge = str(network.address)
    with IPRoute() as ip:
        own = [each.get_attr("IFA_ADDRESS") for each in ip.get_addr(family=2)]
    addresses = sorted({HOST, bridge, *own} - {"127.0.0.1"})
    found = reach(sandbox, *((address, host_listener) for address in addresses))
    assert set(found) <= UNREACHABLE, dict(zip(addresses, found, strict=True))
    assert reach(sandbox, ("127.0.0.1", host_listener)) == ["ECONNREFUSED"], "its own loopback"

    answered: list[str] = []

    def answer(listener: socket.socket) -> None:
        connection, peer = listener.accept()
        with connection:
            connection.sendall(peer[0].encode())
            answered.append(peer[0])

    with socket.create_server((bridge, edge_port)) as edge:
        thread = threading.Thread(target=answer, args=(edge,))
        thread.start()
        (found_edge, found_other) = reach(sandbox, (bridge, edge_port), (HOST, edge_port))
        thread.join()
    assert found_edge == f"connected, seen as {answered[0]}"
    assert answered[0].startswith("10.98.0."), "the edge sees which cell asks"
    assert found_other in UNREACHABLE


def test_resolver_is_reached_for_names_only(sandbox: Sandbox) -> None:
    assert reach(sandbox, (RESOLVER, 53), (RESOLVER, 80)) == [
        "connected, seen as 10.97.0.1",
        "EHOSTUNREACH",
    ]
    code = f"""
    import json, socket
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(3)
        client.sendto(b"?", ({RESOLVER!r}, 53))
        answer = client.recv(100).decode()
    print(json.dumps([answer, open("/etc/resolv.conf").read()]))
    """
    assert ask(sandbox, code) == ["10.97.0.1", f"nameserver {RESOLVER}\n"]


def test_cells_do_not_reach_each_other(sandbox: Sandbox) -> None:
    serve = """
    import socket
    listener = socket.create_server(("0.0.0.0", 9000))
    while True: listener.accept()[0].sendall(b"reached")
    """
    with started(sandbox, cell(serve)) as server:
        assert server.address.startswith("10.98.0.")
        assert set(reach(sandbox, (server.address, 9000))) <= UNREACHABLE


@contextlib.contextmanager
def started(sandbox: Sandbox, what: Cell) -> Iterator[Process]:
    process = sandbox.start(what, f"net-{time.monotonic_ns()}", output=1)
    try:
        yield process
    finally:
        sandbox.end(process)


def test_no_ipv6_and_no_way_to_change_the_network(sandbox: Sandbox) -> None:
    code = """
    import fcntl, json, socket, struct
    found = {"ipv6": open("/proc/net/if_inet6").read()}
    request = struct.pack("16sH14s", b"eth0", 0x1002, b"")  # IFF_PROMISC | IFF_BROADCAST
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for name, call in (("promiscuous", lambda: fcntl.ioctl(client, 0x8914, request)),
                           ("mark", lambda: client.setsockopt(socket.SOL_SOCKET, 36, 1)),
                           ("foreign source", lambda: client.bind(("198.51.100.77", 1)))):
            try: call(); found[name] = "DONE"
            except OSError as error: found[name] = "refused"
    print(json.dumps(found))
    """
    assert ask(sandbox, code) == {
        "ipv6": "",
        "promiscuous": "refused",
        "mark": "refused",
        "foreign source": "refused",
    }


def cables(network: Network) -> set[str]:
    with IPRoute() as ip:
        names = {link.get_attr("IFLA_IFNAME") for link in ip.get_links()}
    return {name for name in names if name.startswith(f"sl{network.mark}")}


def test_addresses_are_given_once_and_come_back(sandbox: Sandbox, network: Network) -> None:
    with contextlib.ExitStack() as stack:
        cells = [stack.enter_context(started(sandbox, cell("import time; time.sleep(60)")))
                 for _ in range(6)]  # fmt: skip
        assert len({each.address for each in cells}) == 6
        assert len(cables(network)) >= 6
    deadline = time.monotonic() + 10
    while cables(network):
        assert time.monotonic() < deadline, "a cell's cable outlived it"
        time.sleep(0.05)


def test_setup_is_idempotent_and_repairs(sandbox: Sandbox, network: Network) -> None:
    def ours() -> list[str]:
        with nft.Firewall() as firewall:
            return [name for name in firewall.tables() if network.mark in name]

    before = ours()
    assert len(before) == 1
    network.setup()
    assert ours() == before
    with nft.Firewall() as firewall:
        firewall.delete_table(before[0])
        firewall.add_table(before[0])  # as a crash in the middle leaves it
        firewall.add_table(f"slipway_{network.mark}_older")
    network.setup()
    assert ours() == before
    assert reach(sandbox, (OUTSIDE, 80), (PRIVATE, 80)) == [
        f"connected, seen as {HOST}",
        "EHOSTUNREACH",
    ]


def test_works_beside_a_firewall_that_drops_what_is_forwarded(
    sandbox: Sandbox, network: Network
) -> None:
    table = f"slwtest{os.getpid()}"
    with nft.Firewall() as firewall:
        firewall.add_table(table)
        try:
            firewall.add_chain(
                table, "forward", type="filter", hook="forward", priority=0, policy=0
            )
            assert reach(sandbox, (OUTSIDE, 80)) == ["ETIMEDOUT"]
            network.setup()
            network.setup()
            assert reach(sandbox, (OUTSIDE, 80), (PRIVATE, 80)) == [
                f"connected, seen as {HOST}",
                "EHOSTUNREACH",
            ]
            assert len(firewall.rules_about(table, "forward", network.bridge)) == 2
            network.fence.close_foreign(firewall)
            assert firewall.rules_about(table, "forward", network.bridge) == []
        finally:
            firewall.delete_table(table)


# What others on the host take away


Rounds = Callable[[], list[str]]
"""Tells how a cell's next round of tries ends."""


@contextlib.contextmanager
def trying(sandbox: Sandbox, *targets: tuple[str, int]) -> Iterator[Rounds]:
    """A cell that tries the targets over and over."""
    code = (
        REACH
        + f"""
import time
while True:
    begun = time.monotonic()
    print(json.dumps([begun, [reach(*target, 0.5) for target in {list(targets)!r}]]), flush=True)
    time.sleep(0.05)
"""
    )
    reader, writer = os.pipe()
    os.fchmod(writer, 0o622)
    process = sandbox.start(cell(code), f"net-{time.monotonic_ns()}", output=writer)
    os.close(writer)
    with os.fdopen(reader) as lines:

        def next_round() -> list[str]:
            asked = time.monotonic()
            for line in lines:
                begun, found = json.loads(line)
                if begun > asked:
                    return list(found)
            pytest.fail("the cell ended")

        try:
            yield next_round
        finally:
            sandbox.end(process)


def until(rounds: Rounds, wanted: list[str], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while (found := rounds()) != wanted:
        assert time.monotonic() < deadline, found


def flush_ruleset(_: Network) -> None:
    """What `systemctl reload nftables` begins with."""
    with nft.Firewall() as firewall:
        for table in firewall.tables():
            firewall.delete_table(table)


def flush_table(network: Network) -> None:
    """Its chains stay, the marker among them."""
    with nft.Firewall() as firewall:
        (table,) = (name for name in firewall.tables() if network.mark in name)
        for chain in ("input", "forward"):
            for handle in firewall.rules_about(table, chain, network.bridge):
                firewall.delete_rule(table, chain, handle)


def delete_bridge(network: Network) -> None:
    with IPRoute() as ip:
        ip.link("del", index=ip.link_lookup(ifname=network.bridge)[0])


def bridge_down(network: Network) -> None:
    with IPRoute() as ip:
        ip.link("set", index=ip.link_lookup(ifname=network.bridge)[0], state="down")


def delete_address(network: Network) -> None:
    with IPRoute() as ip:
        index = ip.link_lookup(ifname=network.bridge)[0]
        ip.addr("del", index=index, address=str(network.address), prefixlen=24)


def delete_route(network: Network) -> None:
    with IPRoute() as ip:
        ip.route("del", dst=str(network.subnet), scope=253)


def no_forwarding(_: Network) -> None:
    """What `sysctl --system` may do."""
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("0")


@pytest.mark.parametrize(
    ("damage", "fails_open"),
    [
        (flush_ruleset, True),
        (flush_table, True),
        (delete_bridge, False),
        (bridge_down, False),
        (delete_address, False),
        (delete_route, False),
        (no_forwarding, False),
    ],
)
def test_what_was_taken_away_is_made_anew_under_running_cells(
    sandbox: Sandbox,
    network: Network,
    host_listener: int,
    damage: Callable[[Network], None],
    fails_open: bool,
) -> None:
    host = str(network.address)
    fenced = [f"connected, seen as {HOST}", "EHOSTUNREACH", "EHOSTUNREACH"]
    with trying(sandbox, (OUTSIDE, 80), (PRIVATE, 80), (host, host_listener)) as rounds:
        until(rounds, fenced)
        assert network.mend() is False, "there is nothing to do"
        damage(network)
        found = rounds()
        assert found != fenced
        assert found[2].startswith("connected") is fails_open
        assert network.exists()
        assert network.mend() is True
        assert network.available()
        until(rounds, fenced)
        assert network.mend() is False


@pytest.mark.parametrize("damage", [flush_ruleset, flush_table, delete_bridge])
def test_no_cell_is_let_in_without_a_fence(
    sandbox: Sandbox, network: Network, damage: Callable[[Network], None]
) -> None:
    with plugged() as pid:
        damage(network)
        try:
            assert not network.available()
            with pytest.raises(Unavailable, match="the functions' network lacks"):
                ask(sandbox, "print(1)")
            with pytest.raises(Unavailable, match="the functions' network lacks") as refused:
                network.attach(pid)
            assert refused.value.retryable
            assert cables(network) == set()
        finally:
            network.mend()
        assert network.available()
        assert network.attach(pid).startswith("10.98.0.")


@contextlib.contextmanager
def plugged(*, network: Network | None = None) -> Iterator[int]:
    """A process with a network namespace of its own, with a cable if there is a network for it."""
    with subprocess.Popen(["unshare", "--net", "sleep", "120"]) as process:
        try:
            mine = Path("/proc/self/ns/net").readlink()
            while Path(f"/proc/{process.pid}/ns/net").readlink() == mine:
                time.sleep(0.01)
            if network:
                network.attach(process.pid)
            yield process.pid
        finally:
            process.kill()


def test_rules_in_chains_of_others_come_back(sandbox: Sandbox, network: Network) -> None:
    """Docker makes its chains anew when it starts."""
    table = f"slwtest{os.getpid()}"
    reached = [f"connected, seen as {HOST}", "EHOSTUNREACH"]
    with (
        nft.Firewall() as firewall,
        trying(sandbox, (OUTSIDE, 80), (PRIVATE, 80)) as rounds,
    ):
        for _ in range(2):
            firewall.add_table(table)
            try:
                firewall.add_chain(
                    table, "forward", type="filter", hook="forward", priority=0, policy=0
                )
                until(rounds, ["ETIMEDOUT", "EHOSTUNREACH"])
                assert network.mend() is True
                until(rounds, reached)
                assert network.mend() is False
            finally:
                firewall.delete_table(table)


def test_a_look_at_the_network_is_cheap_whatever_others_have_there(network: Network) -> None:
    """3 ms on an idle machine; to read a thousand rules takes three hundred."""
    table = f"slwtest{os.getpid()}"
    with nft.Firewall() as firewall:
        firewall.add_table(table)
        try:
            firewall.add_chain(
                table, "forward", type="filter", hook="forward", priority=0, policy=0
            )
            for number in range(1000):
                firewall.add_rule(table, "forward", nft.port("tcp", number), nft.ACCEPT)
            assert network.mend() is True
            assert network.mend() is False
            spent = []
            for _ in range(20):
                begun = time.thread_time()
                assert network.mend() is False
                spent.append(time.thread_time() - begun)
            assert min(spent) < 0.02
        finally:
            firewall.delete_table(table)
    network.mend()


def test_what_was_never_made_or_is_removed_is_not_mended() -> None:
    temporary = Network(f"y{random.getrandbits(16):04x}", "10.96.0.0/24", 8080)
    assert not temporary.exists()
    assert temporary.mend() is False
    temporary.setup()
    assert Network(temporary.mark, "10.96.0.0/24", 8080).exists(), "seen by another process"
    temporary.teardown()
    assert not temporary.exists()
    assert temporary.mend() is False
    with IPRoute() as ip:
        assert ip.link_lookup(ifname=temporary.bridge) == []


def test_cells_stay_connected_when_others_leave(sandbox: Sandbox, network: Network) -> None:
    """A bridge must not take its hardware address from a port that may go."""

    def hardware() -> dict[str, str]:
        with IPRoute() as ip:
            links = [(link.get_attr("IFLA_IFNAME"), link) for link in ip.get_links()]
        return {name: link.get_attr("IFLA_ADDRESS") for name, link in links}

    with trying(sandbox, (OUTSIDE, 80)) as rounds:
        until(rounds, [f"connected, seen as {HOST}"])
        (own,) = cables(network)
        with contextlib.ExitStack() as others:
            while min(hardware()[name] for name in cables(network)) == hardware()[own]:
                others.enter_context(plugged(network=network))
            until(rounds, [f"connected, seen as {HOST}"], 60)
        until(lambda: sorted(cables(network)), [own])
        assert rounds() == [f"connected, seen as {HOST}"]


@pytest.mark.usefixtures("outside")
def test_subnet_in_use_is_refused() -> None:
    taken = Network("taken", "198.51.100.0/24", 8080)
    with pytest.raises(Unavailable, match="SLIPWAY_SUBNET"):
        taken.setup()
    assert not taken.available()


@pytest.mark.usefixtures("outside")
def test_a_start_that_cannot_make_it_leaves_none(tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    settings = Settings.from_env(
        {"SLIPWAY_STATE": str(tmp_path), "SLIPWAY_SUBNET": "198.51.100.0/24"}
    )
    network = Network.from_settings(settings)
    with IPRoute() as ip:
        ip.link("add", ifname=network.bridge, kind="bridge")  # an earlier run's
    assert network.exists()
    chores.network_up(settings, told)
    assert "SLIPWAY_SUBNET" in json.loads(told.read_text())["missing"]
    assert not Network.from_settings(settings).exists(), "cells would wait for it for ever"


@pytest.mark.parametrize(
    "subnet", ["10.99.0.0/8", "10.99.0.0/30", "10.99.0.1/16", "fd00::/64", "x"]
)
def test_subnet_that_cannot_be(subnet: str) -> None:
    with pytest.raises(ConfigError, match="SLIPWAY_SUBNET"):
        Network("none", subnet, 8080)


@pytest.mark.usefixtures("outside")
def test_teardown_leaves_nothing() -> None:
    def forwarding() -> dict[str, str]:
        return {
            path.parent.name: path.read_text()
            for path in Path("/proc/sys/net/ipv4/conf").glob("*/forwarding")
        }

    temporary = Network(f"x{random.getrandbits(16):04x}", "10.96.0.0/24", 8080)
    with nft.Firewall() as firewall:
        tables, before = firewall.tables(), forwarding()
        temporary.setup()
        assert temporary.available()
        assert [name for name in firewall.tables() if temporary.mark in name]
        temporary.teardown()
        temporary.teardown()
        assert not [name for name in firewall.tables() if temporary.mark in name]
        # Another installation on this host may need forwarding, or come and go meanwhile.
        if not [name for name in (*tables, *firewall.tables()) if name.startswith("slipway_")]:
            assert forwarding() == before
    assert not temporary.available()


def test_nameservers_are_those_a_cell_can_reach(tmp_path: Path) -> None:
    first, second = tmp_path / "resolv.conf", tmp_path / "systemd"
    first.write_text("# made by systemd\nnameserver 127.0.0.53\nnameserver ::1\nsearch x\n")
    second.write_text("nameserver 192.0.2.53\nnameserver fe80::1\nnameserver nonsense\n")
    assert nameservers([first, second]) == ("192.0.2.53",)
    assert nameservers([first]) == ()
    assert nameservers([tmp_path / "none", second]) == ("192.0.2.53",)

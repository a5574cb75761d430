"""The functions' network in the engine, and our fence around it.

    engine network slipway-functions ── bridge slipway<mark>, containers do not see one another
    our table of firewall rules      ── what they reach: see core/sandbox/fence.py

Both are made where they are missing and made anew where somebody took them away. Only root can make
the fence: run by an ordinary user, functions reach whatever this host reaches.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from docker.types import IPAMConfig, IPAMPool

from core.errors import Conflict, NotFound, SlipwayError, Unavailable
from core.sandbox.network import Network
from core.settings import Settings
from engine.client import Engine
from runtime.providers.docker.document import INSTALLATION, ours

log = logging.getLogger(__name__)

NAME = "slipway-functions"
_BRIDGE = "com.docker.network.bridge.name"
_ICC = "com.docker.network.bridge.enable_icc"
_MTU = "com.docker.network.driver.mtu"


class FunctionsNetwork:
    """One installation's network on one engine; safe to use from threads."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        """Changes nothing. Raises ConfigError: SLIPWAY_SUBNET is none."""
        port = 0 if settings.edge == "none" else settings.port
        self.fence = Network(settings.mark, settings.functions_subnet, port, containers=True)
        self._settings = settings
        self._engine = engine
        self._lock = threading.Lock()
        self._id = ""
        self._bridge = 0
        """The bridge's number; one that was made anew has another."""
        self.unfenced = ""
        """Why there is no fence; empty: there is one, or nobody has asked for it yet."""

    @property
    def edge(self) -> str:
        """URL under which functions reach the edge; '' where there is none."""
        return f"http://{self.fence.address}:{self.fence.port}" if self.fence.port else ""

    def ready(self) -> str:
        """The engine's id of the network, made with its fence at the first call.

        Raises:
            Unavailable: it cannot be made, or not now.
        """
        with self._lock:
            if not self._id:
                self._make()
            return self._id

    def mend(self) -> bool:
        """Makes anew what is missing; True if containers that were on it lost their connection.

        Raises:
            Unavailable: not now.
        """
        with self._lock:
            before, bridge = self._id, self._bridge
            if not before:
                self._make()
                return False
            there = self._find()
            if there is None or there["Id"] != before:
                log.warning("the functions' network was taken away: it is made anew")
                self._make(there)
                return True
            if not self.unfenced:
                self.fence.mend()
            self._bridge = self._number()
            return self._bridge != bridge

    def remove(self) -> None:
        """Removes network and fence; both stay while a container is on the network.

        Raises:
            Unavailable: the engine does not answer; the fence stays.
        """
        with self._lock:
            if there := self._find():
                try:
                    self._remove(there)
                except Conflict as error:
                    log.warning("the functions' network stays: %s", error)
                    return
            self._id, self._bridge = "", 0
            self.fence.teardown()

    def _make(self, there: dict[str, Any] | None = None) -> None:
        self._id = ""
        there = there or self._find()
        if there and not self._fits(there):
            try:
                self._remove(there)
            except Conflict as error:
                raise Unavailable(
                    f"the network {there['Name']} has other addresses than {self.fence.subnet} "
                    f"(SLIPWAY_SUBNET), or other options, and is in use: {error}"
                ) from error
            there = None
        id_ = there["Id"] if there else self._create()
        try:
            number = self._number()
            if not number and not there:
                raise Unavailable(
                    f"the engine at {self._engine.url} made the functions' network, but not on "
                    "this machine: Slipway has to run where that engine runs"
                )
            self._set_up_fence()
        except SlipwayError:
            if not there:
                with contextlib.suppress(SlipwayError), self._engine.asking("") as api:
                    api.remove_network(id_)
            raise
        self._id, self._bridge = id_, self._number()

    def _set_up_fence(self) -> None:
        self.unfenced = ""
        try:
            self.fence.setup()
        except Unavailable as error:
            if os.geteuid() == 0 and not self._settings.unsafe_no_sandbox:
                raise
            self.unfenced = str(error)
            log.warning("NO FENCE: functions reach all that this host reaches: %s", error)

    def _create(self) -> str:
        with _now(), self._engine.asking("the functions' network cannot be made") as api:
            taken = any(each["Name"] == NAME for each in api.networks(names=[NAME]))
            made = api.create_network(
                f"{NAME}-{self._settings.mark}" if taken else NAME,
                driver="bridge",
                options={**self._options(), _MTU: str(_mtu())},
                ipam=IPAMConfig(
                    pool_configs=[
                        IPAMPool(subnet=str(self.fence.subnet), gateway=str(self.fence.address))
                    ]
                ),
                labels={INSTALLATION: self._settings.mark},
                check_duplicate=True,
            )
        return str(made["Id"])

    def _find(self) -> dict[str, Any] | None:
        """Our network, whatever its options are now."""
        with self._engine.asking("the functions' network cannot be looked at") as api:
            found = api.networks(filters={"label": ours(self._settings.mark)})
        for each in found:
            named = each["Name"] in (NAME, f"{NAME}-{self._settings.mark}")
            if named and (each.get("Options") or {}).get(_BRIDGE) == self.fence.bridge:
                return dict(each)
        return None

    def _fits(self, there: Mapping[str, Any]) -> bool:
        ranges = [each.get("Subnet") for each in (there.get("IPAM") or {}).get("Config") or []]
        options = there.get("Options") or {}
        return ranges == [str(self.fence.subnet)] and self._options().items() <= options.items()

    def _options(self) -> dict[str, str]:
        return {_BRIDGE: self.fence.bridge, _ICC: "false"}

    def _remove(self, there: Mapping[str, Any]) -> None:
        """Raises Conflict: a container is on it."""
        with contextlib.suppress(NotFound):
            try:
                with self._engine.asking("the functions' network cannot be removed") as api:
                    api.remove_network(there["Id"])
            except Unavailable as error:
                if "active endpoints" in str(error):  # told as 403
                    raise Conflict(str(error)) from error
                raise

    def _number(self) -> int:
        """The bridge's; 0: there is none."""
        with contextlib.suppress(OSError):
            return socket.if_nametoindex(self.fence.bridge)
        return 0


@contextlib.contextmanager
def _now() -> Iterator[None]:
    """What another program did at the same time may be otherwise in a moment."""
    try:
        yield
    except (Conflict, NotFound) as error:
        raise Unavailable(str(error)) from error
    except Unavailable as error:
        if "overlaps" in str(error):
            raise Unavailable(f"{error}: set SLIPWAY_SUBNET to a free network") from error
        raise


def _mtu() -> int:
    """Bytes that a packet to the outside may have: containers' own links must not take more."""
    sizes = [1500]
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/net/route").read_text().splitlines()[1:]:
            interface, destination = line.split()[:2]
            if destination == "00000000":
                sizes.append(int(Path("/sys/class/net", interface, "mtu").read_text()))
    return min(sizes)

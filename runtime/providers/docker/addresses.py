"""Which address and which user a replica gets: both its own, and no address soon again."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network

from core.errors import Unavailable

_REST = 600.0
"""Seconds that an address rests after its use, where there are enough of them: the edge, and
clients of a function that answers late, may still know it."""


class Addresses:
    """Draws from the functions' subnet. The upper half is for replicas without a way out."""

    def __init__(self, subnet: IPv4Network) -> None:
        lower, upper = subnet.subnets()
        # Not the network's own, not the bridge's; not the broadcast address.
        self._open = range(int(lower[0]) + 2, int(lower[-1]) + 1)
        self._quiet = range(int(upper[0]), int(upper[-1]))
        self._subnet = subnet
        self._lock = threading.Lock()
        self._used: dict[int, float] = {}
        """Address → when it was drawn or given back, monotonic."""

    def draw(self, taken: Collection[str], *, quiet: bool) -> str:
        """Raises Unavailable: all are taken."""
        numbers = self._quiet if quiet else self._open
        busy = {int(IPv4Address(each)) for each in taken}
        now = time.monotonic()
        with self._lock:
            resting = {each for each, since in self._used.items() if now - since < _REST}
            for _ in range(64):  # random ones: this process forgets what an earlier one used
                number = random.choice(numbers)
                if number not in busy and number not in resting:
                    break
            else:
                free = [each for each in numbers if each not in busy]
                if not free:
                    raise Unavailable(
                        f"all addresses of {self._subnet} are taken: widen SLIPWAY_SUBNET"
                    )
                number = min(free, key=lambda each: self._used.get(each, 0.0))
            self._used = {each: self._used[each] for each in resting} | {number: now}
        return str(IPv4Address(number))

    def give_back(self, address: str) -> None:
        """It rests from now on."""
        with self._lock:
            self._used[int(IPv4Address(address))] = time.monotonic()

"""Network namespaces that are plugged in before a cell needs one: making one takes 15 ms.

A few are kept, made by a thread behind whoever takes one. Before one is handed out it is asked
whether the fence still stands: by the generation of the ruleset, which costs next to nothing, and
rule by rule where that is another one. Nobody but this process holds them: they, and the addresses
they have taken, go with it, however it ends.
"""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass

from core.errors import Unavailable
from core.sandbox import nft
from core.sandbox.netns import new_namespace
from core.sandbox.network import Network

log = logging.getLogger(__name__)

_READY = 8
"""As many as one owner's functions start at once."""
_QUIET = 0.2
"""Seconds after one was taken in which none is made: that is work for Python, beside a start."""
_SHARE = 16
"""Of as many addresses one may be kept ready."""


@dataclass(frozen=True)
class Outlet:
    """A plugged-in network namespace, held by a descriptor."""

    namespace: int
    address: str

    def close(self) -> None:
        os.close(self.namespace)


class Outlets:
    """The ready ones of one network. May be used from several threads."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._most = min(_READY, network.subnet.num_addresses // _SHARE)
        self._ready: list[Outlet] = []
        self._lock = threading.Condition()
        self._closed = False
        self._wanted = False
        self._generation = 0
        """Of the ruleset when the fence was last seen to stand."""
        self._thread = threading.Thread(target=self._fill, name="outlets", daemon=True)
        self._thread.start()

    def want(self) -> None:
        """Makes that some are ready soon."""
        with self._lock:
            self._wanted = True
            self._lock.notify()

    def take(self) -> Outlet | None:
        """Returns one, which is the caller's to close; None: none is ready.

        Raises:
            Unavailable: the fence does not stand, so nobody gets in.
        """
        with self._lock:
            outlet = self._ready.pop() if self._ready else None
            self._wanted = True
            self._lock.notify()
        if outlet is None:
            return None
        try:
            generation = nft.generation()
            if generation != self._generation:
                self._network.require()
                self._generation = generation
        except BaseException:
            outlet.close()
            raise
        return outlet

    def close(self) -> None:
        """Lets go of those that are left."""
        with self._lock:
            self._closed = True
            self._lock.notify()
        self._thread.join()
        for outlet in self._ready:
            outlet.close()
        self._ready.clear()

    def _fill(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._closed or self._wanted)
                while not self._closed and self._lock.wait(_QUIET):
                    pass  # one more was taken
                if self._closed:
                    return
                if len(self._ready) >= self._most:
                    self._wanted = False
                    continue
            try:
                outlet = self._make()
            except (OSError, Unavailable) as error:
                log.debug("no network is kept ready: %s", error)
                with self._lock:
                    self._wanted = False  # until somebody asks again
                continue
            with self._lock:
                self._ready.append(outlet)

    def _make(self) -> Outlet:
        namespace = new_namespace()
        try:
            return Outlet(namespace, self._network.plug(namespace))
        except BaseException:
            os.close(namespace)
            raise

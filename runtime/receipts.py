"""What each switch cost, as the edge saw it: counted from the first route change until no request
is with what was replaced, and at least for five seconds.

What is counted is written down as it grows, so that the next controller goes on with it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from core import failpoints
from core.models import FunctionRecord, OpenReceipt, Receipt
from core.settings import Settings
from core.store import Store
from runtime.edge import Edge
from runtime.edge.collector import Collector, Window
from runtime.plan import Key
from runtime.providers import Instance

LEAST_SECONDS = 5.0
"""The least time that a receipt covers."""
NOTE_EVERY = 0.5
"""Seconds between two notes of what was counted: the most that a controller's death takes."""


@dataclass
class _Switch:
    window: Window
    begun: float
    old: frozenset[str]
    noted: float
    receipt: Receipt | None = None
    """Of what is over and not written yet."""


class Receipts:
    """Those that are being counted."""

    def __init__(self, settings: Settings, store: Store, collector: Collector | None) -> None:
        self.longest = LEAST_SECONDS + 2 * settings.drain_timeout
        """Seconds after which one is written, whatever still drains."""
        self.store = store
        self.collector = collector
        self._open: dict[str, _Switch] = {}

    def resume(self, counting: Mapping[str, OpenReceipt]) -> None:
        """Goes on with what an earlier controller counted."""
        if self.collector is None:
            return
        for id_, each in counting.items():
            window = self.collector.begin_window(
                each.functions, since=each.counted_until, before=each.so_far
            )
            self._open[id_] = _Switch(window, each.begun, frozenset(each.old), 0.0)

    def begin(self, id_: str, functions: Iterable[str], old: Iterable[Instance]) -> None:
        """The routes are about to move away from the replicas ``old``."""
        if self.collector is None:
            return
        if open_ := self._open.get(id_):  # the switch failed, and is tried again
            open_.window.close()
        window = self.collector.begin_window(functions)
        switch = _Switch(window, time.time(), frozenset(each.id for each in old), 0.0)
        self._open[id_] = switch
        self._note(id_, switch)

    def drop(self, id_: str) -> None:
        """They did not move after all."""
        if switch := self._open.pop(id_, None):
            switch.window.close()
            self.store.drop_open_receipt(id_)

    def write(self, instances: Iterable[Instance], routed: Collection[str], edge: Edge) -> None:
        """Writes those that are over, and notes what the others have counted.

        ``routed``: addresses that serve. What serves again is not waited for.
        """
        if not self._open:
            return
        there = {each.id: each.address for each in instances}
        now = time.time()
        for id_, switch in list(self._open.items()):
            age = now - switch.begun
            left = {there[old] for old in switch.old if old in there} - set(routed)
            over = age > self.longest or all(edge.released(address) for address in left)
            if age >= LEAST_SECONDS and over:
                switch.receipt = switch.receipt or switch.window.close()
                self.store.save_receipt(id_, switch.receipt)
                failpoints.at("receipt-written")
                del self._open[id_]
            elif now - switch.noted > NOTE_EVERY:
                self._note(id_, switch)

    def note(self) -> None:
        """Notes what all have counted: at the end, for the next controller."""
        for id_, switch in self._open.items():
            self._note(id_, switch)

    def pending(self, id_: str) -> bool:
        return id_ in self._open

    def _note(self, id_: str, switch: _Switch) -> None:
        switch.noted = time.time()
        self.store.save_open_receipt(
            id_,
            OpenReceipt(
                functions=sorted(switch.window.functions),
                old=sorted(switch.old),
                begun=switch.begun,
                counted_until=switch.noted,
                so_far=switch.window.so_far(),
            ),
        )


def replaced(
    instances: Iterable[Instance],
    before: Mapping[str, FunctionRecord],
    after: Collection[Key],
) -> list[Instance]:
    """The replicas that serve now and will not once ``after`` is desired instead of ``before``."""
    return [
        each
        for each in instances
        if (record := before.get(each.function)) is not None
        and record.spec.revision == each.revision
        and (each.function, each.revision) not in after
    ]

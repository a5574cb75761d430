"""How long somebody waited while nobody was answered."""

from __future__ import annotations

from array import array

_SLICE = 100_000
"""Requests kept before they are folded: 1.6 MB."""


class Gaps:
    """Finds the longest gap: a stretch of time in which at least one request waited all the time
    and no request was answered.

    A request waits from its arrival to the first byte of its answer; one that the platform failed
    waits, for this purpose, until somebody else is answered, so that an outage counts from the
    first request that it hit. A function that is slow by itself makes gaps as well: the figure is
    an upper bound of what a switch cost. Requests that have not ended are not seen.

    Times are seconds of one clock. Above 100,000 requests the sum is made in slices, and a gap
    across the border of two is counted from its later part's first arrival.
    """

    def __init__(self, since: float) -> None:
        self._previous = since
        """Time of the last answer that was folded in; at first the begin of the watch."""
        self._longest = 0.0
        self._arrived = array("d")
        self._ended = array("d")
        self._answered = bytearray()

    def add(self, arrived: float, ended: float, *, answered: bool) -> None:
        """Takes note of one request; ``ended``: its answer's first byte, or its failure."""
        self._arrived.append(arrived)
        self._ended.append(ended)
        self._answered.append(answered)
        if len(self._ended) >= _SLICE:
            self._fold()

    def longest(self, until: float) -> float:
        """The longest gap in seconds, with one that still lasts at ``until``."""
        waiting = self._fold()
        last = until - max(self._previous, waiting) if waiting < until else 0.0
        return max(self._longest, last)

    @property
    def so_far(self) -> float:
        """The longest gap in seconds among those that are folded in: never too long."""
        return self._longest

    def _fold(self) -> float:
        """Goes through what was noted; returns since when failed ones wait (inf: none does)."""
        order = sorted(range(len(self._ended)), key=self._ended.__getitem__)
        # Earliest arrival among each request and all that ended after it.
        earliest = array("d", [float("inf")]) * (len(order) + 1)
        for place in range(len(order) - 1, -1, -1):
            earliest[place] = min(earliest[place + 1], self._arrived[order[place]])
        begin = 0
        for place, index in enumerate(order):
            if self._answered[index]:
                now = self._ended[index]
                self._longest = max(self._longest, now - max(self._previous, earliest[begin]))
                self._previous = max(self._previous, now)
                begin = place + 1
        waiting = earliest[begin]
        del self._arrived[:], self._ended[:], self._answered[:]
        return waiting

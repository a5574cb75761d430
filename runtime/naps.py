"""Functions that sleep paused: what they hold in memory stays for a while, so that they are back in
milliseconds. Where a provider does not pause, they just end.

A nap ends with its time, and the longest first where all of them together hold too much memory: the
container is ended then, and the next call starts another one. Since when one is paused is known to
this process alone: the next controller counts from its start.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from core import logging, scaling
from core.errors import SlipwayError
from core.models import FunctionRecord
from core.settings import Settings
from runtime.providers import Instance, Phase, Provider

MEASURE_EVERY = 10.0

log = logging.get()


class Naps:
    """Of all functions."""

    def __init__(self, settings: Settings, provider: Provider) -> None:
        self._longest = settings.pause if provider.pauses else 0.0
        self._most_memory = settings.paused_memory
        self._provider = provider
        self._since: dict[str, float] = {}
        """Ids → monotonic time."""
        self._memory: Mapping[str, float] = {}
        """Function → bytes, when last measured."""

    def may_begin(self, instance: Instance, record: FunctionRecord | None, paused: int) -> bool:
        """Whether one that is to end is paused instead: it is of a function that sleeps, and not
        more of it than wake together. ``paused``: how many of it are already."""
        if not self._longest or not _sleeps(instance, record):
            return False
        return paused < scaling.least(instance.spec.labels)

    def going_on(
        self, instances: Sequence[Instance], records: Mapping[str, FunctionRecord]
    ) -> set[str]:
        """Ids of the paused ones that may stay so."""
        now = time.monotonic()
        paused = {each.id: each for each in instances if each.phase is Phase.PAUSED}
        self._since = {id_: self._since.get(id_, now) for id_ in paused}
        each_of = Counter(each.function for each in paused.values())
        going_on, held = set(), 0.0
        for id_, since in sorted(self._since.items(), key=lambda each: -each[1]):
            instance = paused[id_]
            held += self._memory.get(instance.function, 0.0) / each_of[instance.function]
            late = now - since > self._longest
            record = records.get(instance.function)
            if not late and held <= self._most_memory and _sleeps(instance, record):
                going_on.add(id_)
        return going_on

    def measure(self, stop: threading.Event) -> None:
        """Keeps an eye on how much memory they hold, until ``stop``."""
        while not stop.wait(MEASURE_EVERY):
            try:
                paused = {
                    each.function
                    for each in self._provider.instances()
                    if each.phase is Phase.PAUSED
                }
                found = self._provider.usage(paused) if paused else {}
                self._memory = {f: usage.total_memory_bytes for f, usage in found.items()}
            except SlipwayError as error:
                log.warning("naps_not_measured", reason=str(error))
            except Exception:
                log.exception("naps_failed")


def _sleeps(instance: Instance, record: FunctionRecord | None) -> bool:
    return (
        record is not None
        and not record.replicas
        and not record.previous
        and record.spec.revision == instance.revision
    )

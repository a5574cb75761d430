"""Scales functions by their load, and puts those to sleep that nobody calls (by which labels:
core/scaling.py).

More replicas come at once. Requests that are refused (429, ``max_inflight``) are load that nobody
can measure: while there are any there are twice as many, and again after half a second. Fewer come
when fewer would have done for the busiest moment in the whole of ``down.window`` and a tenth more,
and then so many, so that a steady load moves nothing. Load is the mean over the last second or two.

All that is remembered is what was measured: the next controller begins to measure anew, and takes
every function for one that was called just now. Of two controllers neither undoes what the other
decided: it is written only where the function is still as it was seen.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial

from redis.exceptions import RedisError

from core import bounds, logging, scaling
from core.errors import SlipwayError
from core.models import FunctionRecord
from core.scaling import Rule
from core.settings import Settings
from core.store import Store
from runtime.edge import Edge
from runtime.edge.collector import Collector
from runtime.providers import Provider

LOOK_EVERY = 0.25
SPAN = {"rps": 2.0, "capacity": 1.0, "cpu": 0.0}
"""Seconds over which a load is the mean; what CPU is used is measured over a second."""
DOUBLE_EVERY = 0.5
TOLERANCE = 0.1
"""Share of a load that one which is steady may move by and end nothing, as in Kubernetes."""
IDLE_EVERY = 2.0
"""Seconds between two measurements of what CPU is used."""

log = logging.get()


@dataclass
class History:
    """What was measured of one function."""

    record: FunctionRecord
    rule: Rule
    since: float
    """Since when others leave it to us; all times are monotonic."""
    called: float
    """When a request was last seen."""
    decided: int = -1
    """What we said last."""
    requests: int | None = None
    """All there were, when last counted."""
    refused: int = 0
    """Of these by 429."""
    doubled: float = 0.0
    """When that last asked for more."""
    loads: deque[tuple[float, float]] = field(default_factory=deque)
    """(when, requests so far or load)."""
    wanted: deque[tuple[float, int, int]] = field(default_factory=deque)
    """(when, replicas that the load asked for, and that a load of ``1 + TOLERANCE`` would)."""

    def follow(self, record: FunctionRecord, rule: Rule, now: float) -> None:
        """Takes over what is desired now."""
        if record.spec.revision != self.record.spec.revision or not self.record.replicas:
            self.called = now
        if record.replicas not in (self.record.replicas, self.decided):
            self.since = now
        if rule != self.rule:
            self.loads.clear()  # of another kind, it may be
            self.wanted.clear()
            self.since = now
        self.record, self.rule = record, rule

    def see(self, now: float, requests: int, refused: int, under_way: int, cpu: float) -> None:
        """Takes note of one measurement."""
        first = self.requests is None
        if under_way or (not first and requests != self.requests):
            self.called = now
        if not first and refused > self.refused and now - self.doubled >= DOUBLE_EVERY:
            self.doubled = now
            twice = min(2 * self.record.replicas, self.rule.most)
            self.wanted.append((now, twice, twice))
        self.requests, self.refused = requests, refused
        kind = self.rule.type
        self.loads.append((now, {"rps": requests, "capacity": under_way, "cpu": cpu}[kind]))
        while self.loads[0][0] < now - SPAN[kind]:
            self.loads.popleft()
        if (load := self._load()) is not None:
            more = scaling.for_load(self.rule, load * (1 + TOLERANCE))
            self.wanted.append((now, scaling.for_load(self.rule, load), more))
        while self.wanted and self.wanted[0][0] < now - self.rule.window:
            self.wanted.popleft()

    def _load(self) -> float | None:
        first, last = self.loads[0], self.loads[-1]
        if self.rule.type != "rps":
            return sum(load for _, load in self.loads) / len(self.loads)
        # Two looks may lie so close together that one request is many a second.
        seconds = last[0] - first[0]
        return (last[1] - first[1]) / seconds if seconds >= SPAN["rps"] / 2 else None

    def decide(self, now: float) -> int:
        """How many replicas there shall be."""
        self.decided = self._decide(now)
        return self.decided

    def _decide(self, now: float) -> int:
        have = self.record.replicas
        if not have or self.record.previous:
            return have
        if self.rule.idle and now - self.called >= self.rule.idle:
            return 0
        if not self.rule.grows or not self.wanted:
            return have
        latest = max(wanted for at, wanted, _ in self.wanted if at == self.wanted[-1][0])
        if latest > have:
            return latest
        most = max(wanted for _, _, wanted in self.wanted)
        return most if most < have and now - self.since >= self.rule.window else have


class Scaler:
    """Of all functions that scale or sleep by themselves."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        provider: Provider,
        edge: Edge,
        collector: Collector | None,
    ) -> None:
        self._settings = settings
        self._sleeps = settings.scale_zero
        self._store = store
        self._provider = provider
        self._edge = edge
        self._collector = collector
        self._lock = threading.Lock()
        self._histories: dict[str, History] = {}
        self._rules: dict[str, Rule] = {}
        """By revision."""
        self._cpu: Mapping[str, float] = {}

    def see(self, records: Mapping[str, FunctionRecord]) -> None:
        """Takes note of what is desired now."""
        now = time.monotonic()
        rules = {}
        histories = {}
        with self._lock:
            for function, record in records.items():
                revision = record.spec.revision
                rule = self._rules.get(revision)
                if rule is None:
                    rule = scaling.rule(record.spec.labels, sleeps=self._sleeps)
                rules[revision] = rule
                if not rule.idle and not (rule.grows and rule.least < rule.most):
                    continue
                history = self._histories.get(function)
                if history is None:
                    history = History(record, rule, since=now, called=now)
                else:
                    history.follow(record, rule, now)
                histories[function] = history
            self._rules, self._histories = rules, histories

    def follow(self, stop: threading.Event) -> None:
        """Looks and decides, until ``stop``."""
        cpu = threading.Thread(target=self._measure, args=[stop], name="scale-cpu", daemon=True)
        cpu.start()
        told = ""
        while not stop.wait(LOOK_EVERY):
            try:
                self._look()
                told = ""
            except (RedisError, SlipwayError) as error:
                if (reason := f"{type(error).__name__}: {error}") != told:
                    log.warning("load_not_known", reason=reason)
                told = reason
            except Exception:
                log.exception("scaling_failed")

    def _look(self) -> None:
        with self._lock:
            functions = list(self._histories)
        if not functions:
            return
        requests, under_way = self._requests(functions), self._under_way()
        now = time.monotonic()
        decided = []
        with self._lock:
            for function in functions:
                history = self._histories.get(function)
                if history is None:
                    continue
                history.see(
                    now,
                    *requests.get(function, (0, 0)),
                    under_way.get(function, 0),
                    self._cpu.get(function, 0.0),
                )
                to = history.decide(now)
                if to != history.record.replicas:
                    decided.append((history.record, to))
        for record, to in decided:
            done = self._store.rescale(record, to, partial(self._most, record))
            if done is not None:
                log.info(
                    "function_scaled",
                    function=record.spec.function,
                    was=record.replicas,
                    replicas=done,
                )

    def _most(self, record: FunctionRecord) -> int:
        """How many replicas its owner's policy leaves for it."""
        owner = self._store.owner_of(record.spec.namespace)
        policy = self._store.policy(self._settings.policy).of(owner)
        return bounds.most_replicas(self._settings, self._store, policy, record.spec)

    def _requests(self, functions: Collection[str]) -> Mapping[str, tuple[int, int]]:
        """All there were, and of these by 429, which without an edge is not known."""
        if self._collector:
            return self._collector.requests(functions)
        counts = self._store.counts_of(list(functions))
        return {function: (count, 0) for function, count in counts.items()}

    def _under_way(self) -> Mapping[str, int]:
        """Requests that each function has, by the edge and by gateways."""
        forwarded = self._store.forwarded()
        forwarded.update(self._edge.under_way())
        return forwarded

    def _measure(self, stop: threading.Event) -> None:
        """What CPU they use: beside the looks, as it takes a second."""
        while not stop.wait(IDLE_EVERY if not self._by_cpu() else 0.0):
            try:
                if wanted := self._by_cpu():
                    found = self._provider.usage(wanted)
                    self._cpu = {function: usage.cpu for function, usage in found.items()}
            except SlipwayError as error:
                log.warning("load_not_known", reason=str(error))
                stop.wait(IDLE_EVERY)
            except Exception:
                log.exception("scaling_failed")
                stop.wait(IDLE_EVERY)

    def _by_cpu(self) -> list[str]:
        with self._lock:
            return [
                function
                for function, each in self._histories.items()
                if each.rule.grows and each.rule.type == "cpu" and each.record.replicas
            ]

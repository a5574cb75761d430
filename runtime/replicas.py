"""Starting replicas and knowing which are healthy.

Each start has a thread of its own until the replica is healthy, so a replica that hangs holds up
nobody else; how many start at once is bounded, of one namespace and of all. Nothing is queued: what
cannot be started now is asked for again by the next pass, if it is still wanted then. The address
of a replica is bound before its code runs, so the health request that is sent right after the start
is answered the moment the replica is ready.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from core import failpoints, logging
from core.errors import Conflict, SlipwayError, Unavailable
from core.http import request
from core.models import FunctionSpec
from core.quantities import seconds
from core.settings import Settings
from runtime.plan import Key
from runtime.providers import Instance, Phase, Provider

STARTS_AT_ONCE, STARTS_OF_NAMESPACE = 64, 8
PROBES_AT_ONCE, PROBES_OF_NAMESPACE = 32, 8
"""Whoever has many that do not answer waits for their own alone."""
HEALTH_PATH = "/_/health"
PROBE_SECONDS = 5.0
"""Longest wait for one health answer."""
LAST_SECONDS = 0.5
"""The least that the last look of a start gets: its answer is what is told."""
PROBE_EVERY = 10.0
"""Seconds between two looks at a healthy replica."""
STRIKES = 3
"""Failed looks in a row after which a replica is replaced."""
BACKOFF_FIRST, BACKOFF_MOST = 0.5, 30.0
STEADY = 60.0
"""Seconds of life after which earlier failures of a revision are forgotten."""

log = logging.get()


@dataclass
class Trouble:
    """What went wrong with a revision, and when it may be started again."""

    failures: int
    reason: str
    passing: bool
    """Not the function's own fault: the machine refused for now."""
    at: float
    next_start: float
    """When it happened, and when it may be tried again: monotonic time."""


@dataclass
class _Health:
    key: Key
    ready: bool
    next_probe: float
    fresh: bool = False
    """Started by us and never healthy: no request was ever sent to it."""
    strikes: int = 0
    probing: bool = False


class Replicas:
    """Replicas as the controller sees them; ``changed`` is called when there is news, ``healthy``
    when one has just become so."""

    def __init__(
        self,
        settings: Settings,
        provider: Provider,
        changed: Callable[[], None],
        healthy: Callable[[Instance], None] = lambda _: None,
    ) -> None:
        self.settings = settings
        self.provider = provider
        self._changed = changed
        self._healthy = healthy
        self._lock = threading.Lock()
        self._health: dict[str, _Health] = {}
        self._pending: Counter[Key] = Counter()
        """Starts whose process is not there yet."""
        self._starting: Counter[str] = Counter()
        """Namespace → starts that are not healthy yet: they take up room."""
        self._probing: Counter[str] = Counter()
        self._trouble: dict[Key, Trouble] = {}
        self._wanted: Collection[Key] | None = None
        """None: nobody has said yet."""
        self._pool = ThreadPoolExecutor(STARTS_AT_ONCE, thread_name_prefix="start")
        self._probes = ThreadPoolExecutor(PROBES_AT_ONCE, thread_name_prefix="probe")
        self._closed = threading.Event()
        self._condemned: set[str] = set()
        """Ids of those that failed and could not be removed at once: they get no time to drain."""

    def close(self) -> None:
        """Starts and probes under way end by themselves; what they started is found again."""
        self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._probes.shutdown(wait=False, cancel_futures=True)

    def adopt(self, routed: Collection[str]) -> None:
        """Takes over what an earlier controller left running; all of it is probed at once.

        Replicas at a ``routed`` address were healthy when it last looked and stay in the routes:
        otherwise its restart would take every function out of them. Any other one has to answer
        first, and has the time of a fresh start for it. What ended while nobody looked may have
        been taken by a power cut: it is started again, and has to end once more to count.
        """
        for instance in self.provider.instances():
            if instance.phase is Phase.EXITED:
                self._condemned.add(instance.id)
            if instance.phase is not Phase.RUNNING:
                continue
            ready = instance.address in routed
            key = (instance.function, instance.revision)
            health = _Health(key, ready=ready, next_probe=0.0 if ready else float("inf"))
            self._health[instance.id] = health
            if not ready:
                self._pool.submit(self._resume, instance, health)

    def instances(self) -> list[Instance]:
        """All instances; forgets what is known of those that are gone."""
        with self._lock:
            known = {*self._health, *self._condemned}
        found = list(self.provider.instances())
        gone = known - {instance.id for instance in found}
        with self._lock:
            for id_ in gone:
                self._health.pop(id_, None)
                self._condemned.discard(id_)
        return found

    def ready(self) -> set[str]:
        with self._lock:
            return {id_ for id_, health in self._health.items() if health.ready}

    def taken_over(self) -> set[str]:
        """Those of an earlier controller that have not answered yet: they may have served."""
        with self._lock:
            return {
                id_
                for id_, health in self._health.items()
                if not health.ready
                and not health.fresh
                and health.next_probe == float("inf")
                and id_ not in self._condemned
            }

    def condemned(self, instance: Instance) -> bool:
        """Whether it failed, and is to be removed without being asked."""
        with self._lock:
            return instance.id in self._condemned

    def untried(self, instance: Instance) -> bool:
        """Whether it has not become healthy yet: then no request is with it."""
        with self._lock:
            health = self._health.get(instance.id)
            return health is not None and not health.ready and health.fresh

    def pending(self) -> dict[Key, int]:
        """Starts without a process yet; one that waits for its back-off counts as such."""
        now = time.monotonic()
        with self._lock:
            waiting = {key: 1000 for key, t in self._trouble.items() if t.next_start > now}
            return {**self._pending, **waiting}

    def begun(self, key: Key) -> bool:
        """Whether a replica is being started, so that ``changed`` will be called."""
        with self._lock:
            awaited = any(each.key == key and not each.ready for each in self._health.values())
            return awaited or self._pending[key] > 0

    def trouble(self, key: Key) -> Trouble | None:
        with self._lock:
            return self._trouble.get(key)

    def troubled(self) -> set[Key]:
        """Revisions of which a replica ended or could not start by their own fault."""
        with self._lock:
            return {key for key, trouble in self._trouble.items() if not trouble.passing}

    def counts(self, trouble: Trouble, since: float) -> bool:
        """Whether a trouble is that of what was first wanted at ``since`` (monotonic time), and not
        one that passes in the time for starting."""
        patience = self.settings.health_timeout if trouble.passing else 0.0
        return trouble.at > since and time.monotonic() - since >= patience

    def forget(self, wanted: set[Key]) -> None:
        """Drops the troubles of revisions that nothing wants any more, and calls off their starts
        as far as those wait for an image."""
        with self._lock:
            self._wanted = frozenset(wanted)
            for key in [key for key in self._trouble if key not in wanted]:
                del self._trouble[key]

    def start(self, spec: FunctionSpec, most: int) -> None:
        """Starts one replica in the background and waits there for it to become healthy.

        Does nothing where ``most`` are there or starting already: others may ask for the same just
        now. Nor while as many as may be are starting: ``changed`` is called when one is done.
        """
        key = (spec.function, spec.revision)
        with self._lock:
            there = sum(health.key == key for health in self._health.values())
            if there + self._pending[key] >= most:
                return
            if not self._has_room(spec.namespace):
                return
            self._starting[spec.namespace] += 1
            self._pending[key] += 1
        self._pool.submit(self._start, spec, key)

    def resume(self, instance: Instance) -> None:
        """Lets a paused one go on, and waits in the background until it answers. Does nothing while
        that is being done already, nor while as many as may be are starting, as ``start``."""
        key = (instance.function, instance.revision)
        with self._lock:
            known = self._health.get(instance.id)
            if known and not known.ready:  # one that is ready was paused by somebody else
                return
            if not self._has_room(instance.spec.namespace):
                return
            self._starting[instance.spec.namespace] += 1
            self._health[instance.id] = health = _Health(key, ready=False, next_probe=float("inf"))
        self._pool.submit(self._wake, instance, health)

    def _has_room(self, namespace: str) -> bool:
        full = self._starting.total() >= STARTS_AT_ONCE
        return not full and self._starting[namespace] < STARTS_OF_NAMESPACE

    def terminate(self, instance: Instance) -> None:
        """Asks one to end. Raises as Provider.terminate."""
        self.provider.terminate(instance)
        with self._lock:
            self._health.pop(instance.id, None)

    def pause(self, instance: Instance) -> None:
        """Halts one that no request is with. Raises as Provider.pause."""
        with self._lock:
            self._health.pop(instance.id, None)  # first: a paused one answers no probe
        self.provider.pause(instance)

    def look(self, instances: list[Instance]) -> None:
        """Probes every replica whose time has come, in the background."""
        now = time.monotonic()
        for instance in instances:
            if instance.phase is not Phase.RUNNING:
                continue
            with self._lock:
                health = self._health.get(instance.id)
                if health is None or health.probing or health.next_probe > now:
                    continue
                if self._probing[instance.spec.namespace] >= PROBES_OF_NAMESPACE:
                    continue
                self._probing[instance.spec.namespace] += 1
                health.probing = True
            self._probes.submit(self._probe, instance, health)

    def died(self, instance: Instance) -> None:
        """Takes note of a death that nobody asked for."""
        key = (instance.function, instance.revision)
        if time.time() - instance.started_at > STEADY:
            with self._lock:
                self._trouble.pop(key, None)
        with self._lock:
            self._health.pop(instance.id, None)
        self._failed(key, instance.exit_reason or "ended")
        self._changed()

    def _failed(self, key: Key, reason: str, *, passing: bool = False) -> None:
        with self._lock:
            before = self._trouble.get(key)
            failures = before.failures + 1 if before else 1
            pause = 0.0
            if failures > 1:
                pause = min(BACKOFF_FIRST * 2 ** (failures - 2), BACKOFF_MOST)
            now = time.monotonic()
            self._trouble[key] = Trouble(failures, reason, passing, now, now + pause)
        log.warning("replica_failed", function=key[0], reason=reason, failures=failures)

    def _unwanted(self, key: Key) -> bool:
        wanted = self._wanted
        return self._closed.is_set() or (wanted is not None and key not in wanted)

    def _start(self, spec: FunctionSpec, key: Key) -> None:
        try:
            try:
                failpoints.at("start-asked")
                instance = self.provider.start(spec, lambda: self._unwanted(key))
                failpoints.at("replica-started")
                with self._lock:
                    health = self._health.setdefault(
                        instance.id, _Health(key, ready=False, next_probe=float("inf"), fresh=True)
                    )
            finally:
                with self._lock:
                    self._pending[key] -= 1
                    self._pending += Counter()  # without those at zero
            self._await_health(instance, health)
        except SlipwayError as error:
            if not (isinstance(error, Conflict) and self._unwanted(key)):
                self._failed(key, str(error), passing=error.retryable)
        except Exception as error:
            log.exception("start_failed", function=key[0])
            self._failed(key, f"internal error while starting: {error}")
        finally:
            with self._lock:
                self._starting[spec.namespace] -= 1
                self._starting += Counter()
            self._changed()

    def _resume(self, instance: Instance, health: _Health) -> None:
        """Goes on with a start that an earlier controller had begun."""
        try:
            self._await_health(instance, health)
        except Exception as error:
            log.exception("start_failed", function=instance.function)
            self._end(instance, f"internal error while starting: {error}")
        finally:
            self._changed()

    def _wake(self, instance: Instance, health: _Health) -> None:
        try:
            self.provider.resume(instance)
            self._await_health(instance, health)
        except Exception as error:  # another one is started in its place
            if not isinstance(error, SlipwayError):
                log.exception("start_failed", function=instance.function)
            with self._lock:
                self._health.pop(instance.id, None)
            self._end(instance, f"could not be woken: {error}", passing=True)
        finally:
            with self._lock:
                self._starting[instance.spec.namespace] -= 1
                self._starting += Counter()
            self._changed()

    def _await_health(self, instance: Instance, health: _Health) -> None:
        begun = time.monotonic()
        delay = _duration(_asked(instance.spec, "initialDelay", ready=True))
        if delay:
            self._closed.wait(min(delay, self.settings.health_timeout))
        deadline = time.monotonic() + self.settings.health_timeout
        answer = ""
        while (left := deadline - time.monotonic()) > 0 and not self._closed.is_set():
            answer = self._ask(instance, min(PROBE_SECONDS, max(left, LAST_SECONDS)), ready=True)
            if not answer:
                with self._lock:
                    health.ready = True
                    health.next_probe = time.monotonic() + PROBE_EVERY
                failpoints.at("replica-healthy")
                self._healthy(instance)
                took = time.monotonic() - begun
                log.info("replica_ready", instance=instance.id, seconds=round(took, 3))
                return
            if not self._runs(instance):
                return  # its death is told by died()
            time.sleep(0.05)
        if self._closed.is_set():
            return  # the next controller goes on with it
        self._end(
            instance,
            f"did not become healthy within {self.settings.health_timeout:g} s "
            f"(SLIPWAY_HEALTH_TIMEOUT): {answer}",
        )

    def _probe(self, instance: Instance, health: _Health) -> None:
        answer = self._ask(instance, PROBE_SECONDS)
        with self._lock:
            self._probing[instance.spec.namespace] -= 1
            self._probing += Counter()
            health.probing = False
            health.next_probe = time.monotonic() + (1.0 if answer else PROBE_EVERY)
            health.strikes = health.strikes + 1 if answer else 0
            lost = health.strikes >= STRIKES
            if not answer:
                health.ready = True
            elif lost:
                health.ready = False
        if lost:
            log.warning("replica_unhealthy", instance=instance.id, answer=answer)
            self._end(instance, f"stopped answering: {answer}")
            self._changed()

    def _end(self, instance: Instance, reason: str, *, passing: bool = False) -> None:
        """Removes one that failed; what cannot be removed now is buried once it has ended."""
        with self._lock:
            self._condemned.add(instance.id)
        self._failed((instance.function, instance.revision), reason, passing=passing)
        try:
            self.provider.remove(instance)
        except (SlipwayError, OSError) as error:
            log.warning("replica_stays", instance=instance.id, reason=str(error))

    def _ask(self, instance: Instance, timeout: float, *, ready: bool = False) -> str:
        """'' if the replica says it is healthy, else what it said instead. ``ready``: the first
        time, where it may have another path to ask."""
        spec = instance.spec
        named = _asked(spec, "path", ready=ready)
        path = named or HEALTH_PATH
        try:
            status, body = request(instance.address, "GET", path, timeout=timeout)
        except (OSError, ValueError) as error:  # ValueError: what is no path
            advice = _advice(instance) if isinstance(error, ConnectionRefusedError) else ""
            return f"no answer on {path} ({error or type(error).__name__}){advice}"
        if 200 <= status < 300 or (spec.foreign and _will_do(status, named=bool(named))):
            return ""
        return f"{path} answered {status}: {body[:200].decode('utf-8', 'replace').strip()}"

    def _runs(self, instance: Instance) -> bool:
        """Also while the engine is away, so that nobody knows."""
        try:
            found = self.provider.instances()
        except Unavailable:
            return True
        return any(each.id == instance.id and each.phase is Phase.RUNNING for each in found)


def _asked(spec: FunctionSpec, what: str, *, ready: bool) -> str:
    """``com.openfaas.health.http.<what>``; of a fresh replica ``com.openfaas.ready.http.<what>``,
    where that is there."""
    health = spec.annotation(f"com.openfaas.health.http.{what}")
    return (spec.annotation(f"com.openfaas.ready.http.{what}") if ready else "") or health


def _will_do(status: int, *, named: bool) -> bool:
    """Whether an image that was not built here is healthy by this answer.

    On a path that its annotation has (``named``), 2xx and 3xx are, as for Kubernetes. On the usual
    one it need not know what is asked: an answer is enough, but for those by which a watchdog, or a
    proxy in the image, says that what is behind it is not there yet.
    """
    return status < 400 if named else status not in (502, 503, 504)


def _advice(instance: Instance) -> str:
    host, _, port = instance.address.rpartition(":")
    if not host or not instance.spec.foreign:
        return ""
    return (
        f": an image has to listen on TCP port {port} of all addresses (0.0.0.0), whatever it "
        "exposes; a watchdog takes another one from the variable 'port'"
    )


def _duration(text: str) -> float:
    try:
        return seconds(text) if text else 0.0
    except ValueError:
        return 0.0

"""The controller: desired ↔ observed, level-triggered.

One pass reads what should be (the store) and what is (the provider), and acts on the difference:
start, route, drain, end. It keeps nothing that it could not find again, so it may be killed
between any two lines; the next pass goes on. Woken by changes, it passes every two seconds anyway.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial

from redis.exceptions import RedisError

from core import disk, failpoints, logging
from core.errors import SlipwayError, Unavailable
from core.models import FunctionRecord
from core.readiness import tell_ready
from core.settings import Settings
from core.signing import secret_file
from core.store import BUILDERS, Store, connect
from runtime import housekeeping, policy, secrets, usage, waking, watch
from runtime.edge import Edge, Route, make_edge
from runtime.edge.collector import Collector
from runtime.housekeeping import Housekeeping
from runtime.leaving import Leaving
from runtime.naps import Naps
from runtime.plan import Key, healthy, plan, routes, settled, wanted
from runtime.providers import Instance, Phase, Provider
from runtime.providers.registry import make_provider
from runtime.receipts import Receipts
from runtime.releases import Releases
from runtime.replicas import Replicas
from runtime.rollbacks import Rollbacks
from runtime.scaler import Scaler
from runtime.schedules import Schedules
from runtime.sealingkeys import SealingKeys
from runtime.stopping import STOP_SECONDS, stop_all
from runtime.telling import Telling
from runtime.watch import Watch

PASS_EVERY = 2.0
BUSY_EVERY = 0.05
"""Seconds between passes while something drains or starts."""
BEAT = 10.0
SWITCH_EVERY = 0.0005
"""Seconds after which a thread that computes lets others go on."""

log = logging.get()


class Controller:
    def __init__(
        self,
        settings: Settings,
        store: Store,
        provider: Provider,
        edge: Edge,
        collector: Collector | None,
    ) -> None:
        self.settings = settings
        self.store = store
        self.provider = provider
        self.edge = edge
        self.collector = collector
        self.replicas = Replicas(settings, provider, self.wake, self._awake)
        self.receipts = Receipts(settings, store, collector)
        self.watch = Watch(settings, store, self.replicas, self.receipts, edge, collector)
        parts = (settings, store, provider, self.replicas, self.receipts)
        self.releases = Releases(*parts, self.watch)
        self.rollbacks = Rollbacks(*parts)
        self.naps = Naps(settings, provider)
        self.leaving = Leaving(settings, store, provider, self.replicas, edge, self.naps)
        self.telling = Telling(store, self.replicas)
        self.scaler = Scaler(settings, store, provider, edge, collector)
        self.schedules = Schedules(settings, store)
        self.sealing_keys = SealingKeys(settings.sealing_keys)
        self._news = threading.Event()
        self._stop = threading.Event()
        self._engine_away = False
        self._untold: set[str] = set()
        """Functions of which a release made something desired that an earlier controller had not
        told of yet."""
        self._counted: frozenset[str] | None = None
        """The functions that there were when counts of all others were last dropped."""

    def wake(self) -> None:
        self._news.set()

    def stop(self) -> None:
        self._stop.set()
        self._news.set()

    def run(self) -> None:
        """Passes until ``stop``; functions live on."""
        self._adopt()
        # A start is many short calls of the system; each would wait 5 ms for a pass that computes.
        sys.setswitchinterval(SWITCH_EVERY)
        threads = [
            threading.Thread(target=each, daemon=True)
            for each in (
                *(self._listen, self._watch_deaths, self._mend, self._tidy, self._measure),
                partial(self.scaler.follow, self._stop),
                partial(self.naps.measure, self._stop),
                partial(self.schedules.follow, self._stop),
                partial(self.sealing_keys.follow, self.store, self._stop),
            )
        ]
        for thread in threads:
            thread.start()
        while not self._stop.is_set():
            self._news.clear()
            pause = PASS_EVERY
            try:
                pause = self.pass_()
                tell_ready()
                self._engine_away = False
            except RedisError as error:
                log.warning("store_unavailable", error=str(error))
                self.telling.forget()
            except Unavailable as error:
                self._stand_by(str(error))
            except Exception:
                log.exception("pass_failed")
            self._news.wait(pause)
        self.replicas.close()
        if self.collector:
            self.collector.stop()  # first: what comes later the edge keeps for the next one
            try:
                self.receipts.note()
                self.collector.tally.hand_over(self.store)
            except RedisError as error:
                log.warning("counts_lost", error=str(error))
        self.provider.close()

    def _stand_by(self, reason: str) -> None:
        """What runs is not known, so nothing is decided: the routes stay, functions live on."""
        if not self._engine_away:
            log.warning("engine_unavailable", reason=reason)
        self._engine_away = True
        try:
            self.edge.tick()  # an edge that was restarted meanwhile gets its routes back
        except SlipwayError as error:
            log.warning("edge_unavailable", reason=str(error))
        try:
            self._beat()
        except RedisError as error:
            log.warning("store_unavailable", error=str(error))

    def _adopt(self) -> None:
        """Waits for the store and for the engine, and takes over what an earlier controller left
        running."""
        while not self._stop.is_set():
            try:
                records, observed = self.store.functions(), self.store.all_observed()
                counting = self.store.open_receipts()
            except RedisError as error:
                log.warning("store_unavailable", error=str(error))
                self._stop.wait(PASS_EVERY)
                continue
            self._untold = {
                function
                for function, record in records.items()
                if record.release
                and (
                    (seen := observed.get(function)) is None
                    or (seen.revision and seen.revision != record.spec.revision)
                )
            }
            routed = {
                address
                for function, seen in observed.items()
                if function in records
                for address in seen.endpoints
            }
            try:
                self.replicas.adopt(routed)
            except Unavailable as error:
                self._stand_by(str(error))
                self._stop.wait(PASS_EVERY)
                continue
            if self.collector:
                self.collector.only(records)  # first: what the edge kept meanwhile counts as well
                self.receipts.resume(counting)
                self.collector.start()
            return

    def pass_(self) -> float:
        """Compares and acts once; returns the seconds until the next look is due, if nothing
        happens."""
        records = self.store.functions()
        self.schedules.tell(records)  # first: they do not wait for the engine
        staged = self.releases.staged()
        self.rollbacks.look()
        warm = self._warm()
        pending = self.replicas.pending()  # before the instances: a start may end in between
        instances = self.replicas.instances()
        staying = [each for each in instances if each.id not in self.leaving]
        counts = healthy(staying, self.replicas.ready())
        changed = self._settle(records, counts)
        changed |= self.releases.advance(staged, records, counts, self.rollbacks.switched())
        changed |= self.rollbacks.advance(records, counts)
        if changed:
            records, warm = self.store.functions(), self._warm()
        staged = {id_: each for id_, each in staged.items() if id_ not in self.releases.given_up}
        returning = [*self.rollbacks.wants(records), *self.watch.wants()]
        wants = wanted(records.values(), staged.values(), returning)
        self.replicas.forget({key for key, want in wants.items() if want.replicas})
        staying += self.leaving.take_back(instances, wants, staying)
        self.provider.prepare([each.spec for each in records.values()])
        dead = [each for each in instances if each.phase is Phase.EXITED]
        self.leaving.bury(dead, wants)
        ready, taken_over = self.replicas.ready(), self.replicas.taken_over()
        naps = self.naps.going_on(staying, records)
        todo = plan(wants, staying, ready, pending, warm, taken_over, naps)
        for spec in todo.start:  # they take the longest
            self.replicas.start(spec, wants[spec.function, spec.revision].replicas)
        for instance in todo.resume:
            self.replicas.resume(instance)
        self.leaving.begin(todo.leave)
        if self.collector:
            self.collector.only(records)
        # In this order: one that answers in between is in one of both.
        taken_over, ready = self.replicas.taken_over(), self.replicas.ready()
        spaces = {each.spec.namespace for each in records.values()}
        hostless = self.store.hostless(self.settings, spaces)
        table = routes(
            records.values(), instances, ready, self.leaving, taken_over, self._untold, hostless
        )
        moved = self._route(table)
        # Before anything ends, and before a release is called live: without an edge, what is
        # told here is the route.
        self.telling.tell(records, table)
        self._beat()
        self._count(frozenset(records))
        if moved:
            failpoints.at("routes-told")
            self.releases.finish(staged, records, table)
            self.rollbacks.finish(records, table)
            if self.watch.look(records, table, counts):
                self.wake()
        self.leaving.drain(instances, records)
        self.scaler.see(records)
        self.replicas.look(instances)
        routed = {address for route in table.values() for address in route.endpoints}
        self.receipts.write(instances, routed, self.edge)
        if self.leaving:
            return BUSY_EVERY
        return watch.LOOK_EVERY if self.watch.busy else PASS_EVERY

    def _warm(self) -> set[Key]:
        """Revisions that go on running though nothing is routed to them."""
        now, found = time.time(), self.store.warm()
        if over := [function for function, each in found.items() if each.until < now]:
            self.store.cool(over)
            failpoints.at("cooled")
        return {(function, each.revision) for function, each in found.items() if each.until >= now}

    def _settle(self, records: Mapping[str, FunctionRecord], counts: Mapping[Key, int]) -> bool:
        """Lets go of what served until a deploy by API was healthy; True if there was such."""
        done = settled(records.values(), counts)
        for record in done:
            if self.store.settle(record.spec):
                log.info("deployed", function=record.spec.function, revision=record.spec.revision)
        return bool(done)

    def _route(self, table: Mapping[str, Route]) -> bool:
        """Hands the edge the whole table; False while the edge is away: functions live on."""
        try:
            self.edge.apply(table)
        except SlipwayError as error:
            log.warning("edge_unavailable", reason=str(error))
            return False
        return True

    def _beat(self) -> None:
        """Tells that we and the edge live."""
        self.store.beat("controller", BEAT, self.provider.name)
        if self.edge.alive():
            self.store.beat("edge", BEAT)

    def _count(self, functions: frozenset[str]) -> None:
        """Hands over what was counted, first: a function that is gone leaves nothing behind."""
        if self.collector:
            self.collector.tally.hand_over(self.store)
        if functions != self._counted:
            self.store.forget_traffic(functions)
            self._counted = functions

    def _listen(self) -> None:
        """Passes on the store's wake-ups; the store may come and go."""
        rouse = partial(waking.rouse, self.store, self.provider, self.replicas)
        while not self._stop.is_set():
            try:
                with self.store.wakes() as subscription:
                    while not self._stop.is_set():
                        message = subscription.get_message(timeout=5.0)
                        told = message["data"] if message else BUILDERS
                        if told != BUILDERS and not rouse(told.decode()):
                            self.wake()
            except RedisError:
                self._stop.wait(0.5)
            except Exception:  # a pass does what was to be done here
                log.exception("not_roused")
                self.wake()
                self._stop.wait(0.5)

    def _awake(self, instance: Instance) -> None:
        if waking.tell(self.store, instance, self.telling.last(instance.function)):
            self.telling.overtaken()

    def _watch_deaths(self) -> None:
        while not self._stop.is_set():
            self.provider.wait(PASS_EVERY)
            self.wake()

    def _mend(self) -> None:
        """Beside the passes, which may wait for the store: what fences functions in must not."""
        told = ""
        while not self._stop.wait(PASS_EVERY):
            try:
                self.provider.mend()
                told = ""
            except Unavailable as error:
                if str(error) != told:
                    told = str(error)
                    log.warning("not_mended", reason=told)
            except Exception:
                log.exception("mend_failed")

    def _tidy(self) -> None:
        """Beside the passes as well: removing an image may take its time."""
        duty = Housekeeping(self.settings, self.store, self.provider)
        housekeeping.follow(duty, self._stop, self.warn_of_disks)

    def _measure(self) -> None:
        """And what functions use: an engine takes its time for that too."""
        usage.follow(self.store, self.provider, self._stop)

    def warn_of_disks(self) -> None:
        """Logs which of the disks that we fill are nearly full."""
        folders = [self.settings.state]
        with suppress(Unavailable):
            folders += self.provider.disks()
        for warning in disk.warnings(folders, disk.LOW):
            log.warning("disk_nearly_full", reason=warning)


def main() -> None:
    """``python -m runtime.controller [--stop-all|--stop-all-now]``; settings: environment."""
    settings = Settings.from_env(os.environ)
    logging.configure("controller", settings.log_format)
    # Each replica takes three descriptors of ours.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    key = secret_file(settings.state / "spec-key", length=32).encode()
    store = Store(connect(settings.store_url))
    provider = make_provider(
        settings, key, secrets.reader(settings, store), policy.reader(settings, store)
    )
    if sys.argv[1:] in (["--stop-all"], ["--stop-all-now"]):
        now = sys.argv[1] == "--stop-all-now"
        try:
            stop_all(provider, 0.0 if now else min(settings.drain_timeout, STOP_SECONDS))
        except Unavailable as error:
            sys.exit(str(error))
        return
    collector = Collector(settings) if settings.edge == "haproxy" else None
    lost = collector.lose if collector else lambda _: None
    controller = Controller(settings, store, provider, make_edge(settings, lost), collector)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: controller.stop())
    log.info("controller_started", provider=provider.name)
    controller.run()


if __name__ == "__main__":
    main()

"""The warm parents there are, and what is forked of them: functions that are like one (seeds.py).
Any other one is started; that is never an error.

A parent is one owner's: processes that are forked of one another share their layout in memory and
the seed of their hashes, and no owner shall learn another's.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from core import logging
from core.bundle import Bundle
from core.errors import SlipwayError
from core.models import FunctionSpec
from core.sandbox import Cell, Outlets, Parent, Sandbox, Unforkable
from core.settings import Settings
from runtime.providers.seeds import TEMPLATES, foreign, popular, same_start, seed

log = logging.get()

MOST = 8
"""Parents at once, each 20 MB with the child that waits: of the owners who started last."""
_AGAIN = 60.0
"""Seconds after which a parent is tried once more that could not be made."""


@dataclass(frozen=True)
class Key:
    """Whose parent, of which template, and what it has beside that."""

    namespace: str
    template: str
    packages: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "-".join((self.namespace, self.template, *self.packages))


class Warmth:
    """All parents of one installation. May be used from several threads.

    A thread makes parents, one after another, and ends those that nothing needs: neither is waited
    for by a start.
    """

    def __init__(self, settings: Settings, sandbox: Sandbox) -> None:
        self._settings = settings
        self._sandbox = sandbox
        self.refused = sandbox.cold()
        """Why nothing is forked here; empty: it is."""
        self._parents: OrderedDict[Key, Parent] = OrderedDict()
        """In the order of use."""
        self._wanted: OrderedDict[Key, None] = OrderedDict()
        self._failed: dict[Key, float] = {}
        self._reasons: dict[tuple[str, str], str] = {}
        """Of bundles that are not forked; '' of those that are."""
        self._packages: dict[tuple[str, str], tuple[str, ...]] = {}
        """Of bundles that are forked: what their parent has beside the template."""
        self._lock = threading.Condition()
        self._closed = False
        self._outlets: Outlets | None = None
        self._thread = threading.Thread(target=self._make, name="warm", daemon=True)
        if not self.refused:
            self._thread.start()

    def parent(self, spec: FunctionSpec, bundle: Bundle, cell: Cell) -> Parent | None:
        """The parent that forks this cell; None: it is started, and a parent may be made for the
        next one."""
        if self.refused or self._reason(spec, bundle) or not same_start(bundle, cell):
            return None
        key = self._key(spec, bundle)
        with self._lock:
            parent, broken = self._parents.get(key), None
            if parent and parent.broken:
                parent, broken = None, self._parents.pop(key)
            if parent:
                self._parents.move_to_end(key)
            elif not broken:
                self._want(key)
        if broken:
            broken.close()  # one that hangs takes its time, and has the name of the next one
            with self._lock:
                self._want(key)
        return parent

    def prepare(self, functions: Iterable[tuple[FunctionSpec, Bundle]]) -> None:
        """Keeps parents for these and for no others."""
        if self.refused:
            return
        there = list(functions)
        keys = {self._key(spec, bundle) for spec, bundle in there if not self._reason(spec, bundle)}
        known = {(spec.namespace, spec.artifact) for spec, _ in there}
        for gone in self._reasons.keys() - known:
            self._reasons.pop(gone, None)
            self._packages.pop(gone, None)
        with self._lock:
            for key in [key for key in self._parents if key not in keys]:
                log.info("warm_parent_ended", parent=str(key), reason="no function needs it")
                self._parents.pop(key).close()
            for key in sorted(keys - set(self._parents), key=str):
                if len(self._parents) + len(self._wanted) < MOST:
                    self._want(key)

    def close(self) -> None:
        """Ends all parents; functions live on."""
        with self._lock:
            self._closed = True
            self._lock.notify()
        if self._thread.is_alive():
            self._thread.join()
        for parent in self._parents.values():
            parent.close()
        self._parents.clear()
        if self._outlets:
            self._outlets.close()

    def _want(self, key: Key) -> None:
        if self._failed.get(key, 0.0) < time.monotonic():
            self._wanted[key] = None
            self._lock.notify()

    def _make(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._closed or self._wanted)
                if self._closed:
                    return
                key = next(iter(self._wanted))
            parent = None
            try:
                if self._outlets is None and self._sandbox.network.exists():
                    self._outlets = Outlets(self._sandbox.network)
                    self._outlets.want()
                parent = self._sandbox.warm(
                    seed(key.template, key.packages), str(key), self._outlets
                )
                log.info("warm_parent_ready", parent=str(key))
            except (Unforkable, SlipwayError, OSError) as error:
                self._failed[key] = time.monotonic() + _AGAIN
                log.warning("no_warm_parent", parent=str(key), reason=str(error))
            except Exception:  # the thread lives on
                self._failed[key] = time.monotonic() + _AGAIN
                log.exception("no_warm_parent", parent=str(key))
            with self._lock:
                self._wanted.pop(key, None)
                if parent:
                    self._parents[key] = parent
                while len(self._parents) > MOST:
                    self._parents.popitem(last=False)[1].close()

    def _key(self, spec: FunctionSpec, bundle: Bundle) -> Key:
        """Of one that has no reason against it."""
        packages = self._packages.get((spec.namespace, spec.artifact), ())
        return Key(spec.namespace, bundle.template, packages)

    def _reason(self, spec: FunctionSpec, bundle: Bundle) -> str:
        """Why functions of this bundle are not forked; looked at once."""
        key = (spec.namespace, spec.artifact)
        if (known := self._reasons.get(key)) is not None:
            return known
        try:
            reason = foreign(self._settings, spec, bundle)
        except OSError as error:  # another time it may be known
            return f"its files cannot be read: {error}"
        except Exception as error:  # of their files: whatever there may be in them
            reason = f"it cannot be compared with this installation's ({error!r:.200})"
        if not reason:
            try:
                self._packages[key] = popular(self._settings, spec, bundle)
            except Exception as error:
                log.info("packages_not_shared", function=spec.function, reason=repr(error)[:200])
        elif bundle.template in TEMPLATES:
            log.info("not_forked", function=spec.function, reason=reason)
        self._reasons[key] = reason
        return reason

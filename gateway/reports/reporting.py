"""The reporter's loop: looks at the store whenever something changed, and says that it lives."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from redis.exceptions import RedisError

from core import logging
from core.readiness import tell_ready
from core.settings import Settings
from core.store import BUILDERS, Store
from forges import Forge
from forges.known import forge
from gateway.reports.looking import Looking
from gateway.reports.outbox import Message, Outbox
from gateway.reports.standby import BEAT, BEAT_LIFE, place_and_name
from gateway.reports.telling import Telling

BUSY = 0.5
"""Seconds between two looks while releases are on their way: steps wake nobody."""
REPOSITORIES_EVERY = 5.0
"""Seconds between two looks at the repositories."""
LAST = 5.0
"""Seconds that what is being sent has, when we are asked to end."""
_LULL = 0.02
"""Seconds: what comes in a burst is looked at once."""

log = logging.get()


class Reporter:
    """``client``: the client of a forge, by its name. ``stop``: set, it ends."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        client: Callable[[str], Forge] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self.store = store
        self.place, self.name = place_and_name()
        self._stop = stop or threading.Event()
        self._news = threading.Event()
        telling = Telling(store, client or (lambda name: forge(settings, name)))
        self.looking = Looking(settings, store)
        self.outbox = Outbox(telling.send, telling.drop, self._sent)
        self.looking.outbox = self.outbox
        self._telling = telling
        self._looked = self._beaten = -math.inf

    def stop(self) -> None:
        self._stop.set()
        self._news.set()

    def run(self) -> None:
        """Until ``stop``."""
        log.info("reporting")
        listening = threading.Thread(target=self._listen, daemon=True)
        listening.start()
        tell_ready()
        while not self._stop.is_set():
            self._news.clear()
            self._pass()
            self._stop.wait(_LULL)
            self._news.wait(BUSY if self.looking.busy else BEAT)
        self.outbox.stop(LAST)
        listening.join(LAST)
        with suppress(RedisError):
            self.store.beat(self.name, 0)

    def _pass(self) -> None:
        try:
            if time.monotonic() - self._beaten > BEAT / 2:
                self.store.beat(self.name, BEAT_LIFE, self.place)
                self._beaten = time.monotonic()
            if time.monotonic() - self._looked > REPOSITORIES_EVERY:
                self._telling.prepare(self.looking.repositories())
                self._looked = time.monotonic()
            self.looking.look()
        except RedisError as error:
            log.warning("store_unavailable", reason=str(error))
        except Exception:  # whatever the store holds: the next look may do better
            log.exception("not_looked")

    def _sent(self, message: Message) -> None:
        self.looking.sent(message)
        self._news.set()

    def _listen(self) -> None:
        """Passes on the store's wake-ups; the store may come and go."""
        while not self._stop.is_set():
            try:
                with self.store.wakes() as subscription:
                    self._news.set()  # of what was said before we listened
                    while not self._stop.is_set():
                        message = subscription.get_message(timeout=BEAT / 2)
                        if message and message["data"] in (b"", BUILDERS):
                            self._news.set()
            except RedisError:
                self._stop.wait(BUSY)
            except Exception:  # the next look finds what was to be heard
                log.exception("not_heard")
                self._stop.wait(BUSY)

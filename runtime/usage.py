"""What functions use, measured when somebody asks: the gateway notes about which it is asked.

Nothing is measured while nobody asks: an engine takes seconds for it.
"""

from __future__ import annotations

import threading

from redis.exceptions import RedisError

from core import logging
from core.errors import SlipwayError
from core.models import Usage
from core.store import Store
from runtime.providers import Provider

LOOK_EVERY = 0.5
"""Seconds between two looks for who asks."""
NOTHING = Usage(cpu=0.0, total_memory_bytes=0.0)

log = logging.get()


def follow(store: Store, provider: Provider, stop: threading.Event) -> None:
    """Measures what is asked for until ``stop``."""
    while not stop.wait(LOOK_EVERY):
        try:
            if asked := store.usage_asked():
                found = provider.usage(asked)
                store.save_usage({each: found.get(each, NOTHING) for each in asked})
        except (RedisError, SlipwayError) as error:
            log.warning("usage_not_measured", reason=str(error))
        except Exception:
            log.exception("usage_failed")

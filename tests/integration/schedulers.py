"""One controller's schedules in a process of its own, whose clock is a file:
``python -m tests.integration.schedulers <store URL> <clock>``, until it is killed."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from core.settings import Settings
from core.store import Store, connect
from runtime.schedules import Schedules


def main() -> None:
    url, clock = sys.argv[1], Path(sys.argv[2])
    store = Store(connect(url))
    schedules = Schedules(Settings(), store, lambda: float(clock.read_text()))
    while True:
        schedules.tell(store.functions())
        schedules.look()
        time.sleep(0.001)


if __name__ == "__main__":
    main()

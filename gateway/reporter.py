"""Tells forges what becomes of releases: ``python -m gateway.reporter``, settings from the
environment. How: gateway/reports/.

Nothing waits for it: a release goes its way whether its forge is told or not. Until there is a
repository of a forge it stands by, and has next to nothing in memory.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress

from gateway.environment import read_settings
from gateway.reports.standby import stand_by


def main() -> None:
    settings = read_settings(os.environ)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with suppress(KeyboardInterrupt):
        stand_by(settings.store_url, stop)
    if stop.is_set():
        return
    from core import logging  # from here on it is a process like the others
    from core.store import Store, connect
    from gateway.reports.reporting import Reporter

    logging.configure("reporter", settings.log_format)
    reporter = Reporter(settings, Store(connect(settings.store_url)), stop=stop)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: reporter.stop())
    reporter.run()


if __name__ == "__main__":
    main()

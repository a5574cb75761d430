"""The gateway's worker where a release that is still being built is not waited for: a thousand
such requests are made of it."""

from __future__ import annotations

from gateway import releases, worker

releases.ENDING = 0.1


class Worker(worker.Worker):
    """Named on gunicorn's command line."""

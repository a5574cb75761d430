"""The gateway's worker with so little patience that a test can wait for its end."""

from __future__ import annotations

from gateway import worker

worker.STALL_SECONDS = 1
worker.HEAD_SECONDS = 1.0


class Worker(worker.Worker):
    """Named on gunicorn's command line."""

"""How a part tells the supervisor that it is ready: by one byte on a descriptor that it inherits
(the notification descriptor of s6). Where nobody waits for it, nothing happens."""

from __future__ import annotations

import os
from contextlib import suppress

NOTIFICATION_FD = "NOTIFICATION_FD"
"""The descriptor's number, in the environment."""


def tell_ready() -> None:
    """Says it; once for each process, so that it may be called again and again."""
    number = os.environ.pop(NOTIFICATION_FD, "")
    if number:
        with suppress(OSError):  # nobody waits any more
            os.write(int(number), b"\n")
        with suppress(OSError):
            os.close(int(number))

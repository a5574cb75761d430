"""Our own logs where they cannot be written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from core.settings import ROOT

PROGRAM = """
from core import logging
logging.configure("gateway", "{form}")
for number in range(500):
    logging.get().warning("store_unavailable", reason="x" * 100)
    try:
        raise OSError("no space")
    except OSError:
        logging.get().exception("again")
print("it goes on")
"""


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_full_disk_ends_nobody_who_tells_of_it(form: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(form=form)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=full,
            check=False,
            timeout=60,
        )
    assert done.stdout == b"it goes on\n"

"""A process that is forked while another thread works waits for nothing which that thread holds."""

from __future__ import annotations

import subprocess
import sys

import pytest

from core.settings import ROOT

LOGGING = """
import os, threading
from core import logging

logging.configure("workers", "{form}")
log = logging.get()
log.info("before")

def noise():
    while True:
        log.info("noise", reason="x" * 100)

threading.Thread(target=noise, daemon=True).start()
for _ in range(100):
    pid = os.fork()
    if not pid:
        log.info("forked")
        os._exit(0)
    os.waitpid(pid, 0)
print("none hangs", flush=True)
os._exit(0)
"""
COMPUTING = """
import os, threading
from core.lazy import cached_property

class Workshop:
    def __init__(self, wait=lambda: None):
        self.wait = wait
    @cached_property
    def folder(self):
        begun.set()
        self.wait()
        return "/there"

begun, go_on = threading.Event(), threading.Event()
slow = Workshop(go_on.wait)
thread = threading.Thread(target=lambda: slow.folder)
thread.start()
begun.wait()
pid = os.fork()
if not pid:
    slow.wait = lambda: None
    os._exit(0 if slow.folder == Workshop().folder == "/there" else 1)
assert os.waitpid(pid, 0)[1] == 0
go_on.set()
thread.join()
assert vars(slow)["folder"] == "/there"
print("none hangs", flush=True)
"""


def told(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
        text=True,
        timeout=60,
    )
    return done.stdout


@pytest.mark.parametrize("form", ["json", "console"])
def test_while_a_thread_logs(form: str) -> None:
    assert told(LOGGING.replace("{form}", form)) == "none hangs\n"


def test_while_a_thread_computes_what_is_kept() -> None:
    assert told(COMPUTING) == "none hangs\n"

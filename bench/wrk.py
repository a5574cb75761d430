"""One bounded round of wrk on a loopback address: https://github.com/wg/wrk."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

from bench.harness import BenchError

CONNECTIONS = 32
THREADS = 2


@dataclass(frozen=True)
class Round:
    requests: int
    rate: float
    """Requests a second."""


def run(url: str, seconds: int) -> Round:
    """Asks ``url`` as fast as it answers, on kept-alive connections.

    Raises:
        BenchError: wrk is not there, or anything but 2xx came back.
    """
    program = shutil.which("wrk")
    if program is None:
        raise BenchError("this bench needs wrk: apt-get install -y wrk")
    argv = [program, f"-t{THREADS}", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "5s", url]
    done = subprocess.run(
        argv, env={"LANG": "C"}, capture_output=True, text=True, check=False, timeout=seconds + 30
    )
    if done.returncode:
        raise BenchError(f"wrk failed: {done.stderr or done.stdout}")
    return read(done.stdout)


def read(text: str) -> Round:
    """Reads what wrk prints; errors and answers other than 2xx and 3xx spoil the round."""
    count = re.search(r"(\d+) requests in ", text)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    if not count or not rate or "Socket errors" in text or "Non-2xx" in text:
        raise BenchError(f"the round is spoilt:\n{text}")
    return Round(requests=int(count[1]), rate=float(rate[1]))

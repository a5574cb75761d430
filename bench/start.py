"""Set-up from nothing, a later start, and what the platform's own processes weigh when idle.

A fresh clone of HEAD in a folder of its own, an empty home: no virtual environment, no cache. The
reference of the set-up is the least that any set-up of it needs: make a virtual environment, and
let pip install the dependencies.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from bench import harness, processes
from bench.figures import Figure, Result, most
from bench.harness import BenchError, Platform
from core.settings import ROOT

PARTS = {"supervisor", "store", "gateway", "workers", "queue", "reporter", "controller", "edge"}
STARTS = 3
"""Later starts that are measured; the set-up is measured once."""
LAPSE = 12.0
"""Seconds between a stop and the next start: signs of life that the store keeps must have lapsed,
or /healthz would speak of the parts that ran before."""
IDLE = 10.0
"""Seconds without a request before memory is read."""


def run(repeat: int) -> Result:
    """Sets up once, starts again up to ``STARTS`` times, and reads the memory of the last start."""
    with harness.scratch() as folder:
        checkout = _clone(folder / "slipway")
        platform = Platform(
            folder, command=["make", "up"], checkout=checkout, state=checkout / ".slipway"
        )
        begun = time.monotonic()
        try:
            platform.start(timeout=900)
            platform.await_ready()
            set_up = time.monotonic() - begun
        finally:
            platform.stop()
        installed = _install_by_hand(folder, checkout)
        starts = []
        memory: dict[str, int] = {}
        for _ in range(min(repeat, STARTS)):
            time.sleep(LAPSE)
            begun = time.monotonic()
            try:
                platform.start()
                platform.await_health()
                starts.append(time.monotonic() - begun)
                platform.await_ready()
                time.sleep(IDLE)
                memory = {
                    part: sum(map(processes.pss, pids)) for part, pids in platform.parts().items()
                }
            finally:
                platform.stop()
    missing = PARTS - memory.keys()
    if missing:
        raise BenchError(f"these parts were not found, so the sum would be too low: {missing}")
    shares = sorted(memory.items(), key=lambda item: -item[1])
    return Result(
        figures=[
            Figure(
                name="set-up from nothing to ready",
                unit="s",
                samples=[set_up],
                reference="venv and pip install",
                reference_samples=[installed],
                aim=most(120),
            ),
            Figure(name="later start to /healthz 200", unit="s", samples=starts, aim=most(8)),
            Figure(
                name="control plane idle (PSS)",
                unit="MB",
                samples=[sum(memory.values()) / 2**20],
                aim=most(200),
            ),
        ],
        notes=[
            "Memory by part (MB): "
            + ", ".join(f"{part} {bytes_ / 2**20:.1f}" for part, bytes_ in shares)
            + ". The demo's functions run meanwhile and are not counted."
        ],
    )


def _clone(to: Path) -> Path:
    argv = ["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(to)]
    env = harness.clean_environment(to.parent / "home")
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"git clone failed: {done.stderr}")
    return to


def _install_by_hand(folder: Path, checkout: Path) -> float:
    """Seconds for a virtual environment with the dependencies, from an empty cache."""
    env = harness.clean_environment(folder / "home-by-hand")
    venv = folder / "venv"
    begun = time.monotonic()
    for argv in (
        [_python(), "-m", "venv", str(venv)],
        [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", str(checkout)],
    ):
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"{argv[1:4]} failed: {done.stderr}")
    return time.monotonic() - begun


def _python() -> str:
    """The Python that this one's virtual environment was made from."""
    return getattr(sys, "_base_executable", sys.executable)

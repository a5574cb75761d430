"""``tests.fuzz.webhooks`` for ``SLIPWAY_FUZZ_SECONDS`` (one minute; ``make fuzz``: ten), in a
process of its own, and with mistakes planted that it must find."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    find_spec("atheris") is None, reason="atheris is there for Linux on x86_64 alone"
)
SECONDS = int(os.environ.get("SLIPWAY_FUZZ_SECONDS", "60"))
SEED = os.environ.get("SLIPWAY_FUZZ_SEED", "1")
ROOT = Path(__file__).resolve().parents[2]


def fuzz(folder: Path, seconds: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "tests.fuzz.webhooks"),
            *("--seconds", str(seconds), "--seed", SEED, *arguments),
        ],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + 100,
    )


@pytest.mark.timeout(SECONDS + 120)
def test_nothing_that_a_forge_or_somebody_else_sends_breaks_a_parser(tmp_path: Path) -> None:
    done = fuzz(tmp_path, SECONDS)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    runs = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    assert runs
    assert int(runs[1]) > 20 * SECONDS, "so few runs find nothing"


@pytest.mark.timeout(400)
@pytest.mark.parametrize("planted", ["reference", "title", "signature"])
def test_a_planted_mistake_is_found(planted: str, tmp_path: Path) -> None:
    done = fuzz(tmp_path, 240, "--planted", planted)
    assert done.returncode != 0
    assert "Uncaught Python exception" in done.stdout
    (found,) = tmp_path.glob("slipway-fuzz-*/crash-*")
    again = fuzz(tmp_path, 0, "--planted", planted, str(found))
    assert again.returncode == 1
    assert "Error" in again.stderr
    assert fuzz(tmp_path, 0, str(found)).returncode == 0

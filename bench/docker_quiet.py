"""The same as quiet.py on Docker: images are built by BuildKit, tests run in containers."""

from __future__ import annotations

from bench import harness, quiet
from bench.figures import Result


def run(repeat: int) -> Result:
    """Measures idle and busy in turns, at most five rounds after a cold one."""
    env = quiet.ENV | {"SLIPWAY_RUNTIME": "docker"}
    with harness.scratch() as folder, harness.running(folder, env) as platform:
        return quiet.measure(folder, platform, min(repeat, quiet.MOST_ROUNDS))

"""One hardened container from create to its first 200, against a bare `docker run` of its image.

No platform: the provider itself starts the replica, on a network of its own, as the controller
would. By hand: `docker run --detach --publish`, on the engine's default network.
"""

from __future__ import annotations

import time

from bench import containers, harness
from bench.figures import Figure, Result, most
from core.models import FunctionSpec
from core.settings import Settings
from runtime.providers import Instance, Provider

TEXT = "version 0"


def run(repeat: int) -> Result:
    """Starts one of each in turns, ``repeat`` times after one that warms up."""
    ours: list[float] = []
    bare: list[float] = []
    with harness.scratch() as folder:
        env = harness.clean_environment(folder / "home") | {
            "SLIPWAY_STATE": str(folder / "state"),
            "SLIPWAY_RUNTIME": "docker",
            "SLIPWAY_SUBNET": harness.SUBNET,
            "SLIPWAY_EDGE": "none",
        }
        settings = Settings.from_env(env)
        hand = containers.Container(folder / "by-hand", settings)
        try:
            hand.write(TEXT)
            hand.build()
            spec = FunctionSpec(name="bench", namespace="bench", artifact=hand.image_id())
            with containers.provider(settings) as provider:
                for _ in range(repeat + 1):
                    ours.append(_ours(provider, spec))
                    begun = time.monotonic()
                    hand.start()
                    bare.append(harness.await_answer(hand.url, "/", TEXT) - begun)
                    hand.remove()
        finally:
            hand.clear()
    return Result(
        figures=[
            Figure(
                name="container from create to first 200, hardened",
                unit="s",
                samples=ours[1:],
                reference="docker run, nothing else",
                reference_samples=bare[1:],
                aim=most(1.3, of="ratio"),
            )
        ]
    )


def _ours(provider: Provider, spec: FunctionSpec) -> float:
    begun = time.monotonic()
    instance: Instance = provider.start(spec)
    try:
        return harness.await_answer(f"http://{instance.address}", "/", TEXT) - begun
    finally:
        provider.remove(instance)

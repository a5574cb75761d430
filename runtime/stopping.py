"""The end of everything that runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor

from core.errors import SlipwayError, Unavailable
from runtime.providers import Instance, Phase, Provider

STOP_SECONDS = 10.0
"""The longest that the end of everything waits for functions."""
ENDS_AT_ONCE = 8


def stop_all(provider: Provider, patience: float) -> None:
    """Ends every function: asked first, made to after ``patience`` seconds.

    Raises:
        Unavailable: some could not be ended, or it is not known which run.
    """
    stuck: list[str] = []

    def each(verb: Callable[[Instance], None], phases: Collection[Phase]) -> None:
        """The verb on all of them, some side by side: an engine takes its time for each."""

        def one(instance: Instance) -> None:
            try:
                verb(instance)
            except (SlipwayError, OSError) as error:  # the others shall end all the same
                stuck.append(f"{instance.id}: {error}")

        with ThreadPoolExecutor(ENDS_AT_ONCE) as pool:
            list(pool.map(one, [each for each in provider.instances() if each.phase in phases]))

    try:
        if patience:
            each(provider.terminate, [Phase.RUNNING])
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            over = (Phase.EXITED, Phase.PAUSED)
            if all(instance.phase in over for instance in provider.instances()):
                break
            provider.wait(0.1)
        stuck.clear()  # who could not be asked is ended all the same
        each(provider.remove, list(Phase))
    finally:
        provider.close()
    if stuck:
        raise Unavailable("not everything could be ended: " + "; ".join(stuck))

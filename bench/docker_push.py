"""On Docker: from `git push` of a one-line change to the first good answer of the new code.

The reference is the same change by hand with the docker command: build the same Dockerfile, push
to the same registry, run, poll.
"""

from __future__ import annotations

import time

from bench import containers, harness
from bench.containers import registry
from bench.figures import Figure, Result, most
from bench.push import Change, push_change, told
from bench.repository import Repository


def run(repeat: int) -> Result:
    """Measures ``repeat`` changes of each kind after one that warms up, in turns."""
    with harness.scratch() as folder, harness.running(folder, containers.DOCKER) as platform:
        changes = [
            Change(Repository(folder, platform, "plain"), "plain", test=False),
            Change(Repository(folder, platform, "tested"), "tested", test=True),
        ]
        for change in changes:
            change.repository.write_stack([change.function])
        hand = containers.Container(folder / "by-hand", platform.settings, registry(platform))
        seconds = []
        try:
            for number in range(repeat + 1):
                for change in changes:
                    push_change(platform, change, f"version {number}")
                begun = time.monotonic()
                hand.write(f"version {number}")
                hand.release()
                seconds.append(harness.await_answer(hand.url, "/", f"version {number}") - begun)
        finally:
            hand.clear()
    return Result(
        figures=[
            Figure(
                name=f"push to first answer, {words}",
                unit="s",
                samples=change.seconds[1:],
                reference="docker build, push, run",
                reference_samples=seconds[1:],
                aim=aim,
            )
            for words, change, aim in (
                ("no tests", changes[0], most(2.5)),
                ("one test", changes[1], None),
            )
        ],
        notes=[told(change) for change in changes],
    )

"""On Docker: fifty functions in one repository, nothing built before; then one changed dependency.

Each round is a fresh platform. From `git push` until all fifty have answered; then one function
gets another requirement, and is pushed again. The reference is the same one after another by hand
with the docker command: build, push, run, ask until it answers; its base layers are warm.
"""

from __future__ import annotations

import contextlib
import time
import uuid

from bench import containers, harness
from bench.figures import Figure, Result
from bench.repository import Repository

COUNT = 50
ROUNDS = 3
"""At most: a round takes minutes."""
REQUIREMENTS = ("humanize", "colorama", "six", "idna", "certifi")
"""Small packages without dependencies, one for each round."""


def run(repeat: int) -> Result:
    """Measures up to ``ROUNDS`` rounds; none warms up, as nothing shall be warm."""
    pushed, changed, by_hand, hand_changed = [], [], [], []
    for number in range(min(repeat, ROUNDS)):
        with harness.scratch() as folder, harness.running(folder, containers.DOCKER) as platform:
            repository = Repository(folder, platform, "fifty")
            mark = uuid.uuid4().hex[:8]
            names = [f"f{each:02}" for each in range(COUNT)]
            texts = {name: f"{name} {mark}" for name in names}
            repository.write_stack(names)
            for name in names:
                repository.write_function(name, texts[name])
            repository.commit()
            begun = time.monotonic()
            repository.finish(repository.push(), timeout=1800)
            for name in names:
                harness.await_answer(platform.url, repository.path(name), texts[name])
            pushed.append(time.monotonic() - begun)
            repository.require(names[0], REQUIREMENTS[number])
            repository.write_function(names[0], f"changed {mark}")
            repository.commit()
            begun = time.monotonic()
            repository.finish(repository.push())
            harness.await_answer(platform.url, repository.path(names[0]), f"changed {mark}")
            changed.append(time.monotonic() - begun)
            with contextlib.ExitStack() as held:
                begun = time.monotonic()
                first = None
                for name in names:
                    hand = containers.Container(
                        folder / f"hand-{name}", platform.settings, containers.registry(platform)
                    )
                    held.callback(hand.clear)
                    first = first or hand
                    hand.write(texts[name])
                    hand.release()
                    harness.await_answer(hand.url, "/", texts[name])
                by_hand.append(time.monotonic() - begun)
                assert first is not None
                first.write(f"changed {mark}")
                first.require(REQUIREMENTS[number])
                begun = time.monotonic()
                first.release()
                harness.await_answer(first.url, "/", f"changed {mark}")
                hand_changed.append(time.monotonic() - begun)
    return Result(
        figures=[
            Figure(
                name=f"{COUNT} functions, push to all answer",
                unit="s",
                samples=pushed,
                reference="docker build, push, run of each",
                reference_samples=by_hand,
            ),
            Figure(
                name="one changed dependency, push to answer",
                unit="s",
                samples=changed,
                reference="docker build, push, run",
                reference_samples=hand_changed,
            ),
        ]
    )

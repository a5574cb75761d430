"""The tests of a Dockerfile function: its stage ``test``, with no network in anything it does.

BuildKit has one network for all stages of a build. So the stages that ``test`` stands on, or copies
from, are built first, with the network, each as an image for a moment. Then ``test`` alone is
built on those images: a Dockerfile of that one stage, without network, nothing of it from the
cache, so that no test passes because it passed before. Where the stage has a CMD or ENTRYPOINT
of its own, that is run as well, in a container like those of the templates' tests.

The rule for users: everything in the stage test runs without a network; what it needs is installed
in the stage it builds on. No other stage may build on test: it would be built with a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from builder.engines.dockerfile import Dockerfile, Stage, lines_of, renamed, sources, with_base
from core.errors import Mistake

TEST = "test"


@dataclass(frozen=True)
class Plan:
    """What is built for the tests of one Dockerfile."""

    needed: Sequence[str]
    """Stages that are built first."""
    stage: Stage
    dockerfile: Dockerfile
    runs: bool
    """Whether a container is run from it afterwards."""

    def cut(self, names: dict[str, str]) -> bytes:
        """The Dockerfile of the stage alone, on the images that ``names`` gives for stages."""
        stage = with_base(self.stage, names.get(self.stage.base, self.stage.base))
        head, *others = stage.instructions
        parts = [*self.dockerfile.arguments, head, *(renamed(each, names) for each in others)]
        return lines_of(parts)


def plan(dockerfile: Dockerfile) -> Plan | None:
    """How the stage ``test`` is run; None where there is none."""
    stage = dockerfile.stage(TEST)
    if stage is None:
        return None
    wanted = [stage.base] if stage.base in {each.name for each in dockerfile.stages} else []
    for each in stage.instructions[1:]:
        wanted += [name for name in sources(each) if dockerfile.stage(name)]
    runs = any(each.word in ("CMD", "ENTRYPOINT") for each in stage.instructions)
    return Plan(list(dict.fromkeys(wanted)), stage, dockerfile, runs)


def mistakes_of(dockerfile: Dockerfile) -> list[Mistake]:
    """What keeps the stage ``test`` from being only a test."""
    stage = dockerfile.stage(TEST)
    if stage is None:
        return []
    line = stage.instructions[0].line
    if dockerfile.stages[-1] is stage:
        return [
            Mistake(line, "the stage test is the last one: put it before the stage that will run")
        ]
    found = []
    for other in dockerfile.stages:
        if other is stage:
            continue
        used = [other.instructions[0].line] if other.base == TEST else []
        used += [
            each.line
            for each in other.instructions[1:]
            if any(dockerfile.stage(name) is stage for name in sources(each))
        ]
        told = "it builds on the stage test, whose tests would run with a network: build on what "
        found += [Mistake(number, f"{told}test builds on") for number in used]
    return found

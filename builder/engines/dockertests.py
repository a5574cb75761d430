"""The tests of a function in docker mode: in a container of its template's stage ``test``, or as
the stage ``test`` of its own Dockerfile (see ``sealed``)."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder import testcommands
from builder.engines import dockerfile as dockerfiles
from builder.engines import imagetests, sealed
from builder.engines.dockerfile import Dockerfile, Stage
from builder.engines.workshop import Out, Workshop
from builder.templates import DOCKERFILE
from core.bundle import HOME
from core.errors import BuildFailed, ConfigError, TestFailed

if TYPE_CHECKING:
    from builder.work import Job, Tools

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TOX_IS_RUN = re.compile(r"""TEST_COMMAND=["']?tox\b""")
_TOX = (
    "tests are skipped: the template runs tox, which installs from the network, and tests have "
    "none: give TEST_COMMAND in build_args, such as 'python3 -m unittest', or TEST_ENABLED: 'true'"
)
"""OpenFaaS' Python templates until 2026; BuildKit leaves that stage out where OpenFaaS builds."""


@dataclass(frozen=True)
class _Container:
    """What is run; without ``argv``, the image's own entry point and command."""

    argv: Sequence[str] | None = None
    env: Mapping[str, str] | None = None
    folder: str | None = None
    shown: str = "the command of the stage test"
    passes: Callable[[int], bool] = lambda _: False
    """Exit statuses, besides 0, that say that there was nothing to test."""


def of_template(shop: Workshop, job: Job, found: Dockerfile, tools: Tools) -> bool:
    """Runs a template function's tests; whether there were any.

    Raises:
        TestFailed: with the last lines.
    """
    args = job.function.build_args
    if not testcommands.has_tests(job.app, job.template, args):
        return False
    with tools.steps.step("test", job.name, "testing") as out:
        command = testcommands.command_of(job.app, job.template, args)
        if testcommands.skipped(args):
            out(testcommands.SKIPPED)
            return False
        if found.stage(sealed.TEST) is None:
            raise ConfigError(
                f"the Dockerfile of the template {job.template.name} has no stage test"
            )
        files, further = {}, {}
        if command.needs in ("pytest", "tox"):
            files["test-tools"] = testcommands.LOCKS / f"{command.needs}.txt"
            # A secret is no part of what BuildKit calls the same; this is.
            further["TEST_TOOLS"] = hashlib.sha256(files["test-tools"].read_bytes()).hexdigest()
        if testcommands.needs_development(job.app, job.template):
            further["DEVELOPMENT"] = "1"
        container = _Container(
            argv=command.argv,
            env=testcommands.environment(command, job.template, args, _PATH),
            folder=f"{HOME}/{job.template.handler_folder}",
            shown=command.shown,
            passes=command.found_none,
        )
        with shop.untagging(shop.tag()) as tag:
            shop.build(
                job,
                tools,
                out,
                tag=tag,
                dockerfile=dockerfiles.render(found),
                target=sealed.TEST,
                further=further,
                files=files,
            )
            _run(shop, job, tools, out, tag, container)
    return True


def of_dockerfile(shop: Workshop, job: Job, found: Dockerfile, tools: Tools) -> bool:
    """Runs the stage ``test`` of a Dockerfile function; whether there is one.

    Raises:
        TestFailed: with the last lines.
    """
    plan = sealed.plan(found)
    if plan is None:
        return False
    with tools.steps.step("test", job.name, "testing without a network") as out:
        if testcommands.skipped(job.function.build_args):
            out(testcommands.SKIPPED)
            return False
        if job.template is not DOCKERFILE and _fetches(plan.stage, job.function.build_args):
            out(_TOX)
            return False
        text = dockerfiles.render(found)
        names = {}
        with contextlib.ExitStack() as kept:
            for needed in plan.needed:
                stage = found.stage(needed)
                assert stage is not None
                names[needed] = tag = kept.enter_context(shop.untagging(shop.tag()))
                shop.build(job, tools, out, tag=tag, dockerfile=text, target=stage.name)
            tag = kept.enter_context(shop.untagging(shop.tag()))
            try:
                shop.build(
                    job,
                    tools,
                    out,
                    tag=tag,
                    dockerfile=plan.cut(names),
                    target=sealed.TEST,
                    network=False,
                    fresh=True,
                )
            except BuildFailed as error:
                raise TestFailed(f"the tests failed: {error}", job.name, "test") from error
            if plan.runs:
                _run(shop, job, tools, out, tag, _Container())
    return True


def _fetches(stage: Stage, build_args: Mapping[str, str]) -> bool:
    """Whether a template of others would run tox though the function does not ask for it."""
    if {"TEST_COMMAND", "TEST_ENABLED"} & build_args.keys():
        return False
    rests = [each.rest for each in stage.instructions if each.word == "ARG"]
    return any(_TOX_IS_RUN.match(rest) for rest in rests)


def _run(
    shop: Workshop, job: Job, tools: Tools, out: Out, image: str, container: _Container
) -> None:
    last: deque[str] = deque(maxlen=testcommands.KEPT)

    def line(text: str) -> None:
        last.append(text)
        out(text)

    watch = shop.watch(tools)
    ran = imagetests.run(
        shop.build_engine,
        shop.settings,
        image,
        argv=container.argv,
        env=container.env or {},
        folder=container.folder,
        tmp=testcommands.TMP,
        on_line=line,
        stop=watch,
    )
    if ran.outcome == "stopped":
        raise watch.error()
    if ran.outcome == "exited" and ran.status == 0:
        return
    if ran.outcome == "exited" and container.passes(ran.status):
        out(testcommands.NOTHING)
        return
    told = testcommands.told_of(ran.outcome, ran.status, container.shown, shop.settings, last)
    raise TestFailed(told, job.name, "test")

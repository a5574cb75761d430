"""What turns a function's laid-out context into a tested artifact: the one part of a build that
differs between the runtimes.

    process.py     folders of wheels and node_modules, tests in our own sandbox
    docker.py      images by BuildKit, tests in containers, a registry
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Protocol

from core.settings import Settings

if TYPE_CHECKING:
    from builder.source import Source
    from builder.templates import Template
    from builder.templatesources import Templates
    from builder.work import Job, Tools
    from core.stackfile import StackFunction


class BuildEngine(Protocol):
    """Builds, tests and publishes one function. One object serves all threads of a worker.

    The order is that of the methods. ``assemble``, ``test`` and ``publish`` run inside no step:
    they make their own (``tools.steps.step``), so that what is nothing to do says nothing. All
    stop soon once ``tools.steps.ended()``, hold the bounds of a build step (``Settings.build_*``),
    and leave nothing of theirs behind but caches and artifacts, also where they fail. Whatever
    they did before may have happened already: a build whose worker died starts from the top.

    Errors of the user's code or files are BuildFailed (or TestFailed) with the last lines of
    output; what a retry can help is Unavailable.
    """

    def prepare(self) -> None:
        """Called once in the workers' parent: what may be dear to make and all forks can share.

        Raises:
            ConfigError: something is missing that every build needs.
        """
        ...

    def sweep(self) -> int:
        """Removes what killed builds left; returns how much. May run beside builds, at any time."""
        ...

    def template(self, lang: str, templates: Templates) -> Template:
        """What a ``lang`` stands for, of those that the commit can have.

        Raises:
            NotSupported, InvalidRequest: this engine cannot build with it.
            Others: as ``builder.templatesources.Templates.find``.
        """
        ...

    def check(
        self, source: Source, function: StackFunction, template: Template, namespace: str
    ) -> None:
        """Looks for mistakes that can be known without building; told beside the ``lang``'s line,
        those of a ready-made image (``skip_build``) beside the image's.

        Raises:
            SlipwayError: the mistake.
        """
        ...

    def resolve(self, image: str, namespace: str, tools: Tools) -> str:
        """Which image a ready-made one's name stands for now: by digest. Nothing is
        fetched: where it is started, the runtime does that, and tidies up again.

        Raises:
            InvalidRequest, NotAllowed, NotFound, NotSupported: it cannot be had, or not be run.
            Unavailable: its registry, or the engine.
            Conflict: the release was decided meanwhile.
        """
        ...

    def inputs(
        self,
        source: Source,
        function: StackFunction,
        template: Template,
        namespace: str,
        tools: Tools,
    ) -> Mapping[str, str]:
        """Further named inputs of the build's key: what this engine adds to an artifact. May take
        its time, and ``tools.steps.check`` is to be asked where it does."""
        ...

    def there(self, namespace: str, artifacts: Collection[str]) -> set[str]:
        """Those of what ``publish`` returned that are still there, and of this engine at all.

        Raises:
            Unavailable: that cannot be told now.
        """
        ...

    def assemble(self, job: Job, tools: Tools) -> Job:
        """Builds what will run out of ``job.app``, which nothing else changes."""
        ...

    def test(self, job: Job, tools: Tools) -> Job:
        """Runs the function's own tests, where it has some: without a network. Never skipped but
        by the function's own word."""
        ...

    def publish(self, job: Job, tools: Tools) -> str:
        """Keeps the result where the runtime finds it, and returns its content-addressed name."""
        ...

    def over(self, release: str) -> None:
        """Called once at a release's end, however it ended: what ``assemble`` made and nothing
        published goes. Raises nothing."""
        ...


@functools.lru_cache(maxsize=1)
def engine_for(settings: Settings) -> BuildEngine:
    """The build engine of this installation; made once a process."""
    if settings.runtime == "docker":
        # Imported where it is needed: the SDK costs every start of the process runtime 100 ms.
        from builder.engines.docker import DockerEngine

        return DockerEngine(settings)
    from builder.engines.process import ProcessEngine

    return ProcessEngine(settings)

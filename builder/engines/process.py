"""Artifacts of the process runtime: bundles on layers of dependencies, tested in our sandbox."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from builder import bundles, dependencies, functiontests, tool
from builder.templates import Template, find_template
from core.bundle import Bundle, read_bundle
from core.errors import SlipwayError
from core.settings import Settings

if TYPE_CHECKING:
    from builder.source import Source
    from builder.work import Job, Tools
    from core.stackfile import StackFunction


class ProcessEngine:
    """See ``BuildEngine``."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def prepare(self) -> None:
        tool.sandbox(self.settings)

    def sweep(self) -> int:
        return 0  # what processes leave is in folders, which are swept for all engines

    def template(self, lang: str) -> Template:
        return find_template(lang)

    def check(self, source: Source, function: StackFunction, namespace: str) -> None:
        """Nothing is known before the dependencies are read."""

    def inputs(
        self,
        source: Source,  # noqa: ARG002  # the interface's
        function: StackFunction,  # noqa: ARG002
        namespace: str,  # noqa: ARG002
        tools: Tools,  # noqa: ARG002
    ) -> Mapping[str, str]:
        return {}

    def there(self, namespace: str, artifact: str) -> bool:
        try:
            read_bundle(self.settings, namespace, artifact)
        except SlipwayError:
            return False
        return True

    def assemble(self, job: Job, tools: Tools) -> Job:
        with tools.steps.step("dependencies", job.name, "installing dependencies") as out:
            layers = dependencies.install(tools.settings, job.namespace, job.template, job.app, out)
        return replace(job, layers=tuple(layers))

    def test(self, job: Job, tools: Tools) -> Job:
        if not functiontests.has_tests(job.app, job.template, job.function.build_args):
            return job
        with tools.steps.step("test", job.name, "testing") as out:
            functiontests.run_tests(
                tools.settings,
                job.namespace,
                job.name,
                job.app,
                job.template,
                job.layers,
                job.function.build_args,
                out,
                stop=tools.steps.ended,
            )
        return replace(job, tested=True)

    def publish(self, job: Job, tools: Tools) -> str:
        with tools.steps.step("publish", job.name, "publishing"):
            bundle = Bundle(
                template=job.template.name,
                process=shlex.split(job.template.fprocess),
                layers=list(job.layers),
            )
            return bundles.publish(tools.settings, job.namespace, job.app, bundle)

    def over(self, release: str) -> None:
        """Nothing of a release is on the way outside its own folder."""

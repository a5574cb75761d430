"""Artifacts of the process runtime: bundles on layers of dependencies, tested in our sandbox."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from builder import bundles, dependencies, functiontests, tool
from builder.templates import LABEL, Template, available, own_name
from core.bundle import Bundle, Torn, discard_bundle, read_bundle
from core.errors import InvalidRequest, NotSupported, SlipwayError
from core.settings import Settings

if TYPE_CHECKING:
    from builder.source import Source
    from builder.templatesources import Templates
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

    def template(self, lang: str, templates: Templates) -> Template:
        template = templates.find(lang)
        if not template.ours:
            _runnable(template)
        return template

    def check(
        self,
        source: Source,  # noqa: ARG002  # the interface's
        function: StackFunction,
        template: Template,  # noqa: ARG002
        namespace: str,  # noqa: ARG002
    ) -> None:
        """Of what is built, nothing more is known before the dependencies are read."""
        if function.skip_build:
            raise _no_images(function.image or "")
        if function.build_options:
            raise NotSupported(
                f"{function.name}.build_options: builds for the process runtime install no system "
                "packages: take them out, or have this installation run images "
                "(SLIPWAY_RUNTIME=docker)"
            )
        if function.build_secrets:
            raise NotSupported(
                f"{function.name}.build_secrets: builds for the process runtime run nobody's "
                "commands, so that nothing could use them: take them out, or have this "
                "installation run images (SLIPWAY_RUNTIME=docker)"
            )

    def resolve(self, image: str, namespace: str, tools: Tools) -> str:  # noqa: ARG002  # the interface's
        raise _no_images(image)

    def inputs(
        self,
        source: Source,  # noqa: ARG002  # the interface's
        function: StackFunction,  # noqa: ARG002
        template: Template,  # noqa: ARG002
        namespace: str,  # noqa: ARG002
        tools: Tools,  # noqa: ARG002
    ) -> Mapping[str, str]:
        return {}

    def there(self, namespace: str, artifacts: Collection[str]) -> set[str]:
        found = set()
        for artifact in artifacts:
            try:
                read_bundle(self.settings, namespace, artifact)
                found.add(artifact)
            except Torn:  # else what is built anew would find its name taken
                discard_bundle(self.settings, namespace, artifact)
            except SlipwayError:
                continue
        return found

    def assemble(self, job: Job, tools: Tools) -> Job:
        with tools.steps.step("dependencies", job.name, "installing dependencies") as out:
            layers = dependencies.install(
                tools.settings,
                job.namespace,
                job.template,
                job.app,
                out,
                tools.steps.wanted,
                network=job.network,
            )
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
                check=tools.steps.wanted,
                network=job.network,
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


def _runnable(template: Template) -> None:
    """Refuses somebody else's template that is made for images, which most are.

    Without an image nothing listens for the template's server: it has to take its socket as the
    servers of our own templates do, which it says with their label, or by having no Dockerfile.
    """
    dockerfile = template.files.get("Dockerfile")
    if dockerfile and LABEL not in dockerfile.read_bytes():
        own = own_name(template.name)
        use = f"use {own}, which takes the same handlers" if own else "use one"
        raise NotSupported(
            f"{template.told()} is made for its Dockerfile, which needs the docker runtime, and "
            f"here functions run as processes: {use} of this installation's own "
            f"({', '.join(available())}), and name the other one no more"
        )
    if not dependencies.language(template):
        raise InvalidRequest(
            f"{template.told()}: fprocess is {template.fprocess[:80]!r}, and without an image only "
            "python3 and node can serve a function: name a program of theirs"
        )


def _no_images(image: str) -> NotSupported:
    return NotSupported(
        f"skip_build: the image {image[:120]} cannot run here, where functions run as processes: "
        "give a lang and a handler, or have this installation run images (SLIPWAY_RUNTIME=docker)"
    )

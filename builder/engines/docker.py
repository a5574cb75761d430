"""Artifacts of the docker runtime: images built by BuildKit, tested in containers, by digest.

    workshop.py     what the others share: the engines, the CLI, tags for what is on the way
    dockerfile.py   reads a Dockerfile and writes it out again; rules.py: what it may not do
    images.py       the images that builds stand on; imageuse.py: those that none does any more
    buildkit.py     the CLI; imagebuild.py: one build; progress.py: its output, readable
    dockertests.py  the tests; imagetests.py: in a container; sealed.py: a Dockerfile's own
    registry.py     where finished images go

What is on the way has a tag ``slipway-build:…`` in the build engine, which is taken away when its
release is ``over``, by ``sweep`` where a build was killed. Layers that failed builds left are for
the engine's own garbage collection; nothing is pruned here, as others may use the same engine.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from builder import dependencies
from builder.engines import buildkit, dockertests, imagetests
from builder.engines import dockerfile as dockerfiles
from builder.engines.dockerfile import Dockerfile
from builder.engines.registry import Registry, name_of
from builder.engines.userpackages import with_user_packages
from builder.engines.workshop import Workshop
from builder.templates import DOCKERFILE, Template
from core.errors import BuildFailed, InvalidRequest, NotFound, TooLarge
from core.images import check_owned
from core.settings import Settings
from core.stackfile import inner
from engine.pull import pin
from engine.references import refuse_others

if TYPE_CHECKING:
    from builder.source import Source
    from builder.templatesources import Templates
    from builder.work import Job, Tools
    from core.stackfile import StackFunction

_PATIENCE = 10.0
"""Seconds after which a push that failed is not tried again: the engine itself did that."""


class DockerEngine:
    """See ``BuildEngine``."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.shop = Workshop(settings)
        self.registry = Registry(settings, self.shop.build_engine, self.shop.run_engine)

    def prepare(self) -> None:
        buildkit.find(self.settings, os.environ.get("PATH", ""))

    def sweep(self) -> int:
        return imagetests.sweep(self.shop.build_engine, self.settings) + self.shop.sweep()

    def template(self, lang: str, templates: Templates) -> Template:
        return DOCKERFILE if lang == DOCKERFILE.name else templates.find(lang)

    def check(
        self, source: Source, function: StackFunction, template: Template, namespace: str
    ) -> None:
        if function.skip_build:
            refuse_others(self.settings, namespace, function.image or "")
        else:
            self._planned(source, function, template, namespace)

    def resolve(self, image: str, namespace: str, tools: Tools) -> str:  # noqa: ARG002 - interface
        return pin(self.shop.run_engine, self.settings, image, owner=namespace)

    def inputs(
        self,
        source: Source,
        function: StackFunction,
        template: Template,
        namespace: str,
        tools: Tools,
    ) -> Mapping[str, str]:
        """The images that it stands on count by what they are, not by their names."""
        found = self._planned(source, function, template, namespace)
        told = {"runtime": "docker", "base image": self.shop.bring(found, namespace, tools)}
        # The same files are built in another way where they are not the installation's.
        return told if template.ours else told | {"template of": "others"}

    def there(self, namespace: str, artifacts: Collection[str]) -> set[str]:
        own = set()
        for artifact in artifacts:
            with contextlib.suppress(InvalidRequest):  # of another runtime, or another registry
                check_owned(self.settings, namespace, artifact)
                own.add(artifact)
        return self.registry.there(own)

    def assemble(self, job: Job, tools: Tools) -> Job:
        with tools.steps.step("build", job.name, "building its image") as out:
            self.shop.answering()
            if job.template.ours:
                dependencies.lay_out(job.template, job.app)
            found = self._laid_out(job)
            for id_ in sorted(job.secrets.keys() - dockerfiles.secrets(found)):
                out(f"warning: no RUN mounts the build secret {id_[:60]}: it is of no use")
            found = self.shop.with_secrets(job, found)
            self.shop.bring(found, job.namespace, tools)  # what is copied may be another Dockerfile
            tag = self.shop.tag_of(job.release.id)
            text, last = dockerfiles.render(found), found.stages[-1].name
            self.shop.build(job, tools, out, tag=tag, dockerfile=text, target=last)
            with self.shop.build_engine.asking(f"the image of {job.name}") as api:
                made = api.inspect_image(tag)
            out(f"the image has {made['Size'] / 1e6:.0f} MB")
            exposed = made["Config"].get("ExposedPorts") or {}
            if not job.template.foreign and "8080/tcp" not in exposed:
                out(
                    "warning: nothing exposes port 8080, which is where a function has to listen: "
                    "write EXPOSE 8080 if it does"
                )
        return replace(job, image=tag)

    def test(self, job: Job, tools: Tools) -> Job:
        run = dockertests.of_template if job.template.ours else dockertests.of_dockerfile
        found = self.shop.with_secrets(job, self._laid_out(job))
        return replace(job, tested=run(self.shop, job, found, tools))

    def publish(self, job: Job, tools: Tools) -> str:
        name = name_of(self.settings, job.namespace, job.name, job.key.digest)
        place, _, tag = name.rpartition(":")
        with tools.steps.step("publish", job.name, "publishing"):
            with self.shop.build_engine.asking(f"the image of {job.name}") as api:
                api.tag(job.image, place, tag, force=True)
            watch = self.shop.watch(tools)
            kept = False
            try:
                artifact = tools.steps.patiently(
                    lambda: self.registry.publish(name, self.shop.cli, watch),
                    within=_PATIENCE,
                )
                kept = self.shop.run_engine is self.shop.build_engine
            finally:
                if not kept:
                    self.shop.untag(name)
        return artifact

    def over(self, release: str) -> None:
        self.shop.over(release)

    def _planned(
        self, source: Source, function: StackFunction, template: Template, namespace: str
    ) -> Dockerfile:
        """The Dockerfile as the commit or the template has it."""
        data = None
        if template.foreign:
            data = _dockerfile_of(template)
        elif template is DOCKERFILE:
            folder = "" if function.handler == "." else f"{function.handler}/"
            path = f"{folder}Dockerfile"
            for each in function.copy:  # which comes to lie above the handler's own
                path = each if inner(function, each) == "Dockerfile" else path
            try:
                data = source.read(path, dockerfiles.MAX_BYTES)
            except NotFound as error:
                raise BuildFailed(
                    f"lang dockerfile wants a file {folder}Dockerfile, and the commit has none: "
                    "add it, or choose a template"
                ) from error
            except TooLarge as error:
                raise BuildFailed(str(error)) from error
        return self.shop.dockerfile(function, template, namespace, data)

    def _laid_out(self, job: Job) -> Dockerfile:
        """The Dockerfile as it lies in the context."""
        data = None if job.template.ours else (job.app / "Dockerfile").read_bytes()
        found = self.shop.dockerfile(job.function, job.template, job.namespace, data)
        return with_user_packages(found) if job.template.foreign else found


def _dockerfile_of(template: Template) -> bytes:
    """That of somebody else's template, which lies at the top of what is built."""
    path = template.files.get("Dockerfile")
    if path is None:
        raise BuildFailed(f"{template.told()} has no Dockerfile: images cannot be made of it")
    with path.open("rb") as file:
        return file.read(dockerfiles.MAX_BYTES + 1)

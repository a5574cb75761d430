"""What building and testing images share: the engines, the CLI, a function's checked Dockerfile,
and tags for what is on the way."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from builder import dependencies
from builder.buildsecrets import INPUT
from builder.engines import buildkit, rules, sealed
from builder.engines import dockerfile as dockerfiles
from builder.engines.dockerfile import Dockerfile
from builder.engines.imagebuild import Order, Watch, build
from builder.engines.images import Images, check_name
from builder.key import platform_inputs
from builder.templates import DOCKERFILE, Template
from core import queues
from core.alive import owner, place
from core.errors import (
    BuildFailed,
    ConfigError,
    InvalidRequest,
    Mistake,
    NotAllowed,
    NotFound,
    SlipwayError,
    Unavailable,
)
from core.lazy import cached_property
from core.settings import Settings
from core.signing import secret_file, sign
from engine.client import Engine
from engine.references import ON_THE_WAY

if TYPE_CHECKING:
    from builder.work import Job, Tools
    from core.stackfile import StackFunction

Out = Callable[[str], None]

_OURS = ("BASE_IMAGE", "UV_VERSION", "TEST_TOOLS", "DEVELOPMENT")
"""Arguments that templates get from us."""
_NOT_THEIRS = re.compile(r"(https?|ftp|all|no)_proxy|build(kit|x)_.*|source_date_epoch", re.I)
"""Arguments that tell BuildKit itself something, and are no part of what it calls the same: an
owner's proxy would put its answers into everybody's cache."""
_MAX_ARGUMENTS = 64 * 1024
_SECRETS = ("ca", "registries", "test-tools")
"""What the RUN lines of templates are handed."""
_TAG = re.compile(
    r".*:(?P<mark>[0-9a-f]{6})-(?P<time>[0-9a-f]{1,10})"
    r"-(?P<maker>((?P<place>[0-9a-f]{8})\.(?P<pid>[0-9]{1,9})\.[0-9]+)?)-[0-9a-f]+"
)
"""Of what is on the way: the installation, when it was made, and by which process."""
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]*(:[a-z0-9]+)?(=[A-Za-z0-9.+:~-]+)?")
"""A Debian package, as apt-get install takes it: never one of its options."""


class Workshop:
    """See above; safe to use from threads."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.build_engine = Engine(settings.build_engine_url)
        same = settings.build_engine_url == settings.engine_url
        self.run_engine = self.build_engine if same else Engine(settings.engine_url)
        for each in (self.build_engine, self.run_engine):
            weakref.finalize(self, each.close)
        self.images = Images(settings, self.build_engine, self.run_engine)
        # Most functions of a commit have the same one: our template's, with the same arguments.
        self._read = functools.lru_cache(maxsize=64)(self._dockerfile)
        self._lock = threading.Lock()
        self._tags: dict[str, list[str]] = {}

    @property
    def cli(self) -> buildkit.Cli:
        return buildkit.find(self.settings, os.environ.get("PATH", ""))

    def watch(self, tools: Tools) -> Watch:
        """What ends whatever is going on in the engine for this release."""
        return Watch(tools.steps, self.settings, self.build_engine, self._data_root)

    def answering(self) -> None:
        """Raises Unavailable where the build engine does not answer at once: the CLI would wait."""
        if not self.build_engine.alive():
            raise Unavailable(
                f"the Docker engine at {self.build_engine.url} does not answer: the administrator "
                "has to look after it; then push again"
            )

    # Dockerfiles

    def arguments(self, function: StackFunction, template: Template) -> dict[str, str]:
        """All build arguments: the function's, and above them ours where a template wants them."""
        told = dict(function.build_args)
        if template is DOCKERFILE:
            return told
        packages = told.get("ADDITIONAL_PACKAGE", "").split()
        packages += template.packages(function.build_options)
        told["ADDITIONAL_PACKAGE"] = " ".join(sorted(set(packages)))
        if not template.ours:
            return told
        for each in packages:
            if not _PACKAGE.fullmatch(each):
                raise InvalidRequest(
                    f"build_args: ADDITIONAL_PACKAGE names {each[:80]!r}, which is not the name of "
                    "a Debian package: write names, with =version if need be"
                )
        told["UV_VERSION"] = platform_inputs()["uv"]
        language = dependencies.language(template)
        if language:
            python = language == "python"
            told["BASE_IMAGE"] = self.settings.python_image if python else self.settings.node_image
        return told

    def dockerfile(
        self, function: StackFunction, template: Template, namespace: str, data: bytes | None = None
    ) -> Dockerfile:
        """Reads and checks a function's Dockerfile: ``data``, or that of our own template.

        Raises:
            BuildFailed: with every mistake.
            ConfigError: it is the template's.
        """
        arguments = self.arguments(function, template)
        _check_arguments(function.build_args, template)
        path, secrets = f"the Dockerfile of the template {template.name}", frozenset(_SECRETS)
        if template.ours:
            data = _of_template(template, path)
        else:
            path = "Dockerfile" if function.handler == "." else f"{function.handler}/Dockerfile"
            if template.foreign:
                path = f"the Dockerfile of {template.told()}"
            secrets = frozenset({rules.HANDED_IN, *function.build_secrets})
        given = tuple(sorted(arguments.items()))
        return self._read(data or b"", path, given, namespace, secrets, template.ours)

    def _dockerfile(
        self,
        data: bytes,
        path: str,
        arguments: tuple[tuple[str, str], ...],
        namespace: str,
        secrets: frozenset[str],
        ours: bool,
    ) -> Dockerfile:
        try:
            found = dockerfiles.parse(data, path, dict(arguments))
        except BuildFailed as error:
            if ours:
                raise ConfigError(str(error)) from error
            raise
        mistakes = [] if ours else sealed.mistakes_of(found)
        mistakes += rules.mistakes_of(found, secrets=secrets)
        for line, name in found.images():
            try:
                check_name(name, self.settings, namespace)
            except (InvalidRequest, NotAllowed) as error:
                mistakes.append(Mistake(line, str(error)))
        dockerfiles.refuse(found.path, mistakes)
        return found

    def with_secrets(self, job: Job, found: Dockerfile) -> Dockerfile:
        """The Dockerfile, asking for the function's secrets by ids that nobody else can have.

        A secret's content is no part of what BuildKit calls the same, but its id is: so a layer
        that was made with one is found again with that very content only, and by this owner."""
        return dockerfiles.with_secrets(found, self._secret_ids(job))

    def _secret_ids(self, job: Job) -> dict[str, str]:
        key = secret_file(self.settings.state / "cache-key").encode()
        return {
            id_: sign(key, f"{job.namespace} {id_} {job.key.inputs[f'{INPUT} {id_}']}".encode())[
                :32
            ]
            for id_ in job.secrets
        }

    def bring(self, found: Dockerfile, namespace: str, tools: Tools) -> str:
        """Brings the images that a Dockerfile stands on into the build engine; returns their names
        and ids, a line each."""
        told = []
        watch = self.watch(tools)
        out = functools.partial(tools.steps.log.add, "", "plan", "stdout")
        for name in sorted({name for _, name in found.images()}):
            tools.steps.check()
            bring = functools.partial(self.images.bring, name, lambda: self.cli, out, watch)
            id_ = tools.steps.patiently(bring)
            self.images.check(name, namespace)
            told.append(f"{name} {id_}")
        return "\n".join(told)

    # Images

    def build(
        self,
        job: Job,
        tools: Tools,
        out: Out,
        *,
        tag: str,
        dockerfile: bytes,
        target: str,
        network: bool = True,
        fresh: bool = False,
        further: Mapping[str, str] | None = None,
        files: Mapping[str, Path] | None = None,
    ) -> None:
        """Builds one stage of a function; ``further`` arguments and secret ``files`` are added.

        Raises as ``builder.engines.imagebuild.build``.
        """
        ours = job.template.ours
        ids = self._secret_ids(job)
        arguments = {**self.arguments(job.function, job.template), **(further or {})}
        # Of a template of ours that is left as it is, nothing runs and nothing comes but ours.
        plain = not arguments.get("ADDITIONAL_PACKAGE") and dependencies.ours_alone(
            job.template, job.app
        )
        may = job.network or plain
        order = Order(
            dockerfile=dockerfile,
            context=job.app,
            tag=tag,
            target=target,
            arguments=arguments,
            secrets={ids[id_]: path for id_, path in job.secrets.items()} | dict(files or {}),
            network=network and may and (ours or self.settings.build_egress),
            offline=not may,
            fresh=fresh,
            ours=ours,
            hidden=tuple(path.read_bytes() for path in job.secrets.values()),
        )
        build(
            order,
            cli=self.cli,
            settings=self.settings,
            namespace=job.namespace,
            watch=self.watch(tools),
            out=out,
        )

    def tag(self) -> str:
        """A new name for an image on the way: of this installation, and made now by us."""
        made = f"{int(time.time()):x}-{_maker(os.getpid())}"
        return f"{ON_THE_WAY}:{self.settings.mark}-{made}-{secrets.token_hex(8)}"

    def tag_of(self, release: str) -> str:
        """A new name for an image that a release has on the way until it is ``over``."""
        tag = self.tag()
        with self._lock:
            self._tags.setdefault(release, []).append(tag)
        return tag

    def over(self, release: str) -> None:
        """Takes away what a release has on the way; what cannot be is left to ``sweep``."""
        with self._lock:
            tags = self._tags.pop(release, [])
        for tag in tags if tags and self.build_engine.alive() else ():
            with contextlib.suppress(SlipwayError):
                self.untag(tag)

    @contextlib.contextmanager
    def untagging(self, tag: str) -> Iterator[str]:
        """Takes a tag away again, and with the last one its image."""
        try:
            yield tag
        finally:
            self.untag(tag)

    def untag(self, tag: str) -> None:
        with contextlib.suppress(NotFound), self.build_engine.asking(f"the image {tag}") as api:
            api.remove_image(tag)

    def sweep(self) -> int:
        """Removes tags of builds that were killed, and images that no build uses any more;
        returns how many."""
        with self.build_engine.asking("the images of builds") as api:
            found = api.images(name=ON_THE_WAY)
        count = 0
        for tag in (tag for each in found for tag in each["RepoTags"] or []):
            match = _TAG.fullmatch(tag)
            if match is None or match["mark"] != self.settings.mark:
                continue
            gone = match["place"] == _here() and _maker(int(match["pid"])) != match["maker"]
            if gone or time.time() - int(match["time"], 16) > queues.JOB_SECONDS:
                self.untag(tag)
                count += 1
        return count + self.images.use.sweep(self._data_root)

    @cached_property
    def _data_root(self) -> Path | None:
        """The folder of the engine's images, where it is on this machine."""
        if not self.settings.build_engine_url.startswith("unix:"):
            return None
        with self.build_engine.asking("the engine's folder") as api:
            folder = Path(str(api.info().get("DockerRootDir", "")))
        return folder if folder.is_dir() else None


def _maker(pid: int) -> str:
    """A process as tags tell it; '' if it is gone."""
    told = owner(pid).split(" ")
    return f"{_here()}.{pid}.{told[-1]}" if told[-1] else ""


def _here() -> str:
    return hashlib.sha256(place().encode()).hexdigest()[:8]


def _of_template(template: Template, path: str) -> bytes:
    real = template.files.get("Dockerfile")
    if real is None:
        raise ConfigError(f"{path} is missing: images cannot be made of it")
    return real.read_bytes()


def _check_arguments(arguments: Mapping[str, str], template: Template) -> None:
    if sum(len(k) + len(v.encode()) for k, v in arguments.items()) > _MAX_ARGUMENTS:
        raise InvalidRequest(f"build_args have more than {_MAX_ARGUMENTS} bytes: use files")
    for name, value in arguments.items():
        shown = name[:80]
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or "\0" in value:
            raise InvalidRequest(f"build_args: {shown!r} is not the name of an argument")
        if _NOT_THEIRS.fullmatch(name) or (template.ours and name in _OURS):
            raise InvalidRequest(f"build_args: {shown} is this installation's to set: leave it out")

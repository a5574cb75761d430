"""Holds a stack file against its commit, the templates and the settings before anything is built.

What a user can have got wrong and what can be known without building is told at once, by line.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Mapping

from builder.buildsecrets import stamp
from builder.context import layout
from builder.engines import BuildEngine
from builder.ownsecrets import OwnSecrets
from builder.source import TREE, Entry, Source, quoted
from builder.templates import DOCKERFILE, Template
from builder.templatesources import Templates
from core.errors import (
    Conflict,
    InvalidRequest,
    InvalidStack,
    Mistake,
    NotFound,
    SlipwayError,
    TooLarge,
)
from core.models import Resources
from core.quantities import cpus, size
from core.settings import Settings
from core.stackfile import Stack, StackFunction, read_environment_file
from core.yamlnodes import MAX_TOLD

MAX_CONFIGURATION = 256 * 1024
"""Bytes of what one function's specification holds (``_WEIGHED``), and of the files that it names
in ``environment_file``: it lies in the store's memory."""
MAX_CONFIGURATIONS = 4 * 2**20
"""Bytes of those of all functions of a commit, which are handed over in one request."""
_WEIGHED = (
    *("environment", "labels", "annotations", "constraints", "secrets", "fprocess"),
    *("limits", "requests"),
)
Mistakes = dict[tuple[int, str], Mistake]
_SERVED = {
    "handler.py": re.compile(r"handler(/__init__)?\.(py|pyc|([\w-]+\.)?so)|__init__\.py"),
    "handler.js": re.compile(r"handler\.(js|mjs|cjs)(/.*)?"),
}
"""The sample in a template of ours → what of a function's files can stand for it. A Python package
that says something itself may bring its module in its own way."""


def check_stack(
    source: Source,
    stack: Stack,
    settings: Settings,
    *,
    namespace: str,
    whose: str = "",
    templates: Templates,
    engine: BuildEngine | None = None,
    secrets: OwnSecrets | None = None,
    before: int = 0,
) -> int:
    """Looks up all that the stack file names: folders, files, templates, build options, secrets;
    and holds what it asks for against what is allowed here. ``engine`` adds what it knows,
    ``secrets`` which of those there are; tests may leave them out. ``namespace`` is where images
    and the like are the owner's, ``whose`` the namespace that functions may name.

    Returns the bytes of configuration that its functions have with ``before``, those of the stack
    files that were checked already.

    Raises:
        InvalidStack: with every mistake and its line.
        SlipwayError: what ``source.check`` raises.
    """
    mistakes: Mistakes = {}
    total = before

    def telling(function: StackFunction, key: str, item: str = "") -> _Telling:
        """What the body raises is a mistake in the line of ``key``, or of ``item`` below it."""
        source.check()
        return _Telling(mistakes, function, key, item)

    def template(lang: str) -> Template:
        return engine.template(lang, templates) if engine else templates.find(lang)

    source.read_ahead(each.handler for each in stack.functions if not each.skip_build)
    for function in stack.functions:
        before = len(mistakes)
        with telling(function, "namespace"):
            _own(function, whose or namespace)
        if secrets:
            for name in function.secrets or ():
                with telling(function, "secrets", name):
                    secrets.check([name])
            for id_ in function.build_secrets:
                with telling(function, "build_secrets", id_):
                    stamp(source, function, id_, secrets.of_build)
        if not function.skip_build:
            found = None
            with telling(function, "lang"):
                found = template(function.lang)
            if function.build_options:
                with telling(function, "build_options"):
                    template(function.lang).packages(function.build_options)
            with telling(function, "handler"):
                _handler(source, function)
            for path in function.copy:
                with telling(function, "copy"):
                    source.tree_id(path)
            if found and len(mistakes) == before:
                with telling(function, "handler"):
                    _handler_file(source, function, found)
        with telling(function, "limits"):
            _memory(function, settings)
        with telling(function, "limits"):
            _cpus(function, settings)
        weights = {field: _weight(getattr(function, field)) for field in _WEIGHED}
        weights["sealed"] = _weight(secrets.texts(function.secrets or ())) if secrets else 0
        weights["environment_file"] = 0
        for path in function.environment_file:
            if sum(weights.values()) <= MAX_CONFIGURATION:
                with telling(function, "environment_file", path):
                    data = source.read(path, MAX_CONFIGURATION)
                    weights["environment_file"] += len(data)  # what is read costs time as well
                    more = _weight(read_environment_file(data, path)) - len(data)
                    weights["environment_file"] += max(more, 0)
        total += sum(weights.values())
        heaviest = max(weights, key=lambda key: weights[key])
        with telling(function, "secrets" if heaviest == "sealed" else heaviest):
            _bounded(function, sum(weights.values()), total)
        if engine and len(mistakes) == before:
            with telling(function, "image" if function.skip_build else "lang"):
                built_on = DOCKERFILE if function.skip_build else template(function.lang)
                engine.check(source, function, built_on, namespace)
        if len(mistakes) >= MAX_TOLD or total > MAX_CONFIGURATIONS:
            break
    if mistakes:
        told = [mistakes[place] for place in sorted(mistakes)]
        raise InvalidStack(stack.path, told[:MAX_TOLD])
    return total


class _Telling:
    """A context manager; no generator, as a large commit has thousands of these."""

    def __init__(self, mistakes: Mistakes, function: StackFunction, key: str, item: str) -> None:
        self.mistakes, self.function, self.key, self.item = mistakes, function, key, item

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if not isinstance(error, SlipwayError):
            return False
        if error.retryable or isinstance(error, Conflict):  # ours, or the release's end
            return False
        mistake = Mistake(self.function.line(self.key, self.item), str(error))
        self.mistakes[mistake.line, mistake.text] = mistake  # a shared line is told once
        return True


def environment_file(source: Source, path: str) -> dict[str, str]:
    """The variables of a file that a function names in ``environment_file``.

    Raises:
        InvalidStack, NotFound, TooLarge, BuildFailed: it is no such file, or is not there.
    """
    return read_environment_file(source.read(path, MAX_CONFIGURATION), path)


def _own(function: StackFunction, namespace: str) -> None:
    if function.namespace not in (None, namespace):
        raise InvalidRequest(
            f"{function.name}.namespace is {function.namespace!r}, and this repository belongs to "
            f"{namespace!r}: leave the field out"
        )


def _handler(source: Source, function: StackFunction) -> None:
    node = source.find(function.handler)
    if node is None:
        raise NotFound(
            f"{function.name}.handler: commit {source.commit[:12]} has no folder "
            f"{function.handler!r}: is it committed, and written from the stack file's folder?"
        )
    if node.kind != TREE:
        raise NotFound(f"{function.name}.handler: {function.handler!r} is a file: name its folder")


def _handler_file(source: Source, function: StackFunction, template: Template) -> None:
    """Looks for what our own templates serve; others' may take anything."""
    inside = f"{template.handler_folder}/"
    sample = next((name for name in _SERVED if inside + name in template.files), "")
    if not template.ours or not sample or function.fprocess:  # which starts what it likes
        return
    path = posixpath.normpath(f"{function.handler}/{sample}")
    if source.find(path):
        return
    for place, content in layout(source, function, template).items():
        theirs = isinstance(content, Entry) and content.size and place.startswith(inside)
        if theirs and _SERVED[sample].fullmatch(place.removeprefix(inside)):
            return
    raise NotFound(
        f"{function.name}.handler: commit {source.commit[:12]} has no file {quoted(path)}, which "
        f"the template {template.name} serves: is it committed, and spelled so?"
    )


def _memory(function: StackFunction, settings: Settings) -> None:
    asked = function.limits.memory if function.limits else None
    if asked and size(asked) > settings.function_max_memory:
        raise _too_much(f"{function.name}.limits.memory", asked, settings, "FUNCTION_MAX_MEMORY")


def _cpus(function: StackFunction, settings: Settings) -> None:
    asked = function.limits.cpu if function.limits else None
    if not asked:
        return
    try:
        wanted = cpus(asked)
    except ValueError:  # a number, as the stack file was read: larger than any machine
        wanted = math.inf
    if wanted > settings.function_max_cpus:
        raise _too_much(f"{function.name}.limits.cpu", asked, settings, "FUNCTION_MAX_CPUS")


def _too_much(what: str, asked: str, settings: Settings, name: str) -> InvalidRequest:
    name = f"SLIPWAY_{name}"
    return InvalidRequest(
        f"{what} is {asked!r}, and at most {settings.describe()[name]} is allowed here: ask for "
        f"less, or ask the administrator ({name})"
    )


def _weight(value: object) -> int:
    """Bytes of all texts in a field of a stack file."""
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace"))
    if isinstance(value, Resources):
        value = [value.memory, value.cpu]
    if isinstance(value, Mapping):
        return sum(_weight(name) + _weight(each) for name, each in value.items())
    return sum(map(_weight, value)) if isinstance(value, list) else 0


def _bounded(function: StackFunction, weight: int, total: int) -> None:
    hint = "keep data in files beside the handler"
    if weight > MAX_CONFIGURATION:
        raise TooLarge(
            f"{function.name}: environment, labels, annotations and the like have {weight} bytes "
            f"together, and {MAX_CONFIGURATION} are allowed: {hint}"
        )
    if total > MAX_CONFIGURATIONS:
        raise TooLarge(
            f"{function.name}: environment, labels, annotations and the like of the functions up "
            f"to here have {total} bytes together, and {MAX_CONFIGURATIONS} are allowed: {hint}"
        )

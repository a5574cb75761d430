"""Holds a stack file against its commit and the templates before anything is built.

What a user can have got wrong and what can be known without building is told at once, by line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from builder.source import TREE, Source
from builder.templates import FOLDER, find_template
from core.errors import InvalidRequest, InvalidStack, Mistake, NotFound, SlipwayError
from core.stackfile import Stack, StackFunction, read_environment_file
from core.yamlnodes import MAX_BYTES, MAX_TOLD


def check_stack(source: Source, stack: Stack, *, namespace: str, templates: Path = FOLDER) -> None:
    """Looks up all that the stack file names: folders, files, templates, build options.

    Raises:
        InvalidStack: with every mistake and its line.
    """
    mistakes: dict[tuple[int, str], Mistake] = {}
    for function in stack.functions:
        for key, look in _looks(source, function, namespace, templates):
            try:
                look()
            except SlipwayError as error:
                if error.retryable:
                    raise
                mistake = Mistake(function.line(key), str(error))
                mistakes[mistake.line, mistake.text] = mistake  # a shared line is told once
                if len(mistakes) >= MAX_TOLD:
                    break
    if mistakes:
        raise InvalidStack(stack.path, [mistakes[place] for place in sorted(mistakes)])


def _looks(
    source: Source, function: StackFunction, namespace: str, templates: Path
) -> Iterator[tuple[str, Callable[[], object]]]:
    """What to look up, each with the key of the stack file whose line a mistake belongs to."""
    yield "namespace", lambda: _own(function, namespace)
    yield "lang", lambda: find_template(function.lang, templates)
    if function.build_options:
        options = function.build_options
        yield "build_options", lambda: find_template(function.lang, templates).packages(options)
    if function.secrets:
        yield "secrets", lambda: _no_secrets(function, namespace)
    yield "handler", lambda: _handler(source, function)
    for path in function.copy:
        yield "copy", partial(source.tree_id, path)
    for path in function.environment_file:
        yield "environment_file", partial(_environment, source, path)


def _own(function: StackFunction, namespace: str) -> None:
    if function.namespace not in (None, namespace):
        raise InvalidRequest(
            f"{function.name}.namespace is {function.namespace!r}, and this repository belongs to "
            f"{namespace!r}: leave the field out"
        )


def _no_secrets(function: StackFunction, namespace: str) -> None:
    named = ", ".join(function.secrets or ())
    raise NotFound(
        f"{function.name}: there are no secrets {named} in {namespace}: "
        "this version keeps no secrets yet; take them out"
    )


def _handler(source: Source, function: StackFunction) -> None:
    node = source.find(function.handler)
    if node is None:
        raise NotFound(
            f"{function.name}.handler: commit {source.commit[:12]} has no folder "
            f"{function.handler!r}: is it committed, and written from the repository's root?"
        )
    if node.kind != TREE:
        raise NotFound(f"{function.name}.handler: {function.handler!r} is a file: name its folder")


def _environment(source: Source, path: str) -> None:
    read_environment_file(source.read(path, MAX_BYTES), path)

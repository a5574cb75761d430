"""What the builder makes of a request's stack files: what a preview may not say is left out, and
told in the log (core/previews.py has the rules)."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from builder.stacks import Stacks
from core.errors import Mistake
from core.previews import ForkRules, bound, networked
from core.repositories import Repository
from core.stackfile import Stack, StackFunction

HOW = "the administrator can allow it (fork-network in the policy)"
"""What helps a fork's build that has no network."""


def as_preview(found: Stacks, repository: Repository, rules: ForkRules) -> Stacks:
    """The same stack files as far as they count in a preview; of others all of it."""
    if repository.request is None:
        return found
    warnings = list(found.warnings)
    stacks = []
    for stack in found.stacks:
        functions = []
        for function in stack.functions:
            may = bound(repository, rules, function.labels, function.annotations, function.secrets)
            warnings += [(stack.path, _told(function, each)) for each in may.warnings]
            functions.append(
                msgspec.structs.replace(
                    function, labels=may.labels, annotations=may.annotations, secrets=may.secrets
                )
            )
            if function.skip_build and not networked(repository, rules):
                found.mistakes[stack.path].append(_no_image(function))
        stacks.append(_with(stack, functions))
    return replace(found, stacks=stacks, warnings=warnings)


def _with(stack: Stack, functions: list[StackFunction]) -> Stack:
    return msgspec.structs.replace(stack, functions=functions)


def _told(function: StackFunction, warning: str) -> Mistake:
    return Mistake(function.line("name"), f"{function.name}: {warning}")


def _no_image(function: StackFunction) -> Mistake:
    return Mistake(
        function.line("image"),
        f"{function.name}.image: nothing is fetched for a request from a fork; {HOW}",
    )

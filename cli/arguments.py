"""What commands are given: a name that can be none is told before anybody is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from core import names
from core.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from cli.client import Client


class _Name(click.ParamType[str]):
    """A name by one of the rules of core/names.py; handed on as it was given. ``forges``: a
    repository may be given by its path at GitLab, with all its groups."""

    name = "name"

    def __init__(self, rule: Callable[[str], object], *, forges: bool = False) -> None:
        self._rule = rule
        self._forges = forges

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            value = repository(value) if self._forges else value
            self._rule(value)
        except InvalidRequest as error:
            self.fail(str(error), param, ctx)
        return str(value)


def repository(value: str) -> str:
    """``acme/shop/fns`` → ``acme/shop--fns``: what a project in groups of groups is called here."""
    if value.count("/") < 2:
        return value
    from forges import paths  # seldom needed, and every command is to start quickly

    owner, name = paths.read(value, groups=True)
    return f"{owner.lower()}/{name}"


def _release(value: str) -> None:
    if not names.COMMIT.fullmatch(value):
        names.release_id(value)


def _repository(value: str) -> None:
    namespace, slash, name = value.partition("/")
    if not slash:
        raise InvalidRequest("name the repository as NAMESPACE/REPOSITORY")
    names.namespace(namespace)
    names.repository_name(name)


def _repository_or_function(value: str) -> None:
    _repository(value) if "/" in value else names.split_function(value)


def _function_or_release(value: str) -> None:
    names.split_function(value) if "." in value else _release(value)


FUNCTION = click.argument(
    "function", metavar="FUNCTION[.NAMESPACE]", type=_Name(names.split_function)
)
RELEASE = click.argument("release", metavar="RELEASE|COMMIT", type=_Name(_release))
REPOSITORY = click.argument(
    "repository", metavar="NAMESPACE/REPOSITORY", type=_Name(_repository, forges=True)
)
WHAT_GOES_BACK = click.argument(
    "what",
    metavar="NAMESPACE/REPOSITORY|FUNCTION[.NAMESPACE]",
    type=_Name(_repository_or_function, forges=True),
)
WHOSE_LOG = click.argument(
    "what", metavar="FUNCTION[.NAMESPACE]|RELEASE|COMMIT", type=_Name(_function_or_release)
)
A_RELEASE = _Name(_release)
OWNER = _Name(names.owner_namespace)
TOKEN = _Name(names.token_id)
OUTPUT = click.option(
    "--output", "-o", type=click.Choice(["table", "json"]), default="table", help="Form of it."
)


@contextmanager
def or_its_namespace(client: Client, function: str) -> Iterator[None]:
    """Where there is no function of a name that was given without a namespace, NotFound tells in
    which one there is."""
    try:
        yield
    except NotFound as error:
        found = [] if "." in function else client.get("/system/functions")
        there = [
            f"{each['name']}.{each['namespace']}" for each in found if each["name"] == function
        ]
        if not there:
            raise
        raise NotFound(f"{error}. Did you mean {' or '.join(there)}?") from None

"""``slipway variables …``: what ``${NAME}`` stands for in an owner's stack files."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

import click

from cli import show
from cli.arguments import OUTPUT

if TYPE_CHECKING:
    from cli.main import Context

_NAMESPACE = click.argument("namespace")


@click.group()
def variables() -> None:
    """Set, list and remove what ${NAME} stands for in stack files. These are no secrets."""


@variables.command(name="set")
@_NAMESPACE
@click.argument("pairs", metavar="NAME=VALUE…", nargs=-1, required=True)
@click.pass_obj
def set_(context: Context, namespace: str, pairs: tuple[str, ...]) -> None:
    """Set variables of a namespace; they count from its next release on."""
    given = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign:
            raise click.UsageError(f"{pair!r} is no NAME=VALUE")
        given[name] = value
    with context.client() as client:
        client.change("PUT", "/system/variables", {"namespace": namespace, "variables": given})


@variables.command(name="list")
@_NAMESPACE
@OUTPUT
@click.pass_obj
def list_(context: Context, namespace: str, output: str) -> None:
    """List the variables of a namespace with their values."""
    with context.client() as client:
        found = client.get("/system/variables", namespace=namespace)
    if output == "json":
        show.as_json(found)
    else:
        show.table(("VARIABLE", "VALUE"), list(found["variables"].items()))


@variables.command()
@_NAMESPACE
@click.argument("name")
@click.pass_obj
def remove(context: Context, namespace: str, name: str) -> None:
    """Remove a variable of a namespace."""
    query = urlencode({"namespace": namespace, "name": name})
    with context.client() as client:
        client.change("DELETE", f"/system/variables?{query}", {})

"""``slipway dead-letters …``: asynchronous calls that failed for good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import click

from cli import arguments, show
from core.errors import SlipwayError

if TYPE_CHECKING:
    from cli.main import Context

_ID = click.argument("id_", metavar="ID", type=click.UUID)
_PATH = "/system/dead-letters"


@click.group(name="dead-letters", invoke_without_command=True)
@arguments.OUTPUT
@click.pass_context
def dead_letters(ctx: click.Context, output: str) -> None:
    """List, show, replay and remove asynchronous calls that failed for good."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_, output=output)


@dead_letters.command(name="list")
@click.option("--namespace", "-n", default="", help="Only of this owner.")
@click.option("--function", "-f", default="", metavar="FUNCTION[.NAMESPACE]", help="Only of it.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000))
@arguments.OUTPUT
@click.pass_obj
def list_(
    context: Context,
    namespace: str = "",
    function: str = "",
    limit: int = 100,
    output: str = "table",
) -> None:
    """List them, the newest first."""
    with context.client() as client:
        found = client.get(_PATH, namespace=namespace, function=function, limit=limit)
    if output == "json":
        show.as_json(found)
    else:
        rows = [
            (
                *(each["id"], each["function"], str(each["attempts"])),
                *(each["finishedAt"], each["reason"]),
            )
            for each in found
        ]
        show.table(("ID", "FUNCTION", "ATTEMPTS", "FAILED", "REASON"), rows)


@dead_letters.command(name="show")
@_ID
@arguments.OUTPUT
@click.pass_obj
def show_(context: Context, id_: Any, output: str) -> None:
    """Show one, with the call's headers and body."""
    with context.client() as client:
        found = client.get(f"{_PATH}/{id_}")
    show.as_json(found) if output == "json" else show.function(found)


@dead_letters.command()
@click.argument("id_", metavar="[ID]", required=False, type=click.UUID)
@click.option("--function", "-f", default="", metavar="FUNCTION[.NAMESPACE]", help="All of it.")
@arguments.OUTPUT
@click.pass_obj
def replay(context: Context, id_: Any, function: str, output: str) -> None:
    """Have one made again, or all of a function; exit status 1 if some could not be."""
    if bool(id_) == bool(function):
        raise click.UsageError("name one by its id, or all of a function with --function")
    path = f"{_PATH}/{id_}/replay" if id_ else f"{_PATH}/replay?{urlencode({'function': function})}"
    with context.client() as client:
        found = client.post(path, {})
    if output == "json":
        show.as_json(found)
    else:
        for each in found["replayed"]:
            click.echo(each)
        if not found["replayed"] and not found["left"]:
            click.echo(f"{function} has no dead letters", err=True)
    if found["left"]:
        raise SlipwayError(f"{found['left']} more stay: {found['reason']}")


@dead_letters.command()
@_ID
@click.pass_obj
def remove(context: Context, id_: Any) -> None:
    """Remove one for ever."""
    with context.client() as client:
        client.change("DELETE", f"{_PATH}/{id_}", {})

"""Why a function was released anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from cli import show
from cli.arguments import FUNCTION, OUTPUT, or_its_namespace

if TYPE_CHECKING:
    from cli.main import Context


@click.command()
@FUNCTION
@OUTPUT
@click.pass_obj
def why(context: Context, function: str, output: str) -> None:
    """Tell what changed of a function since the release before: files, template, settings."""
    with context.client() as client, or_its_namespace(client, function):
        found = client.get(f"/system/function/{quote(function, safe='')}/why")
    if output == "json":
        show.as_json(found)
        return
    head = [("function", f"{found['name']}.{found['namespace']}"), ("why", found["summary"])]
    head += [(name, found[name]) for name in ("release", "since", "commit", "build")]
    for name, value in head:
        if value:
            click.echo(f"{name:<10}{show.printable(value)}")
    if rows := [_row(each) for each in found["changes"] if each["what"]]:
        click.echo()
        show.table(("CHANGED", "BEFORE", "NOW", "OF IT"), rows)


def _row(change: Mapping[str, Any]) -> show.Row:
    before, after = (change[side] or "-" for side in ("before", "after"))
    if change["kind"] == "configuration":  # of which no values are told
        before = after = ""
    return (change["what"], before, after, ", ".join(change["names"]))

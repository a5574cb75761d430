"""``slipway prune``: removes what nothing needs any more, now instead of on the schedule."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from cli import show
from cli.arguments import OUTPUT
from core import disk

if TYPE_CHECKING:
    from cli.main import Context


PATIENCE = 300.0
"""Seconds: the gateway waits for two parts, and removes branches itself."""


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@OUTPUT
@click.pass_obj
def prune(context: Context, dry_run: bool, output: str) -> None:
    """Remove what nothing needs any more: old releases, artifacts, caches.

    The same happens every ten minutes by itself. Exit status 1 if not all parts answered.
    """
    with context.client() as client:
        found = client.post("/system/prune", {"dryRun": dry_run}, timeout=PATIENCE)
    if output == "json":
        show.as_json(found)
    else:
        rows = [(each["kind"], each["name"], _size(each["bytes"])) for each in found["pruned"]]
        show.table(("KIND", "NAME", "SIZE"), rows)
        verb = "would go" if dry_run else "went"
        click.echo(f"{len(rows)} {verb}, {disk.human(found['bytes'])}")
        if found["more"]:
            click.echo("there is more: run it again")
    for part in found["missing"]:
        told = "what it would remove is not listed" if dry_run else "it goes on by itself"
        click.echo(f"slipway: the {part} has not answered in time: {told}", err=True)
    if found["missing"]:
        sys.exit(1)


def _size(size: int) -> str:
    return disk.human(size) if size else ""

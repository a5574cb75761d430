"""``slipway previews``, ``slipway approve``: pull and merge requests, and who lets forks in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from cli import arguments, show
from core.errors import NotFound, SlipwayError

if TYPE_CHECKING:
    from cli.client import Client
    from cli.main import Context

_SHORTEST = 7
"""Digits of a commit that tell it from others."""


@click.command()
@click.option("--namespace", "-n", default="", help="Only of this owner.")
@arguments.OUTPUT
@click.pass_obj
def previews(context: Context, namespace: str, output: str) -> None:
    """List the previews of pull and merge requests."""
    with context.client() as client:
        found = client.get("/system/previews", namespace=namespace)
    if output == "json":
        show.as_json(found)
        return
    rows = [
        (
            f"{each['namespace']}/{each['repository']}",
            str(each["number"]),
            each["state"],
            each["commit"][:_SHORTEST],
            each["functions"][0] if each["functions"] else each["reason"] or "-",
            each["title"],
        )
        for each in found
    ]
    table = ("REPOSITORY", "NUMBER", "STATE", "COMMIT", "URL OR REASON", "TITLE")
    show.table(table, rows)
    full = {(f"{each['namespace']}/{each['repository']}", each["full"]) for each in found}
    for repository, why in sorted(full):
        if why:
            click.echo(show.printable(f"{repository}: {why}"), err=True)


@click.command()
@arguments.REPOSITORY
@click.argument("number", type=click.IntRange(1, 10**10 - 1))
@click.option("--commit", default="", help="The commit that you looked at: 7 digits or more.")
@click.pass_obj
def approve(context: Context, repository: str, number: int, commit: str) -> None:
    """Let the commit of a request from a fork be built.

    Its functions get no secrets, and run on your server: look at it first. What is pushed after
    that needs an approval of its own. Without --commit it is shown and asked for.
    """
    with context.client() as client:
        found = _found(client, repository, number)
        if commit:
            if len(commit) < _SHORTEST or not found["commit"].startswith(commit.lower()):
                raise SlipwayError(
                    f"the head of request {number} is {found['commit']}: look at that, and approve "
                    "it by at least 7 digits"
                )
        else:
            for line in (f"{number}  {found['title']}", found["url"]):
                click.echo(show.printable(line), err=True)
            click.confirm(f"build {found['commit']}?", abort=True, err=True)
        space, _, name = repository.partition("/")
        path = f"/system/previews/{quote(space)}/{quote(name)}/{number}/approve"
        done = client.post(path, {"commit": found["commit"]})
    click.echo(done["release"])


def _found(client: Client, repository: str, number: int) -> Mapping[str, Any]:
    space, _, name = repository.partition("/")
    for each in client.get("/system/previews", namespace=space):
        if (each["namespace"], each["repository"], each["number"]) == (space, name, number):
            return dict(each)
    raise NotFound(f"there is no open request {number} of {repository}: see 'slipway previews'")

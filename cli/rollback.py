"""``slipway rollback``: back to what an earlier release brought, without a build."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from cli import show
from core.errors import SlipwayError
from core.names import split_function

if TYPE_CHECKING:
    from cli.client import Client
    from cli.main import Context

LOOK_EVERY = 0.05
"""Seconds between two looks at a rollback under way."""


@click.command()
@click.argument("what", metavar="NAMESPACE/REPOSITORY|FUNCTION[.NAMESPACE]")
@click.option("--to", default="", metavar="RELEASE", help="By default what was live before.")
@click.option("--timeout", default=300.0, show_default=True, help="Seconds.")
@click.option(
    "--output", "-o", type=click.Choice(["table", "json"]), default="table", help="Form of it."
)
@click.pass_obj
def rollback(context: Context, what: str, to: str, timeout: float, output: str) -> None:
    """Go back to an earlier release; exit status 0 once it serves, else 1.

    It stays so until a newer commit is pushed.
    """
    space, slash, name = what.partition("/")
    if slash:
        body = {"namespace": space, "repository": name}
    else:
        function, space = split_function(what)
        body = {"namespace": space, "function": function}
    with context.client() as client:
        found = client.post("/system/rollback", body | ({"to": to} if to else {}))
        found = _decided(client, found["id"], time.monotonic() + timeout)
    if output == "json":
        show.as_json(found)
    if found["state"] != "done":
        raise SlipwayError(f"{found['id']} failed: {found['reason']}; what was live stays")
    if output != "json":
        click.echo(f"{what}: {found['to']} serves again ({found['id']})")
        if found["branch"]:
            click.echo(f"to keep it so beyond the next push, merge the branch {found['branch']}")


def _decided(client: Client, id_: str, deadline: float) -> Any:
    while True:
        found = client.get(f"/system/rollbacks/{id_}")
        if found["state"] in ("done", "failed"):
            return found
        if time.monotonic() > deadline:
            raise SlipwayError(f"{id_} is still {found['state']}: wait longer with --timeout")
        time.sleep(LOOK_EVERY)

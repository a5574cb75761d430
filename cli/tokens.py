"""``slipway token …``: what owners work with instead of the admin's password."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from cli import arguments, show
from core.scopes import Scope

if TYPE_CHECKING:
    from cli.main import Context


@click.group()
def token() -> None:
    """Create, list and revoke tokens of owners."""


@token.command()
@click.argument("namespace", type=arguments.OWNER)
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice([each.value for each in Scope]),
    help="What it is good for; may be given several times [all].",
)
@click.option("--description", "-d", default="", help="What it is for, who has it.")
@click.option("--days", type=click.IntRange(1, 36500), help="It expires after so many [never].")
@arguments.OUTPUT
@click.pass_obj
def create(
    context: Context,
    namespace: str,
    scopes: tuple[str, ...],
    description: str,
    days: int | None,
    output: str,
) -> None:
    """Create a token for the owner of a namespace. It is printed this once, alone on standard
    output: 'slipway token create acme > acme.token'."""
    body: dict[str, Any] = {"namespace": namespace, "description": description}
    if scopes:
        body["scopes"] = scopes
    if days:
        body["expiresAt"] = (datetime.now(UTC) + timedelta(days=days)).isoformat("T", "seconds")
    with context.client() as client:
        made = client.post("/system/tokens", body)
    show.as_json(made) if output == "json" else click.echo(made["token"])


@token.command(name="list")
@click.option("--namespace", "-n", default="", help="Only of this owner.")
@arguments.OUTPUT
@click.pass_obj
def list_(context: Context, namespace: str, output: str) -> None:
    """List tokens, the oldest first; they themselves are not shown."""
    with context.client() as client:
        found = client.get("/system/tokens", namespace=namespace)
    if output == "json":
        show.as_json(found)
        return
    rows = [
        (
            *(each["id"], each["namespace"], ",".join(each["scopes"])),
            *(each["expiresAt"] or "never", each["lastUsedAt"] or "never", each["description"]),
        )
        for each in found
    ]
    show.table(("ID", "NAMESPACE", "SCOPES", "EXPIRES", "USED", "DESCRIPTION"), rows)


@token.command()
@click.argument("id_", metavar="ID", type=arguments.TOKEN)
@click.pass_obj
def revoke(context: Context, id_: str) -> None:
    """Revoke a token: it opens nothing from now on."""
    with context.client() as client:
        client.change("DELETE", f"/system/tokens/{id_}", {})

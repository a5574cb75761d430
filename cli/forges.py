"""``slipway hook …`` and ``slipway owner …``: webhooks of single repositories, and the namespaces
of owners at forges."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from cli import arguments, show
from forges import known

if TYPE_CHECKING:
    from cli.main import Context

_ENTER = {
    "github": "content type application/json; events: pushes, pull requests, repositories",
    "gitlab": "the secret is the secret token; events: push, tag push, merge request",
    "gitea": "content type application/json; events: push, delete, repository, pull request, pull "
    "request synchronized",
}
"""What else is entered at the forge, in the words of its page."""
_HOOKS, _OWNERS = "/system/hooks", "/system/owners"


@click.group(name="hook")
def hook() -> None:
    """Webhooks of single repositories, each with a secret that counts for that one alone."""


@hook.command(name="create")
@click.argument("forge", type=click.Choice(known.NAMES))
@click.argument("repository", metavar="OWNER/NAME")
@arguments.OUTPUT
@click.pass_obj
def create_hook(context: Context, forge: str, repository: str, output: str) -> None:
    """Make one, and print what is to be entered at the forge. The secret is told this once."""
    from forges.github.manifest import reached  # brings a client for HTTP along

    with context.client() as client:
        made = client.post(_HOOKS, {"forge": forge, "repository": repository})
    if output == "json":
        show.as_json(made)
        return
    click.echo(f"URL     {made['url']}")
    click.echo(f"secret  {made['secret']}")
    click.echo(_ENTER[forge], err=True)
    if not reached(made["url"]):
        told = "this URL is this machine's own: unless the forge runs here as well, it cannot reach"
        click.echo(f"{told} it; set SLIPWAY_PUBLIC_URL to an address that it reaches", err=True)


@hook.command(name="list")
@arguments.OUTPUT
@click.pass_obj
def list_hooks(context: Context, output: str) -> None:
    """List them, the oldest first."""
    with context.client() as client:
        found = client.get(_HOOKS)
    if output == "json":
        show.as_json(found)
    else:
        rows = [
            (each["id"], each["forge"], each["repository"], "yes" if each["bound"] else "no")
            for each in found
        ]
        show.table(("ID", "FORGE", "REPOSITORY", "HEARD OF"), rows)


@hook.command(name="delete")
@click.argument("id_", metavar="ID")
@click.pass_obj
def delete_hook(context: Context, id_: str) -> None:
    """Delete one: its events are refused from then on."""
    with context.client() as client:
        client.change("DELETE", f"{_HOOKS}/{quote(id_, safe='')}", {})
    click.echo(f"the hook {id_} is deleted: remove it at the forge as well")


@click.group(name="owner")
def owner() -> None:
    """Namespaces that owners at forges were given; others have that of their login."""


@owner.command(name="link")
@click.argument("who", metavar="FORGE-URL#OWNER-ID")
@click.argument("namespace")
@click.pass_obj
def link_owner(context: Context, who: str, namespace: str) -> None:
    """Give an owner a namespace; one that somebody else holds is shared by both."""
    with context.client() as client:
        client.change("PUT", _OWNERS, {"owner": who, "namespace": namespace})
    click.echo(f"{who} has the namespace {namespace}: have it push again")


@owner.command(name="unlink")
@click.argument("who", metavar="FORGE-URL#OWNER-ID")
@click.pass_obj
def unlink_owner(context: Context, who: str) -> None:
    """Take it back; what is deployed stays."""
    with context.client() as client:
        client.change("DELETE", _OWNERS, {"owner": who})
    click.echo(f"{who} has that namespace no more; what is deployed stays")


@owner.command(name="list")
@arguments.OUTPUT
@click.pass_obj
def list_owners(context: Context, output: str) -> None:
    """List those to whom the admin gave a namespace."""
    with context.client() as client:
        found = client.get(_OWNERS)
    if output == "json":
        show.as_json(found)
    else:
        show.table(("OWNER", "NAMESPACE"), [(each["owner"], each["namespace"]) for each in found])

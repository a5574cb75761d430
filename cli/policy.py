"""``slipway policy``: who may deploy, and what an owner has of what it may have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from cli import show
from cli.arguments import OUTPUT

if TYPE_CHECKING:
    from cli.main import Context


@click.command()
@click.argument("namespace", default="")
@OUTPUT
@click.pass_obj
def policy(context: Context, namespace: str, output: str) -> None:
    """Tell who may deploy and what bounds everybody; of a NAMESPACE, its bounds and their use."""
    path = f"/system/policy/{quote(namespace, safe='')}" if namespace else "/system/policy"
    with context.client() as client:
        found = client.get(path)
    if output == "json":
        show.as_json(found)
    elif namespace:
        _owner(found)
    else:
        _installation(found)


def _installation(found: Mapping[str, Any]) -> None:
    owners = found["owners"]
    everybody = "everybody whose events are signed"
    show.function(
        {
            "source": found["source"] or "none: nothing is bounded",
            "since": found["since"] or "-",
            "trouble": show.one_line(found["trouble"], 500) or "-",
            "owners": everybody if owners is None else ", ".join(owners) or "nobody",
            "own bounds": ", ".join(found["policies"]) or "-",
        }
    )
    click.echo()
    rows = [(_written(name), _told(name, value)) for name, value in found["default"].items()]
    show.table(("BOUND", "DEFAULT"), rows)


def _owner(found: Mapping[str, Any]) -> None:
    click.echo(f"owner  {show.printable(found['owner'])}\n")
    used = found["used"]
    rows = [
        (_written(name), _told(name, value), _told(name, used[name]) if name in used else "")
        for name, value in found["bounds"].items()
    ]
    show.table(("BOUND", "ALLOWED", "USED"), rows)


def _written(name: str) -> str:
    """``buildMinutes`` → ``build-minutes``, as the document has it."""
    return re.sub("[A-Z]", lambda found: f"-{found[0].lower()}", name)


def _told(name: str, value: Any) -> str:
    if value is None:
        return "unlimited"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(value) or "none"
    if isinstance(value, str):
        return value
    return f"{value / 2**20:.0f}Mi" if name == "memory" else f"{value:g}"

"""Functions and namespaces by API: thin over the same routes that OpenFaaS' client uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from cli import show
from cli.arguments import FUNCTION, OUTPUT, or_its_namespace
from core.errors import NotFound

if TYPE_CHECKING:
    from cli.main import Context


@click.command()
@FUNCTION
@click.argument("image")
@click.option("--env", "-e", multiple=True, metavar="NAME=VALUE", help="A variable.")
@click.option("--label", "-l", multiple=True, metavar="NAME=VALUE")
@click.option("--annotation", multiple=True, metavar="NAME=VALUE")
@click.option("--secret", multiple=True, metavar="NAME", help="A secret of the same namespace.")
@click.option("--fprocess", default="", help="What the image's watchdog runs.")
@click.option("--memory", default="", help="The most it may use, such as 128Mi.")
@click.option("--cpu", default="", help="The most it may use, such as 0.5 or 500m.")
@click.option("--readonly", is_flag=True, help="Its file system, but for /tmp.")
@click.pass_obj
def deploy(
    context: Context,
    function: str,
    image: str,
    env: tuple[str, ...],
    label: tuple[str, ...],
    annotation: tuple[str, ...],
    secret: tuple[str, ...],
    fprocess: str,
    memory: str,
    cpu: str,
    readonly: bool,
) -> None:
    """Deploy an image that was not built here; what runs serves until it is healthy."""
    name, _, namespace = function.partition(".")
    given: dict[str, Any] = {
        "namespace": namespace,
        "envProcess": fprocess,
        "envVars": _pairs(env),
        "labels": _pairs(label),
        "annotations": _pairs(annotation),
        "secrets": list(secret),
        "limits": {key: value for key, value in (("memory", memory), ("cpu", cpu)) if value},
        "readOnlyRootFilesystem": readonly,
    }
    body = {"service": name, "image": image} | {key: value for key, value in given.items() if value}
    with context.client() as client:
        try:
            client.change("PUT", "/system/functions", body)
        except NotFound:
            client.change("POST", "/system/functions", body)
    click.echo(f"{function} is deployed: 'slipway describe {function}' tells when it is available")


@click.command()
@FUNCTION
@click.pass_obj
def remove(context: Context, function: str) -> None:
    """Remove a function that was deployed by API."""
    with context.client() as client, or_its_namespace(client, function):
        client.change("DELETE", "/system/functions", {"functionName": function})


@click.command()
@FUNCTION
@click.argument("replicas", type=click.IntRange(0))
@click.pass_obj
def scale(context: Context, function: str, replicas: int) -> None:
    """Set how many replicas a function has; of a pushed one, until its next release."""
    path = f"/system/scale-function/{quote(function, safe='')}"
    with context.client() as client, or_its_namespace(client, function):
        client.change("POST", path, {"serviceName": function, "replicas": replicas})


@click.command()
@FUNCTION
@OUTPUT
@click.pass_obj
def describe(context: Context, function: str, output: str) -> None:
    """Show one function: what was asked for, and what of it is there."""
    with context.client() as client, or_its_namespace(client, function):
        found = client.get(f"/system/function/{quote(function, safe='')}", usage=1)
    show.as_json(found) if output == "json" else show.function(found)


@click.command()
@OUTPUT
@click.pass_obj
def namespaces(context: Context, output: str) -> None:
    """List the namespaces."""
    with context.client() as client:
        found = client.get("/system/namespaces")
    show.as_json(found) if output == "json" else click.echo("\n".join(found))


@click.command()
@click.option("--namespace", "-n", default="", help="Only of this owner.")
@OUTPUT
@click.pass_obj
def schedules(context: Context, namespace: str, output: str) -> None:
    """List the functions that are called on a schedule, the next one first."""
    with context.client() as client:
        found = client.get("/system/schedules", namespace=namespace)
    show.as_json(found) if output == "json" else show.schedules(found)


COMMANDS = (deploy, remove, scale, describe, schedules, namespaces)


def _pairs(given: Sequence[str]) -> dict[str, str]:
    pairs = [each.partition("=") for each in given]
    for name, sign, value in pairs:
        if not (name and sign):
            raise click.UsageError(f"{name + sign + value!r} is no NAME=VALUE")
    return {name: value for name, _, value in pairs}

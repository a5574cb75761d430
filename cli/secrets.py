"""``slipway secret …``: values come from a file or standard input, never from an argument, which
every user of the machine could read in the process list."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli import show
from core.errors import InvalidRequest
from core.names import DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from cli.main import Context

_namespace = click.option(
    "--namespace", "-n", default=DEFAULT_NAMESPACE, show_default=True, help="Whose it is."
)
FROM_FILE = click.option(
    "--from-file", "-f", "file", default="-", metavar="FILE", help="File with the value [stdin]."
)
VERBATIM = click.option(
    "--verbatim", is_flag=True, help="Keep a newline at the end, which is dropped otherwise."
)


@click.group()
def secret() -> None:
    """Create, change, list and remove secrets."""


@secret.command()
@click.argument("name")
@_namespace
@FROM_FILE
@VERBATIM
@click.pass_obj
def create(context: Context, name: str, namespace: str, file: str, verbatim: bool) -> None:
    """Create a secret; its value is asked for, or read from a file or a pipe."""
    _set(context, "POST", name, namespace, read_value(file, verbatim=verbatim))


@secret.command()
@click.argument("name")
@_namespace
@FROM_FILE
@VERBATIM
@click.pass_obj
def update(context: Context, name: str, namespace: str, file: str, verbatim: bool) -> None:
    """Give a secret a new value; functions get it when they are deployed again."""
    _set(context, "PUT", name, namespace, read_value(file, verbatim=verbatim))


@secret.command(name="list")
@click.option("--namespace", "-n", default="", help="Only of this one [all].")
@click.option("--output", "-o", type=click.Choice(["table", "json"]), default="table")
@click.pass_obj
def list_(context: Context, namespace: str, output: str) -> None:
    """List the names of secrets; their values cannot be read back."""
    with context.client() as client:
        spaces = [namespace] if namespace else client.get("/system/namespaces")
        found = [
            each for space in spaces for each in client.get("/system/secrets", namespace=space)
        ]
    if output == "json":
        show.as_json(found)
    else:
        show.table(("SECRET", "NAMESPACE"), [(each["name"], each["namespace"]) for each in found])


@secret.command()
@click.argument("name")
@_namespace
@click.pass_obj
def remove(context: Context, name: str, namespace: str) -> None:
    """Remove a secret, also one that functions use: the answer names them."""
    with context.client() as client:
        click.echo(client.say("DELETE", "/system/secrets", {"name": name, "namespace": namespace}))


def _set(context: Context, method: str, name: str, namespace: str, value: bytes) -> None:
    body = {"name": name, "namespace": namespace, "rawValue": base64.b64encode(value).decode()}
    with context.client() as client:
        click.echo(client.say(method, "/system/secrets", body))


def read_value(file: str, *, verbatim: bool) -> bytes:
    """What was asked for, or is in the file or pipe. Raises InvalidRequest: it cannot be read."""
    if file == "-" and sys.stdin.isatty():
        return str(click.prompt("Value", hide_input=True)).encode()
    try:
        value = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {error.strerror}") from error
    return value if verbatim else value.removesuffix(b"\n").removesuffix(b"\r")

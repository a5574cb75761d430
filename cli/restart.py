"""``slipway restart``: asks the supervisor that runs here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cli import installation, show
from core.errors import ConfigError
from supervisor import control

if TYPE_CHECKING:
    from cli.main import Context


@click.command()
@click.argument("names", metavar="[PART]…", nargs=-1, type=click.Choice(control.RESTARTABLE))
@click.option("--timeout", default=180.0, show_default=True, help="Seconds, for each part.")
@click.option(
    "--output", "-o", type=click.Choice(["table", "json"]), default="table", help="Form of it."
)
@click.pass_obj
def restart(context: Context, names: tuple[str, ...], timeout: float, output: str) -> None:
    """Restart parts of the installation that runs here, without losing a request; by default all
    but the store. Returns once the new ones serve.

    PART: controller, gateway, edge, queue, reporter or workers. Settings are those of the start:
    another environment takes a stop and a start.
    """
    if context.url:
        raise click.UsageError("restarts are asked of this machine's Slipway: leave --url away")
    settings = context.running or context.settings
    if not installation.runs(settings):
        raise ConfigError(
            f"no Slipway runs on {settings.state}: start it with 'slipway up', or name the folder "
            "of the one that runs with --state (in compose: docker compose restart SERVICE)"
        )
    wanted = names or [
        each for each in control.RESTARTABLE if each != "edge" or settings.edge != "none"
    ]
    told = []
    try:
        for each in control.ask(settings, wanted, timeout):
            told.append(each)
            if output == "table":
                click.echo(f"{each['part']}: restarted in {each['seconds']} s")
    finally:  # a later one may fail: these were restarted all the same
        if output == "json":
            show.as_json(told)

"""``slipway backup`` and ``slipway restore``: all that git cannot give back, in one file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from cli.main import Context

_file = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
_passphrase = click.option(
    "--passphrase-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File with the passphrase that the backup is sealed with.",
)


@click.command()
@_file
@_passphrase
@click.pass_obj
def backup(context: Context, file: Path, passphrase_file: Path | None) -> None:
    """Write all that git cannot give back into one file, also while Slipway runs.

    That is: secrets with their key, functions deployed by API, namespaces, repositories and what
    was pushed to this git remote, which commits are live, and the passwords of the state folder.
    Whoever has the file has all of it, unless it is sealed with a passphrase.
    """
    from supervisor import archive
    from supervisor.backup import backup as make

    passphrase = archive.passphrase_in(passphrase_file)
    made = make(context.settings, os.environ, file.absolute(), passphrase)
    sealed = ", sealed" if passphrase else ", NOT sealed: keep it where nobody else reads"
    click.echo(
        f"{file}: {made.secrets} secrets, {made.functions} functions deployed by API, "
        f"{made.repositories} repositories, {made.size} bytes{sealed}"
    )
    for repository in made.lost:
        click.echo(
            f"warning: the record of what is live of {repository} is missing, so the backup does "
            "not name that commit: after a restore its branch's head is released",
            err=True,
        )


@click.command()
@_file
@_passphrase
@click.option(
    "--force",
    is_flag=True,
    help="Move aside what is in the state folder, and delete what is Slipway's in the Redis of "
    "SLIPWAY_REDIS_URL: of that nothing is kept.",
)
@click.pass_obj
def restore(context: Context, file: Path, passphrase_file: Path | None, force: bool) -> None:
    """Start anew from a backup, in an empty state folder; nothing of Slipway may run on it.

    What was live is released again by the next start, out of the repositories.
    """
    from supervisor import archive
    from supervisor.restore import restore as start_anew

    settings = context.settings
    passphrase = archive.passphrase_in(passphrase_file)
    made, earlier = start_anew(settings, os.environ, file.absolute(), passphrase, force=force)
    click.echo(
        f"{settings.state}: {made.secrets} secrets, {made.functions} functions deployed by API, "
        f"{made.repositories} repositories. Start it with: slipway --state {settings.state} up"
    )
    if earlier:
        click.echo(f"what was there before is in {earlier}; remove it when you need it no more")

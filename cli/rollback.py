"""``slipway rollback``: back to what an earlier release brought, without a build."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from cli import arguments, show
from core.errors import SlipwayError, Unavailable
from core.names import split_function

if TYPE_CHECKING:
    from cli.client import Client
    from cli.main import Context

MOVING = ("queued", "building", "testing", "staging")
"""States of a release that is on its way to being live."""
LOOK_EVERY = 0.05
"""Seconds between two looks at a rollback under way."""
BRANCH_SECONDS = 5.0
"""For its branch to be written: it may come later than the routes."""


@click.command()
@arguments.WHAT_GOES_BACK
@click.option(
    "--to",
    type=arguments.A_RELEASE,
    metavar="RELEASE|COMMIT",
    help="By default what was live before.",
)
@click.option("--timeout", default=300.0, show_default=True, help="Seconds.")
@arguments.OUTPUT
@click.pass_obj
def rollback(context: Context, what: str, to: str | None, timeout: float, output: str) -> None:
    """Go back to an earlier release; exit status 0 once it serves, else 1.

    It stays so until a newer commit is pushed.
    """
    space, slash, name = what.partition("/")
    if slash:
        body = {"namespace": space, "repository": name}
    else:
        function, space = split_function(what)
        body = {"namespace": space, "function": function}
    with context.client() as client, arguments.or_its_namespace(client, what):
        remarks: list[str] = []
        if to:
            body["to"] = client.release(to)["id"]
        found = client.post("/system/rollback", body)
        id_ = found["id"]
        found = _awaited(client, id_, lambda now: now["state"] in ("done", "failed"), timeout)
        if found["state"] == "done":
            with suppress(Unavailable):
                found = _awaited(client, id_, _has_branch, BRANCH_SECONDS)
            with suppress(Unavailable):  # it is done, whoever can tell more of it or not
                remarks = list(_remarks(client, found))
    if output == "json":
        show.as_json(found)
    if found["state"] == "failed":
        raise SlipwayError(f"{id_} failed: {found['reason']}; what was live stays")
    if found["state"] != "done":
        raise SlipwayError(f"{id_} is still {found['state']}: wait longer with --timeout")
    if output != "json":
        click.echo(f"{what}: {found['to']} serves again ({id_})")
        if found["branch"]:
            click.echo(f"to keep it so beyond the next push, merge the branch {found['branch']}")
    for remark in remarks:
        click.echo(f"slipway: {remark}", err=True)


def _remarks(client: Client, rollback: Mapping[str, Any]) -> Iterator[str]:
    """What the user may not have thought of."""
    target = client.release(rollback["to"])
    if (target["watch"] or {}).get("verdict") == "returned":
        yield f"{target['id']} was taken back by itself when it was new: see 'slipway releases'"
    of = {"namespace": rollback["namespace"], "repository": rollback["repository"]}
    for each in client.get("/system/releases", **of, limit=20):
        if each["state"] in MOVING:
            yield (
                f"{each['id']} is {each['state']} and takes its place once it is live: "
                f"'slipway cancel {each['id']}' stops it"
            )


def _has_branch(rollback: Any) -> bool:
    """Or is known to have none."""
    return rollback["branch"] is not None


def _awaited(client: Client, id_: str, ready: Callable[[Any], bool], seconds: float) -> Any:
    """The rollback once it is ready, or as it is when the time is over. A gateway that restarts has
    time to come back."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = client.get(f"/system/rollbacks/{id_}")
            if ready(found) or time.monotonic() > deadline:
                return found
        except Unavailable:
            if time.monotonic() > deadline:
                raise
        time.sleep(LOOK_EVERY)

"""Which log a user means, and its lines."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from cli.client import Client
from core.errors import InvalidRequest, NotFound

_DURATION = re.compile(
    r"(?=.)(?:([0-9]{1,4})d)?(?:([0-9]{1,5})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,8})s)?"
)


def lines(
    client: Client, what: str, *, follow: bool, tail: int, since: str, instance: str
) -> Iterator[Mapping[str, Any]]:
    """The log of a function, or of a release: a name without a namespace may be both.

    Raises:
        NotFound: it is neither.
        UsageError: it is a release, of whose log no part can be chosen.
    """
    following = {"follow": 1} if follow else {}
    chosen: dict[str, str | int] = {"tail": tail, "since": moment(since), "instance": instance}
    query = {name: value for name, value in chosen.items() if value}
    if "." not in what and not query:
        try:
            id_ = client.release(what)["id"]
        except NotFound as error:
            try:
                yield from client.lines("/system/logs", name=what, **following)
            except (NotFound, InvalidRequest):
                raise error from None
        else:
            yield from client.lines(f"/system/releases/{id_}/logs", **following)
        return
    try:
        yield from client.lines("/system/logs", name=what, **query, **following)
    except NotFound:
        if query and _is_release(client, what):
            raise click.UsageError(
                f"{what} is a release: --tail, --since and --instance are for functions' logs"
            ) from None
        raise


def _is_release(client: Client, what: str) -> bool:
    try:
        client.release(what)
    except NotFound:
        return False
    return True


def moment(text: str) -> str:
    """A time as it is, or how long ago (``90s``, ``1h30m``) as a time."""
    ago = _DURATION.fullmatch(text)
    if ago is None:
        return text  # for the gateway to judge
    days, hours, minutes, seconds = (int(each or 0) for each in ago.groups())
    past = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    return (datetime.now(UTC) - past).isoformat(timespec="milliseconds").replace("+00:00", "Z")

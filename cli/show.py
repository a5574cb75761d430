"""How results look: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import click

from core.names import NO_COMMIT, function_url

Row = Sequence[str]
GOOD = ("live", "replaced")
REMOVED = "removed"
"""States of a release whose push succeeded; a replaced one was live."""
_COLOURS = {"live": "green", "failed": "red", "ok": "green", "warn": "yellow", "FAIL": "red"}


def as_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def table(head: Row, rows: Iterable[Row]) -> None:
    """Columns as wide as they need to be; the last one is not padded."""
    lines = [head, *(tuple(printable(cell) for cell in row) for row in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(head))]
    for line in lines:
        cells = [
            click.style(cell.ljust(width), fg=_COLOURS[cell])
            if cell in _COLOURS
            else cell.ljust(width)
            for cell, width in zip(line, widths, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def functions(found: Iterable[Mapping[str, Any]], url: str) -> None:
    rows = [
        (
            each["name"],
            each["namespace"],
            f"{each.get('availableReplicas', 0)}/{each.get('replicas', 0)}",
            f"{each.get('invocationCount', 0):.0f}",
            each.get("annotations", {}).get("com.slipway.release", "-"),
            each.get("url") or function_url(url, each["name"], each["namespace"]),
        )
        for each in found
    ]
    table(("FUNCTION", "NAMESPACE", "REPLICAS", "INVOCATIONS", "RELEASE", "URL"), rows)


def function(found: Mapping[str, Any]) -> None:
    """One line a value; what is a list or a mapping has one line an entry."""
    for name, value in found.items():
        entries = value if isinstance(value, list) else [value]
        if isinstance(value, dict):
            entries = [f"{key}={each}" for key, each in _flat(value)]
        for entry in entries:
            told = str(entry).lower() if isinstance(entry, bool) else str(entry)
            click.echo(f"{name:<24}{printable(told)}".rstrip())


def _flat(entries: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Without what is not known; what stands in a mapping of its own as ``last.at``."""
    for name, value in entries.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{key}", each) for key, each in _flat(value))
        elif value is not None:
            yield name, value


def schedules(found: Iterable[Mapping[str, Any]]) -> None:
    rows = [
        (
            f"{each['name']}.{each['namespace']}",
            each["schedule"],
            each["timezone"],
            each["next"] or "-",
            each["last"]["at"] if each["last"] else "-",
            _missed_or_error(each),
        )
        for each in found
    ]
    table(("FUNCTION", "SCHEDULE", "TIMEZONE", "NEXT", "LAST", "MISSED OR ERROR"), rows)


def _missed_or_error(schedule: Mapping[str, Any]) -> str:
    missed, error = schedule["missed"], schedule["error"]
    told = [one_line(error)] if error else []
    told += [f"{missed['count']} since {missed['since']}"] if missed else []
    return "; ".join(told)


def releases(found: Iterable[Mapping[str, Any]]) -> None:
    rows = [
        (
            each["id"],
            f"{each['namespace']}/{each['repository']}",
            each["branch"],
            each["commit"][:12],
            each["state"],
            each["createdAt"],
            _functions_or_reason(each),
        )
        for each in found
    ]
    table(
        ("RELEASE", "REPOSITORY", "BRANCH", "COMMIT", "STATE", "CREATED", "FUNCTIONS OR REASON"),
        rows,
    )


def environments(found: Iterable[Mapping[str, Any]]) -> None:
    rows = []
    for each in found:
        live, gone = each["live"], one_line(each["gone"])
        if live.endswith(f"-{NO_COMMIT[:7]}"):  # the release that took everything down
            live, gone = "", gone or f"there is no branch {each['branch']}"
        home = f"{each['namespace']}/{each['repository']}"
        rows.append((each["environment"], home, each["branch"], live or "-", gone))
    table(("ENVIRONMENT", "REPOSITORY", "BRANCH", "LIVE", "GONE BECAUSE"), rows)


def _functions_or_reason(release: Mapping[str, Any]) -> str:
    gone = [row["name"] for row in release["functions"] if row["build"] == REMOVED]
    kept = [row["name"] for row in release["functions"] if row["build"] != REMOVED]
    functions = ", ".join(kept)
    if gone and not kept:
        functions = f"taken down: {', '.join(gone)}"
    serves = release["state"] in GOOD
    return functions if serves else one_line(release["reason"]) or functions


def release(each: Mapping[str, Any]) -> None:
    for name in ("id", "namespace", "repository", "branch", "commit", "state", "reason"):
        if each[name]:
            click.echo(f"{name:<11}{printable(each[name], lines=True)}")
    if source := each["promotedFrom"]:
        click.echo(f"{'promoted':<11}from {source['environment']} {source['release']}")
    click.echo(f"{'created':<11}{each['createdAt']}")
    if each["finishedAt"]:
        click.echo(f"{'finished':<11}{each['finishedAt']}")
    if receipt := each["receipt"]:
        told = f"{receipt['requests']} requests during the switch, {receipt['failed']} failed"
        click.echo(f"{'receipt':<11}{told}, longest gap {receipt['longestGapMs']:g} ms")
    if each["functions"]:
        click.echo()
        table(
            ("FUNCTION", "BUILD", "SECONDS", "KEY", "URL"),
            (
                (row["name"], row["build"], f"{row['seconds']:.1f}", row["key"][:12], row["url"])
                for row in each["functions"]
            ),
        )


def log_line(line: Mapping[str, Any]) -> str:
    """``time function step | text``; of the last line ``state: reason``; of a function's log
    ``time instance text``."""
    if "state" in line:
        reason = f": {printable(line['reason'], lines=True)}" if line["reason"] else ""
        return f"{line['state']}{reason}"
    if "instance" in line:
        return printable(f"{line['timestamp']} {line['instance']} {line['text']}")
    where = " ".join(filter(None, (line["function"], line["step"])))
    mark = "=" if line["stream"] == "step" else "|"
    return printable(f"{line['time']} {where} {mark} {line['text']}")


def one_line(text: str, longest: int = 80) -> str:
    told = " ".join(text.split())
    return told if len(told) <= longest else f"{told[: longest - 1]}…"


def printable(text: str, *, lines: bool = False) -> str:
    """The text without what could steer a terminal: builds of strangers wrote it."""
    kept = "\t\n" if lines else "\t"
    return "".join(c for c in text if c.isprintable() or c in kept)

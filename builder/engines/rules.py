"""What a Dockerfile may not ask for: everything that reaches out of the build's fence.

RUN is fenced by the engine's network and control group; this is about what the engine itself does
for a Dockerfile, from the host's own network: fetching (ADD, images), and handing things in.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import replace

from builder.engines.dockerfile import WORDS, Dockerfile, Instruction, mounts, walk
from core.errors import Mistake

HANDED_IN = "ca"
"""What a Dockerfile may mount beside the function's own secrets: the host's certificates, where it
has its own."""

_REFUSED_FLAGS = {
    "--security": "builds have no further rights",
    "--device": "builds have no devices",
    "--ssh": "no ssh agent is handed in",
}


def mistakes_of(
    dockerfile: Dockerfile, *, secrets: Collection[str] = (HANDED_IN,)
) -> list[Mistake]:
    """Every instruction that is refused, with why and what to do. Images are not looked at."""
    found = []
    for each in walk(dockerfile):
        found += [Mistake(each.line, told) for told in refusals(each, secrets)]
    return found


def refusals(each: Instruction, secrets: Collection[str] = (HANDED_IN,)) -> Iterator[str]:
    """Why one instruction is refused; nothing where it is fine."""
    if each.word == "ONBUILD":
        word, _, rest = each.rest.replace("\t", " ").partition(" ")
        if word.upper() not in WORDS or word.upper() in ("ONBUILD", "FROM"):
            yield f"ONBUILD {word[:40]!r} is not an instruction"
            return
        inner = replace(each, word=word.upper(), rest=rest.strip())
        if not inner.operands:
            yield f"ONBUILD {inner.word} has nothing after it"
            return
        yield from (f"ONBUILD {told}" for told in refusals(inner, secrets))
        if inner.word in ("COPY", "RUN") and any("from=" in flag for flag in inner.flags):
            yield f"ONBUILD {inner.word} with from= is not checked where it runs: leave it out"
        return
    for flag in each.flags:
        if re.search(r"['\"\\`]", flag):
            yield f"{flag[:60]}: write flags without quotes and backslashes"
            return
        name, _, value = flag.partition("=")
        if name.lower() != name or "$" in name:
            yield f"{flag[:60]}: flags are written in lower case"
        if name in _REFUSED_FLAGS:
            yield f"{flag[:60]}: {_REFUSED_FLAGS[name]}, leave it out"
        if name == "--network" and value not in ("none", "default"):
            yield f"{flag[:60]}: only default and none are there"
        if name == "--from" and ("$" in value or not value):
            yield f"{flag[:60]}: name the stage or image itself, without variables"
    if each.word == "ADD":
        yield from _add(each)
    if each.word == "RUN":
        for options in mounts(each):
            yield from _mount(options, secrets)


def _add(each: Instruction) -> Iterator[str]:
    text = each.operands
    told = (
        "is refused: the engine itself would fetch a URL or a repository, from the host's own "
        "network; use COPY for files of the function's folder, and RUN curl … for what is fetched"
    )
    if text.startswith("["):  # a list in JSON
        doubtful = re.search(r"[:\\$']|github\.com/|git@|\.git\b", text, re.I)
    else:
        *given, _ = text.split()
        doubtful = re.search(r"[:\\$'\"`]|github\.com/|git@|\.git\b", " ".join(given), re.I)
    if doubtful:
        yield f"ADD {text[:80]} {told}"


def _mount(options: dict[str, str], secrets: Collection[str]) -> Iterator[str]:
    kind = options["type"].lower()
    if any("$" in options.get(key, "") for key in ("type", "from", "id")):
        yield "--mount: type, from and id are written without variables"
        return
    match kind:
        case "ssh":
            yield "--mount=type=ssh: no ssh agent is handed in; use https, or commit the files"
        case "secret":
            if (name := options.get("id") or "(without id)") not in secrets:
                yield (
                    f"--mount=type=secret,id={name[:60]}: builds are handed no secrets but those "
                    f"of the function's build_secrets, and {HANDED_IN!r}, the host's certificates "
                    "where it has its own"
                )
        case "cache":
            named = options.get("id", "")
            place = next((options[k] for k in ("target", "dst", "destination") if k in options), "")
            if named.startswith("/") or ".." in (named or place) or "$" in (named or place):
                yield (
                    "--mount=type=cache: an id has no .. and no $ and begins with no /: caches "
                    "of other owners are not to be named"
                )
        case "bind" | "tmpfs":
            pass
        case _:
            yield f"--mount=type={kind[:40]} is not known: bind, cache and tmpfs are there"

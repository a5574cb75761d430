"""Reads requirements files that may be hostile, and the lock files that uv writes.

The format is pip's, cut down to what names packages: one requirement a line (PEP 508: name,
extras, versions, markers), comments, continuation by ``\\`` and ``--hash=sha256:…``. Everything
that could make the resolver read files, ask other servers or run code is a mistake. uv is given
only what this module wrote out again, never a user's file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from core.errors import BuildFailed, Mistake

MAX_BYTES = 64 * 1024
_LONGEST = 2000
"""Characters of one requirement without its hashes."""
_DEEPEST = 20
"""Brackets of one requirement: the marker grammar is recursive."""

_COMMENT = re.compile(r"(^|\s)#.*$")
_HASH = re.compile(r"\s--hash(?:=|\s+)(\S+)")
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Pin:
    """One requirement, and the hashes that its files may have (``sha256:<hex>``; empty: any)."""

    requirement: Requirement
    hashes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    def __str__(self) -> str:
        return " \\\n    ".join(
            [str(self.requirement), *(f"--hash={each}" for each in sorted(self.hashes))]
        )


def parse(data: bytes, path: str, limit: int = MAX_BYTES) -> list[Pin]:
    """Reads a requirements file of at most ``limit`` bytes; mistakes call it ``path``.

    Raises:
        BuildFailed: naming every mistake with its line.
    """
    if len(data) > limit:
        raise BuildFailed(
            f"{path} is {len(data)} bytes, at most {limit} are read: name only the packages "
            "that the function imports itself"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BuildFailed(f"{path} is not UTF-8 text (byte {error.start}): save it as such") from (
            error
        )
    pins = []
    mistakes = []
    for number, line in _logical_lines(text):
        try:
            pins.append(_pin(line))
        except ValueError as error:
            mistakes.append(Mistake(number, str(error)))
    if mistakes:
        told = "\n".join(f"  {mistake!r}" for mistake in mistakes)
        count = len(mistakes)
        raise BuildFailed(f"{path} has {count} mistake{'s' if count != 1 else ''}:\n{told}")
    return pins


def render(pins: Iterable[Pin]) -> str:
    """Writes requirements out again: sorted, without doubles, one form for one meaning."""
    return "".join(f"{line}\n" for line in sorted({str(pin) for pin in pins}))


def restrict(lock: Sequence[Pin], wanted: Iterable[Pin]) -> list[Pin]:
    """Keeps of a lock's hashes those that the user named for a package, where there are any.

    Raises:
        BuildFailed: the registry has the version, but no file with one of the user's hashes.
    """
    named: dict[str, set[str]] = {}
    for pin in wanted:
        if pin.hashes:
            named.setdefault(pin.name, set()).update(pin.hashes)
    kept = []
    for pin in lock:
        hashes = tuple(h for h in pin.hashes if h in named.get(pin.name, pin.hashes))
        if pin.hashes and not hashes:
            raise BuildFailed(
                f"none of the hashes given for {pin.requirement} is one of the registry's files: "
                "the hash is of another version, or the file was changed; check it before you "
                "write the new one"
            )
        kept.append(Pin(pin.requirement, hashes))
    return kept


def _logical_lines(text: str) -> Iterable[tuple[int, str]]:
    """Joins continued lines and drops comments and blank lines; numbers are of first lines."""
    begun = 0
    parts: list[str] = []
    for number, physical in enumerate(text.splitlines(), 1):
        begun = begun if parts else number
        comment = physical.lstrip().startswith("#")
        if physical.endswith("\\") and not comment:
            parts.append(physical[:-1])
            continue
        parts.append(physical)
        line = _COMMENT.sub("", " ".join(parts)).strip()
        parts = []
        if line:
            yield begun, line
    if parts and (line := " ".join(parts).strip()):
        yield begun, line


def _pin(line: str) -> Pin:
    """Reads one line; raises ValueError with what is wrong and what to do."""
    hashes = tuple(_HASH.findall(line))
    plain = _HASH.sub("", line).strip()
    shown = repr(plain if len(plain) <= 80 else f"{plain[:77]}...")
    if plain.startswith("-"):
        raise ValueError(_option(plain))
    if len(plain) > _LONGEST or plain.count("(") > _DEEPEST:
        raise ValueError(f"{shown} is too long or too deeply nested for a requirement")
    if re.search(r"\s--?[a-zA-Z]", plain):
        raise ValueError(f"{shown}: of options only --hash=sha256:<hex> is allowed here")
    if "://" in plain or re.match(r"[./~\\]|[A-Za-z]:\\", plain) or re.search(r"\s@|\]@", plain):
        raise ValueError(
            f"{shown} is a URL, a path or a repository: only packages of the registry are "
            "installed; publish it there, or keep its files in the function's folder"
        )
    try:
        requirement = Requirement(plain)
        str(requirement)
    except (InvalidRequirement, RecursionError) as error:
        cause = str(error).splitlines()[0] if str(error) else "nested too deeply"
        raise ValueError(
            f"{shown} is not a requirement: {cause}; write a name and versions such as "
            "requests>=2.31"
        ) from None
    if requirement.url:
        raise ValueError(f"{shown} has a URL: only packages of the registry are installed")
    for each in hashes:
        if not _SHA256.fullmatch(each):
            raise ValueError(f"the hash {each[:80]!r} is not sha256:<64 hex digits>")
    if hashes and not re.search(r"===?[^,*]+$", str(requirement.specifier)):
        raise ValueError(f"{shown} has hashes, so it needs one exact version: name==1.2.3")
    return Pin(requirement, hashes)


def _option(line: str) -> str:
    word = re.split(r"[\s=]", line, maxsplit=1)[0]
    if word in ("-r", "--requirement", "-c", "--constraint"):
        return f"{word} reads another file: copy that file's lines here instead"
    if word in ("-e", "--editable"):
        return f"{word} installs a source folder: keep its files in the function's folder instead"
    if word in ("-i", "--index-url", "--extra-index-url", "-f", "--find-links", "--no-index"):
        return f"{word} is not allowed: where packages come from is the installation's choice"
    return f"the option {word[:40]!r} is not allowed: name packages only"

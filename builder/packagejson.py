"""Reads package.json and package-lock.json that may be hostile.

npm is given only what this module wrote out again: packages of the registry by name and version.
A git, file or URL dependency would make npm run programs and ask servers of the user's choice
from the builder's own network; a lock's ``resolved`` addresses are dropped for the same reason,
its ``integrity`` hashes stay.

Formats: https://docs.npmjs.com/cli/configuring-npm/package-json and …/package-lock-json.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from core.errors import BuildFailed

MAX_BYTES = 64 * 1024
MAX_LOCK_BYTES = 8 * 2**20

KINDS = ("dependencies", "optionalDependencies", "devDependencies", "peerDependencies")

_NAME = r"(?:@[A-Za-z0-9~-][A-Za-z0-9._~-]*/)?[A-Za-z0-9~-][A-Za-z0-9._~-]*"
_SPEC = re.compile(rf"(?:npm:{_NAME}@?)?[A-Za-z0-9 .,+*^~<>=|-]*")
_ARCHIVE = re.compile(r"\.(tgz|tar|tar\.gz)$", re.I)
_PLACE = re.compile(rf"node_modules/{_NAME}(?:/node_modules/{_NAME})*")
_KEPT = frozenset(
    {
        *("name", "version", "integrity", "bin", "engines", "os", "cpu", "libc"),
        *("dev", "optional", "devOptional", "peer", "peerDependenciesMeta"),
        *("bundleDependencies", "inBundle", "hasInstallScript", "hasShrinkwrap"),
        *KINDS,
    }
)


@dataclass(frozen=True)
class Manifest:
    """What of a package.json counts here."""

    wanted: dict[str, dict[str, str]] = field(default_factory=dict)
    """Kind of dependency (see ``KINDS``) → name → versions; only kinds that are there."""
    overrides: dict[str, Any] = field(default_factory=dict)
    scripts: dict[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """The package.json that npm is given."""
        told = {"name": "function", "version": "0.0.0", "private": True, **self.wanted}
        if self.overrides:
            told["overrides"] = self.overrides
        return json.dumps(told, indent=1, sort_keys=True)


def parse(data: bytes, path: str) -> Manifest:
    """Reads a package.json; ``path`` is what mistakes call it.

    Raises:
        BuildFailed: naming every mistake.
    """
    content = _object(data, path, MAX_BYTES)
    mistakes: list[str] = []
    if "workspaces" in content:
        mistakes.append("workspaces are not supported: a function is one package")
    wanted = {kind: _specs(content.get(kind), kind, mistakes) for kind in KINDS}
    overrides = content.get("overrides") or {}
    _overrides(overrides, "overrides", mistakes)
    scripts = content.get("scripts") or {}
    if not isinstance(scripts, dict) or not all(isinstance(v, str) for v in scripts.values()):
        mistakes.append("scripts is not an object of texts")
    _refuse(path, mistakes)
    return Manifest({kind: specs for kind, specs in wanted.items() if specs}, overrides, scripts)


def parse_lock(data: bytes, path: str) -> str:
    """Reads a package-lock.json and returns the one that npm is given; errors as ``parse``."""
    content = _object(data, path, MAX_LOCK_BYTES)
    packages = content.get("packages")
    if content.get("lockfileVersion") not in (2, 3) or not isinstance(packages, dict):
        raise BuildFailed(
            f"{path} is not a lock file of version 2 or 3: make it again with "
            "'npm install --package-lock-only'"
        )
    mistakes: list[str] = []
    kept = {}
    for place, entry in packages.items():
        if not isinstance(entry, dict) or (place and not _PLACE.fullmatch(place)):
            mistakes.append(f"{place[:100]!r} is not a package below node_modules")
            continue
        resolved = str(entry.get("resolved", ""))
        if entry.get("link") or (resolved and not resolved.startswith(("https://", "http://"))):
            mistakes.append(f"{place!r} comes from {resolved[:100]!r}, not from the registry")
        for kind in KINDS:
            _specs(entry.get(kind), f"{place} {kind}".strip(), mistakes)
        if place and not re.fullmatch(r"[0-9A-Za-z.+-]{1,256}", str(entry.get("version", ""))):
            mistakes.append(f"{place!r} has no version")
        kept[place] = {name: value for name, value in entry.items() if name in _KEPT}
    _refuse(path, mistakes)
    told = {"name": "function", "version": "0.0.0", "lockfileVersion": 3, "requires": True}
    kept.setdefault("", {}).update(name="function", version="0.0.0")
    return json.dumps({**told, "packages": kept}, sort_keys=True)


def has_test_script(manifest: Manifest) -> bool:
    """Whether ``scripts.test`` does anything: npm's own placeholder and a mere exit do not."""
    script = manifest.scripts.get("test", "").strip()
    idle = re.fullmatch(r"(echo\s[^;&|]*?)?((&&|;)\s*)?((exit\s+\d+|true|:)\s*)?", script)
    return bool(script) and "no test specified" not in script and not idle


def _object(data: bytes, path: str, limit: int) -> dict[str, Any]:
    if len(data) > limit:
        raise BuildFailed(f"{path} is {len(data)} bytes, at most {limit} are read")
    try:
        content = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        cause = str(error) if isinstance(error, ValueError) else "it is nested too deeply"
        raise BuildFailed(f"{path} is not JSON: {cause}") from None
    if not isinstance(content, dict):
        raise BuildFailed(f"{path} is not a JSON object")
    return content


def _specs(value: object, kind: str, mistakes: list[str]) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        mistakes.append(f"{kind} is not an object")
        return {}
    for name, spec in value.items():
        if not re.fullmatch(_NAME, name):
            mistakes.append(f"{kind}: {name[:100]!r} is not a package name")
        elif not _from_registry(spec):
            mistakes.append(
                f"{kind}: {name} is {str(spec)[:100]!r}: only versions from the registry are "
                "installed, no git, file, link, workspace or URL dependencies"
            )
    return value


def _from_registry(spec: object) -> bool:
    return (
        isinstance(spec, str)
        and len(spec) <= 256
        and bool(_SPEC.fullmatch(spec))
        and not spec.startswith((".", "~/"))
        and not _ARCHIVE.search(spec)
    )


def _overrides(value: object, where: str, mistakes: list[str]) -> None:
    """Checks npm's overrides: nested objects of versions, or ``$name`` of a dependency."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _overrides(inner, f"{where}.{name[:100]}", mistakes)
    elif not (isinstance(value, str) and re.fullmatch(rf"\${_NAME}", value)) and not (
        _from_registry(value)
    ):
        mistakes.append(f"{where} is {str(value)[:100]!r}: only versions from the registry")


def _refuse(path: str, mistakes: list[str]) -> None:
    if mistakes:
        told = "\n".join(f"  {each}" for each in mistakes[:50])
        count = len(mistakes)
        raise BuildFailed(f"{path} has {count} mistake{'s' if count != 1 else ''}:\n{told}")

"""Makes a backup: all that git cannot give back, of an installation that may be running.

    store.json                      core.store.snapshot: at one moment
    keys/<name>                     passwords, tokens and keys of the state folder
    keys/sealing-keys/<fingerprint> what opens values that are sealed in git
    git/<namespace>/<name>.bundle   each repository of our own git remote, as git bundles it

The store comes first and git after it: a commit that the store names is there, and what was pushed
in between is found and released after a restore.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import msgspec

from core import keys
from core.errors import ConfigError, SlipwayError
from core.models import now
from core.repositories import Repository
from core.sealedbox import FINGERPRINT
from core.settings import Settings
from core.store.snapshot import Snapshot
from forges.github.app import app_file
from gateway import bare
from supervisor import ownstore
from supervisor.archive import CHUNK, Writer

STORE = "store.json"
KEYS = "keys/"
SEALING_KEYS = "sealing-keys/"
GIT, BUNDLE = "git/", ".bundle"


class Made(msgspec.Struct, frozen=True):
    """What a backup or a restore has in it."""

    functions: int
    """Deployed by API."""
    secrets: int
    repositories: int
    size: int = 0
    """Bytes of the file."""
    lost: tuple[str, ...] = ()
    """Repositories whose live commit is unknown: see ``core.store.snapshot.Snapshot``."""


def key_files(settings: Settings) -> dict[str, Path]:
    """Name in a backup → where the installation has it."""
    return {
        "admin-password": settings.password_file,
        "builder-token": settings.token_file,
        "secrets-key": settings.secrets_key,
        "spec-key": settings.state / "spec-key",
        "github-app.json": app_file(settings),
    }


def backup(settings: Settings, env: Mapping[str, str], target: Path, passphrase: bytes) -> Made:
    """Writes a backup to ``target`` (0600), which is replaced in one step, or left as it was.

    Raises:
        ConfigError: there is no installation, or no key for its secrets, or no room for the file.
        Unavailable: its store does not answer.
    """
    with ownstore.reached(settings, env) as store:
        snapshot = store.snapshot()
    secrets = len(snapshot.hashes[keys.SECRETS])
    if secrets and not settings.secrets_key.exists():
        raise ConfigError(
            f"{settings.secrets_key} is not there, and without that key {secrets} secrets of the "
            "backup could never be opened: put it back first"
        )
    writer = Writer(target, passphrase, metadata.version("slipway"), now())
    try:
        repositories = _write(settings, snapshot, writer)
        size = writer.finish()
    except OSError as error:
        writer.give_up()
        raise ConfigError(f"{target} cannot be written: {error.strerror}") from error
    except BaseException:
        writer.give_up()
        raise
    return Made(len(snapshot.functions), secrets, repositories, size, snapshot.lost)


def own_repositories(snapshot: Snapshot) -> list[Repository]:
    """Those of our own git remote."""
    rows = snapshot.hashes[keys.REPOSITORIES].values()
    found = [msgspec.json.decode(raw, type=Repository) for raw in rows]
    return [each for each in found if each.source == "git" and not each.parent]


def _write(settings: Settings, snapshot: Snapshot, writer: Writer) -> int:
    """Returns how many repositories it has."""
    writer.add(STORE, [msgspec.json.encode(snapshot)])
    for name, path in (key_files(settings) | _sealing_keys(settings)).items():
        if path.exists():  # each is made when it is first needed
            writer.add(KEYS + name, [path.read_bytes()])
    rows = snapshot.hashes[keys.REPOSITORIES]
    homes = {key: msgspec.json.decode(raw, type=Repository).home for key, raw in rows.items()}
    live: dict[str, set[str]] = {}
    for each in snapshot.live:
        live.setdefault(homes[each.repository], set()).add(each.commit)
    count = 0
    for repository in own_repositories(snapshot):
        path = bare.folder(settings, repository.namespace, repository.name)
        wanted = sorted(live.get(repository.key, ()))
        if not _has_refs(settings, path):
            continue
        count += 1
        writer.add(f"{GIT}{repository.key}{BUNDLE}", _bundle(settings, path, wanted))
    return count


def _sealing_keys(settings: Settings) -> dict[str, Path]:
    """As ``key_files``: those that open what is sealed in git, as many as there are."""
    folder = settings.sealing_keys
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return {SEALING_KEYS + path.name: path for path in found if FINGERPRINT.fullmatch(path.name)}


def _has_refs(settings: Settings, path: Path) -> bool:
    """git makes no bundle of nothing."""
    if not (path / "HEAD").is_file():
        return False
    return bool(b"".join(_git(settings, path, ["for-each-ref", "--count=1"])))


def _bundle(settings: Settings, path: Path, commits: Sequence[str]) -> Iterator[bytes]:
    """All refs, and these commits also where they were pushed over since."""
    there = []
    for commit in commits:
        told = b"".join(_git(settings, path, ["cat-file", "--batch-check"], f"{commit}\n".encode()))
        if told.split()[1:2] == [b"commit"]:
            there.append(commit)
    yield from _git(settings, path, ["bundle", "create", "--quiet", "-", "--all", *there])


def _git(
    settings: Settings, path: Path, arguments: Sequence[str], given: bytes = b""
) -> Iterator[bytes]:
    """What git writes, as it comes.

    Raises:
        SlipwayError: it failed.
    """
    with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as source:
        source.write(given)
        source.seek(0)
        with subprocess.Popen(
            ["git", "-C", str(path), *arguments],
            env=bare.environment(settings, path),
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=told,
        ) as process:
            assert process.stdout is not None
            try:
                while data := process.stdout.read(CHUNK):
                    yield data
            finally:
                process.stdout.close()
                if process.wait() and process.returncode > 0:
                    told.seek(0)
                    words = told.read(2000).decode(errors="replace").strip()
                    raise SlipwayError(f"git cannot read {path}: {words}")

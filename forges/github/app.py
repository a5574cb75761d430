"""Who we are at GitHub: an App made at ``/setup/github``, or as the settings name it.

The App lies in ``<state>/forges/github-app.json``, as GitHub's answer to its manifest had it
(https://docs.github.com/rest/apps/apps, "Create a GitHub App from a manifest"). It is read anew
whenever it is needed: what the gateway wrote a moment ago counts at once, in every process.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import msgspec

from core.errors import ConfigError
from core.settings import Settings

_MAX = 2**16
"""Bytes of a file."""


class App(msgspec.Struct, frozen=True):
    """Fields as GitHub names them; all empty: there is none. Shown without its secrets."""

    id: int = 0
    slug: str = ""
    name: str = ""
    html_url: str = ""
    client_id: str = ""
    client_secret: str = ""
    webhook_secret: str = ""
    pem: str = ""
    """Its private key, by which we are the App."""

    def __repr__(self) -> str:
        return f"App({self.id}, {self.slug!r})"

    def __rich_repr__(self) -> list[tuple[str, int]]:
        return [("id", self.id)]


def app_file(settings: Settings) -> Path:
    return settings.forges_folder / "github-app.json"


def stored_app(settings: Settings) -> App:
    """The App that we are, its secrets too; what the settings say counts before what was stored.

    Raises:
        ConfigError: a file of it cannot be read, or is none.
    """
    app = _stored(app_file(settings))
    if settings.github_app_id:
        if not settings.github_app_id.isdecimal():
            raise ConfigError("SLIPWAY_GITHUB_APP_ID is a number: see the App's page at GitHub")
        if int(settings.github_app_id) != app.id:  # nothing that was stored is of this one
            app = App(id=int(settings.github_app_id))
        if settings.github_app_key_file:
            app = msgspec.structs.replace(app, pem=secret(settings.github_app_key_file))
        if not app.pem:
            raise ConfigError(
                "the GitHub App of SLIPWAY_GITHUB_APP_ID has no key: set "
                "SLIPWAY_GITHUB_APP_KEY_FILE to the file that GitHub gave you"
            )
    given = {
        "webhook_secret": settings.github_webhook_secret,
        "client_id": settings.github_client_id,
        "client_secret": _of(settings.github_client_secret_file),
    }
    if given["client_id"]:  # another client's secret is of no use to it
        app = msgspec.structs.replace(app, client_secret="")
    return msgspec.structs.replace(app, **{key: value for key, value in given.items() if value})


def store_app(settings: Settings, app: App) -> None:
    """Keeps an App: whole or not at all, for this user alone.

    Raises:
        ConfigError: it cannot be written.
    """
    file = app_file(settings)
    draft = file.with_name(f".{file.name}.{secrets.token_hex(6)}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as out:
                out.write(msgspec.json.encode(app))
                out.flush()
                os.fsync(out.fileno())
            draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)
        folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}") from error


def secret(file: Path) -> str:
    """What a file that the settings name holds, without white space around it.

    Raises:
        ConfigError: it cannot be read, or holds nothing.
    """
    try:
        with file.open("rb") as opened:
            value = opened.read(_MAX).decode().strip()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not text") from None
    if not value:
        raise ConfigError(f"{file} is empty")
    return value


def _of(file: Path | None) -> str:
    return secret(file) if file else ""


def _stored(file: Path) -> App:
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return App()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    try:
        return msgspec.json.decode(content, type=App)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # What it holds is told to nobody.
        raise ConfigError(
            f"{file} is not an App's record: restore it from a backup, or remove it and make an "
            "App anew at /setup/github"
        ) from None

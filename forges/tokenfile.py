"""A forge's access token in a file, as the administrator put it there."""

from __future__ import annotations

from pathlib import Path

from core.errors import ConfigError


def read(path: Path | None) -> str:
    """The token in the file; '' where none is named.

    Raises:
        ConfigError: the file cannot be read, or holds no token.
    """
    if path is None:
        return ""
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the token file {path} cannot be read: {error}") from error
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"the token file {path} holds no access token: write it there, alone")
    return token

"""What uv and npm are told of this machine's package registries: the environment they run in.

Nothing of ours but the variables that say where registries are, how they are reached and which
certificates hold. Configuration files are not read, neither the machine's nor a repository's.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from pathlib import Path

_NETWORK = frozenset(
    name
    for upper in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
    for name in (upper, upper.lower())
) | {"SSL_CERT_FILE", "SSL_CERT_DIR"}
_UV = frozenset(
    {
        "UV_DEFAULT_INDEX",
        "UV_INDEX",
        "UV_INDEX_URL",
        "UV_EXTRA_INDEX_URL",
        "UV_INDEX_STRATEGY",
        "UV_FIND_LINKS",
        "UV_INSECURE_HOST",
        "UV_HTTP_TIMEOUT",
        "UV_HTTP_RETRIES",
        "UV_EXCLUDE_NEWER",
        "UV_OFFLINE",
        "UV_SYSTEM_CERTS",
        "UV_NATIVE_TLS",
    }
)
_UV_CREDENTIALS = re.compile(r"UV_INDEX_[A-Z0-9_]+_(USERNAME|PASSWORD)")
_NPM = frozenset(
    {
        "NODE_EXTRA_CA_CERTS",
        "NPM_CONFIG_REGISTRY",
        "npm_config_registry",
        "NPM_CONFIG_CAFILE",
        "npm_config_cafile",
    }
)

_FILES = frozenset(
    {
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "UV_FIND_LINKS", "UV_OFFLINE"),
        *("UV_SYSTEM_CERTS", "UV_NATIVE_TLS"),
        *("NODE_EXTRA_CA_CERTS", "NPM_CONFIG_CAFILE", "npm_config_cafile"),
    }
)
"""Those that are about files of this machine."""
_PASSWORD = re.compile(r"(?<=://)[^\s/@]+@")


def passed(outer: Mapping[str, str]) -> dict[str, str]:
    """Those of our own variables that a worker needs to reach registries."""
    return {
        name: value
        for name, value in outer.items()
        if name in _NETWORK | _UV | _NPM or _UV_CREDENTIALS.fullmatch(name)
    }


def uv_environment(outer: Mapping[str, str], home: Path, cache: Path) -> dict[str, str]:
    """All of uv's environment. ``home``: an empty folder, also for temporary files."""
    told = {name: value for name, value in passed(outer).items() if name not in _NPM}
    if ssl.get_default_verify_paths().cafile:  # the machine has a certificate store: it decides
        told.setdefault("UV_SYSTEM_CERTS", "1")
    return told | {
        **_basics(home),
        "UV_CACHE_DIR": str(cache),
        "UV_NO_CONFIG": "1",
        "UV_NO_PROGRESS": "1",
        "UV_PYTHON_DOWNLOADS": "never",
    }


def npm_environment(outer: Mapping[str, str], home: Path, cache: Path) -> dict[str, str]:
    """All of npm's environment. ``home``: an empty folder, also for temporary files."""
    told = {
        name: value
        for name, value in passed(outer).items()
        if not name.startswith("UV_") and name not in ("SSL_CERT_FILE", "SSL_CERT_DIR")
    }
    if "SSL_CERT_FILE" in outer:
        told.setdefault("NODE_EXTRA_CA_CERTS", outer["SSL_CERT_FILE"])
    return told | {
        **_basics(home),
        "NODE_USE_SYSTEM_CA": "1",
        # Of npm's two retries: its own pauses, 10 s and more, hold a push up for over a minute.
        "npm_config_fetch_retry_mintimeout": "1000",
        "npm_config_fetch_retry_maxtimeout": "5000",
        "npm_config_cache": str(cache),
        # Neither file is there: the machine's own configuration is not a function's.
        "npm_config_userconfig": str(home / "no-user-npmrc"),
        "npm_config_globalconfig": str(home / "no-global-npmrc"),
    }


def image_environment(outer: Mapping[str, str], certificates: str) -> dict[str, str]:
    """What uv, pip and npm are told in an image's build, as far as it holds there: nothing that
    names a file of this machine but its certificates, which are at ``certificates`` there."""
    told = {
        name: value
        for name, value in passed(outer).items()
        if name not in _FILES and "file:" not in value
    }
    if index := told.get("UV_DEFAULT_INDEX") or told.get("UV_INDEX_URL"):
        told["PIP_INDEX_URL"] = index  # by which uv itself comes
    if outer.get("SSL_CERT_FILE"):
        for name in ("SSL_CERT_FILE", "PIP_CERT", "NODE_EXTRA_CA_CERTS", "npm_config_cafile"):
            told[name] = certificates
    return told


def without_passwords(line: str) -> str:
    """A line of output with the credentials of URLs masked."""
    return _PASSWORD.sub("****@", line)


def _basics(home: Path) -> dict[str, str]:
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "TMPDIR": str(home),
        "LANG": "C.UTF-8",
        "NO_COLOR": "1",
    }

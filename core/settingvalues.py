"""How each kind of setting is read; a ValueError says what to write."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from core.quantities import size

POLICY_IN_GIT = re.compile(r"git:([a-z0-9-]+)/([A-Za-z0-9_.-]+):([^/\0].*)")
"""Namespace, repository, path."""


def answers_size(text: str) -> int:
    value = size(text)
    if value < 2**20:
        message = "write at least 1Mi: a call whose answer cannot be kept has failed"
        raise ValueError(message)
    return value


def log_size(text: str) -> int:
    value = size(text)
    if value > 64 * 2**20:  # whoever reads a log makes all others wait 10 ms for each megabyte
        message = "write at most 64Mi: all of a log is read before its last lines are told"
        raise ValueError(message)
    return value


def number(low: float, high: float) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            message = f"write a whole number from {low:g} to {high:g}"
            raise ValueError(message)
        return int(text)

    return read


def policy(text: str) -> str:
    url = urlsplit(text) if text.startswith(("http://", "https://")) else None
    if not (POLICY_IN_GIT.fullmatch(text) or text.startswith("/") or (url and url.hostname)):
        message = (
            "write a file's absolute path, an http(s) URL, or git:<namespace>/<repository>:<path>"
        )
        raise ValueError(message)
    return text


def decimal(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1024:
        message = "write a number above 0"
        raise ValueError(message)
    return value


def choice(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in choices:
            message = f"choose one of {', '.join(choices)}"
            raise ValueError(message)
        return text

    return read


def flag(text: str) -> bool:
    value = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}.get(
        text.lower()
    )
    if value is None:
        message = "write 1 or 0"
        raise ValueError(message)
    return value


def url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        message = "write a URL such as https://example.com, without a user in it"
        raise ValueError(message)
    return text.rstrip("/")


def redis_url(text: str) -> str:
    if urlsplit(text).scheme not in ("redis", "rediss", "unix"):
        message = "write redis://host:6379/0, rediss://… or unix:///path"
        raise ValueError(message)
    return text


def engine(text: str) -> str:
    if urlsplit(text).scheme not in ("unix", "tcp", "http", "https"):
        message = "write unix:///var/run/docker.sock or tcp://host:port"
        raise ValueError(message)
    return text


def registry(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*", text):
        message = "write a registry's name such as ghcr.io/acme or 127.0.0.1:5000, without https://"
        raise ValueError(message)
    return text


def image(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-zA-Z0-9._:/@-]{0,255}", text):
        message = "write an image's name such as python:3.11-slim-bookworm"
        raise ValueError(message)
    return text


def domain(text: str) -> str:
    name = text.lower().rstrip(".")
    label = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
    if len(name) > 189 or not re.fullmatch(rf"{label}(\.{label})*", name):  # 253 less a namespace
        message = "write a domain's name such as example.com, without https:// and port"
        raise ValueError(message)
    if re.fullmatch(r"[\d.]+", name):
        message = "that is an address: functions need a domain's name, such as example.com"
        raise ValueError(message)
    return name


def path(text: str) -> Path:
    return Path(text).expanduser().absolute()


def words(text: str) -> tuple[str, ...]:
    return tuple(word.strip().lower() for word in text.split(",") if word.strip())

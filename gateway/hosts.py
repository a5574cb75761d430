"""Whose host a request names: the platform's, or one of functions, ``<namespace>.<domain>``.

The edge decides the same (runtime/edge/config.py) for functions that are awake; what it passes on,
and everything where there is no edge, is decided here. On a host of functions nothing else is
served: ``/<name>/…`` becomes ``/function/<name>.<namespace>/…`` before anything looks at it.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from flask import request

from core.errors import InvalidRequest

OWN_HOST = "slipway.own-host"
"""In the environ: the namespace whose host is named, not checked; the function is an origin of its
own, which no page of ours shares."""
TROUBLE = "slipway.host-trouble"
"""In the environ: what is wrong with the host that the request names; empty: nothing."""

_HOST = re.compile(r"(?!\.|[^:]*\.\.)([\w.~!$&'()*+;=%-]*|\[[0-9A-Fa-f:.]+\])(:\d*)?", re.ASCII)
"""RFC 9110 §7.2, without labels that are empty and the comma that two ``Host`` headers are joined
with."""


def function_target(host: str, target: str, domain: str) -> tuple[str, str] | None:
    """(namespace as the host has it, what a request to a host of functions asks for, by the path
    that all hosts have for it); None: the host is the platform's. ``target``: in origin form."""
    name = host.partition(":")[0].lower().rstrip(".")
    if not domain or not name.endswith(f".{domain}"):
        return None
    path, mark, query = target.partition("?")
    function, slash, rest = path.removeprefix("/").partition("/")
    namespace = name.removesuffix(f".{domain}")
    return namespace, f"/function/{function}.{namespace}{slash}{rest}{mark}{query}"


def trouble(host: str, target: str) -> str:
    """``target``: as it came."""
    if not _HOST.fullmatch(host):
        return "the Host header is not that of one host: send one, as host or host:port"
    if not target.startswith("/") and "://" in target:
        try:
            named = urlsplit(target).netloc
        except ValueError:
            return "the request line's URL cannot be read"
        if named.lower() != host.lower():
            return "the request line names another host than the Host header does"
    return ""


def check() -> None:
    """Runs before every request.

    Raises:
        InvalidRequest: nobody can say which host is meant.
    """
    if told := request.environ[TROUBLE]:
        raise InvalidRequest(told)

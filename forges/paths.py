"""From what a forge calls a repository to what it is called here.

A full name is ``owner/name``, at GitLab with up to twenty groups in between. It is checked so that
it is safe behind the forge's address in a clone URL; what lies behind the owner makes the name
within the owner's namespace, where ``core.names.repository_name`` says what a name may be.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from core import names
from core.errors import InvalidRequest

MAX_FULL_NAME = 1024
"""Characters: more than GitLab's deepest groups have in practice."""
MAX_PARTS = 22
"""GitLab nests groups twenty deep."""

_OWNER = re.compile(r"[A-Za-z0-9_.][-A-Za-z0-9_.]{0,254}")
_PART = re.compile(r"[-A-Za-z0-9_.]{1,255}")
_MARK = 8
"""Hex digits of a hash."""
_LONGEST = 200
"""Characters of a repository's name."""


class Path(NamedTuple):
    """A full name, taken apart."""

    owner: str
    """At GitLab the outermost group, or the user."""
    name: str
    """In the owner's namespace."""


def read(full_name: str, *, groups: bool = False) -> Path:
    """Checks a full name; ``groups``: there may be some between owner and name.

    Raises:
        InvalidRequest: it is none, or would be another path in a URL.
    """
    owner, *rest = parts = full_name.split("/")
    if (
        len(full_name) > MAX_FULL_NAME
        or not rest
        or len(parts) > (MAX_PARTS if groups else 2)
        or not _OWNER.fullmatch(owner)
        or not all(_PART.fullmatch(each) for each in rest)
        or any(not each.strip(".") or each.endswith(".git") for each in parts)
    ):
        wanted = "group/…/project" if groups else "owner/name"
        raise InvalidRequest(f"{full_name[:100]!r} is not the full name of a repository ({wanted})")
    return Path(owner, _name(rest, groups))


def _name(rest: list[str], groups: bool) -> str:
    """``sub/project`` → ``sub--project``. What is no name by our rules (``.github``, one that is
    too long), or could be read in two ways (a project called ``sub--project`` itself), has what is
    not allowed taken out, and a hash of its path keeps it apart from others."""
    joined = "--".join(rest)
    clear = not groups or not any(
        "--" in each or each.startswith("-") or each.endswith("-") for each in rest
    )
    if clear and _allowed(joined):
        return joined
    mark = hashlib.sha256("/".join(rest).encode()).hexdigest()[:_MARK]
    tidy = re.sub(r"\.{2,}", ".", joined).lstrip("-.")[: _LONGEST - _MARK - 1]
    return f"{tidy}-{mark}" if tidy else mark


def _allowed(name: str) -> bool:
    try:
        names.repository_name(name)
    except InvalidRequest:
        return False
    return True

"""Variables of a namespace, which its stack files' ``${NAME}`` stand for. They are no secrets: they
are shown to the admin, and end up in what functions are deployed with."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import cast

import msgspec
from redis.client import Pipeline

from core import keys
from core.errors import InvalidRequest, NotFound
from core.store.base import encode
from core.store.namespaces import Namespaces

MAX_VARIABLES = 256
MAX_VALUE = 16 * 1024
MAX_TOTAL = 256 * 1024
"""Variables of one namespace; bytes of one value, and of all names and values together."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_NOT_PLAIN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What YAML cannot hold, or what would begin a new line of a stack file."""


class Variables(Namespaces):
    def variables(self, namespace: str) -> dict[str, str]:
        """Name → value, in the order of names."""
        raw = cast("bytes | None", self.redis.hget(keys.VARIABLES, namespace))
        return _decoded(raw)

    def set_variables(self, namespace: str, variables: Mapping[str, str]) -> None:
        """Adds or changes these; others stay. All of them, or none.

        Raises:
            InvalidRequest: with every name and value that cannot be; or there is no such
                namespace.
        """
        mistakes = [told for name, value in variables.items() if (told := _mistake(name, value))]
        if mistakes:
            raise InvalidRequest("\n".join(mistakes[:20]))

        def merged(before: dict[str, str]) -> dict[str, str]:
            after = before | dict(variables)
            if len(after) > MAX_VARIABLES:
                raise InvalidRequest(
                    f"{namespace} would have {len(after)} variables, and {MAX_VARIABLES} are the "
                    "most: remove some, or use environment_file"
                )
            total = sum(len(n) + len(v.encode()) for n, v in after.items())
            if total > MAX_TOTAL:
                raise InvalidRequest(
                    f"the variables of {namespace} would have {total} bytes, and {MAX_TOTAL} are "
                    "the most: keep data in files of the repository"
                )
            return after

        self._change(namespace, merged)

    def delete_variable(self, namespace: str, name: str) -> None:
        """Raises NotFound."""

        def without(before: dict[str, str]) -> dict[str, str]:
            if name not in before:
                raise NotFound(f"{namespace} has no variable {name[:80]!r}")
            return {each: value for each, value in before.items() if each != name}

        self._change(namespace, without)

    def _change(self, namespace: str, how: Callable[[dict[str, str]], dict[str, str]]) -> None:
        def change(pipe: Pipeline) -> None:
            self.require_namespace(namespace)
            after = how(_decoded(cast("bytes | None", pipe.hget(keys.VARIABLES, namespace))))
            pipe.multi()
            if after:
                pipe.hset(keys.VARIABLES, namespace, encode(dict(sorted(after.items()))))
            else:
                pipe.hdel(keys.VARIABLES, namespace)

        self._transaction(change, keys.VARIABLES, keys.NAMESPACES)


def _decoded(raw: bytes | None) -> dict[str, str]:
    return msgspec.json.decode(raw, type=dict[str, str]) if raw else {}


def _mistake(name: str, value: str) -> str:
    """Why this cannot be a variable; '' if it can."""
    if not _NAME.fullmatch(name):
        return (
            f"{name[:80]!r} is not a variable's name: use letters, digits and '_', no digit at the "
            "beginning, at most 128 characters"
        )
    if _NOT_PLAIN.search(value):
        return f"the value of {name} has line breaks or control characters: write one plain line"
    if (length := len(value.encode())) > MAX_VALUE:
        return f"the value of {name} has {length} bytes, and {MAX_VALUE} are the most"
    return ""

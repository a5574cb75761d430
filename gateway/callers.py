"""Who asks, and what of whose they may: one object for each request to what is private.

A route is the administrator's alone unless its view says otherwise, with ``owners``; a view that
does asks with the namespace of the very object it is about. What is another owner's is not there
for the caller: 404, for reads and writes alike, with the words for what does not exist. What is
the caller's own and beyond their scopes is 403.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar, cast

from flask import g

from core import names
from core.errors import NotAllowed, NotFound
from core.scopes import ALL, Scope

View = TypeVar("View", bound=Callable[..., Any])
_MARK = "slipway_owners"


class Role(StrEnum):
    ADMIN = "admin"
    BUILDER = "builder"
    TOKEN = "token"
    """An owner's."""
    SESSION = "session"
    """Somebody who signed in through a forge."""
    NOBODY = "nobody"


@dataclass(frozen=True)
class Caller:
    role: Role
    name: str = ""
    """For logs, and for who looks at what was done."""
    grants: Mapping[str, frozenset[Scope]] = field(default_factory=dict)
    """Owner's namespace → scopes there, and in those derived of it."""
    token: str = ""
    """Id of the token."""

    @property
    def limited(self) -> bool:
        """Whether there is anything here that is not theirs."""
        return self.role in (Role.TOKEN, Role.SESSION)

    def may(self, scope: Scope, namespace: str) -> bool:
        """The builder may, where ``auth.guard`` lets it come at all."""
        if not self.limited:
            return self.role is not Role.NOBODY
        return any(
            scope in scopes and names.is_of(namespace, owner)
            for owner, scopes in self.grants.items()
        )

    def knows(self, namespace: str) -> bool:
        """Whether it is theirs at all, whatever they may do there."""
        return not self.limited or any(names.is_of(namespace, owner) for owner in self.grants)

    def holds(self, namespace: str) -> bool:
        """Whether they may decide who else has a way in: the admin, and who signed in as an owner.
        A token may not: it would outlive its own revocation."""
        if self.role is Role.SESSION:
            return self.grants.get(namespace) == ALL
        return self.role is Role.ADMIN

    def require(self, scope: Scope, namespace: str, missing: NotFound | None = None) -> None:
        """``missing``: what who asks is told where there is no such thing.

        Raises:
            NotFound: it is not theirs, whether it is there or not.
            NotAllowed: it is theirs, and this is beyond their scopes.
        """
        if self.may(scope, namespace):
            return
        if self.knows(namespace):
            raise self.lacks(scope)
        raise missing or NotFound(
            f"there is no namespace {namespace} here that is yours: see 'slipway namespaces'"
        )

    def visible(self, namespace: str, scope: Scope = Scope.READ) -> Callable[[str], bool]:
        """Which namespaces a list may tell of: the one that was asked for, or where none was, all
        that the caller may see. Raises as ``require``."""
        if namespace:
            self.require(scope, namespace)
            return namespace.__eq__
        return lambda each: self.may(scope, each)

    def lacks(self, scope: Scope) -> NotAllowed:
        return NotAllowed(f"{self.name} has not the scope {scope!s} there: ask who gave it")


ADMIN = Caller(Role.ADMIN, "the admin")
BUILDER = Caller(Role.BUILDER, "the builder")
NOBODY = Caller(Role.NOBODY)


def owners(*scopes: Scope) -> Callable[[View], View]:
    """Opens a route to owners who have one of these scopes anywhere; without any, to all of them.
    The view asks for the rest. Below the route's own decorator."""

    def mark(view: View) -> View:
        setattr(view, _MARK, frozenset(scopes))
        return view

    return mark


def opened(view: object) -> frozenset[Scope] | None:
    """What ``owners`` said of a view; None: it is the administrator's."""
    return cast("frozenset[Scope] | None", getattr(view, _MARK, None))


def caller() -> Caller:
    """Of this request, which is to something private."""
    return cast(Caller, g.caller)

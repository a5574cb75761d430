"""Who may deploy, and how much: the policy of an installation, as all its parts read it.

The gateway reads the administrator's document (core/policydocument.py) and puts what it says into
the store; everybody else takes it from there (core/store/policies.py).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from core.errors import NotAllowed
from core.models import Struct

ForkPreviews = Literal["approve", "always", "never"]


class OwnerPolicy(Struct, frozen=True):
    """What one owner may have, with all its environments and previews together, and once more what
    previews of requests from forks may have; None: no bound."""

    functions: int | None = None
    memory: int | None = None
    """Bytes: limits of all replicas that are desired."""
    cpus: float | None = None
    """Likewise."""
    replicas: int | None = None
    """Of all functions together."""
    build_minutes: int | None = None
    """In a calendar month, UTC."""
    concurrent_builds: int | None = None
    """Releases that are built side by side; at least 1."""
    templates: tuple[str, ...] | None = None
    """Names of the platform's own templates; where they are given, no others may be used."""
    dockerfile: bool = True
    """Whether ``lang: dockerfile`` may be used."""
    skip_build: bool = True
    """Whether images that were not built here may be run."""
    egress: bool = True
    """Whether functions reach the outside world."""
    domain: bool = True
    """Whether functions answer at hosts of their own, ``<namespace>.<SLIPWAY_DOMAIN>``."""
    fork_previews: ForkPreviews = "approve"
    """Whether requests from forks get previews."""
    fork_network: bool = False
    """Whether builds of these have a network."""


class Owner(Struct, frozen=True):
    """Who may deploy. Lower case."""

    forge: str = ""
    """Empty: of any forge."""
    login: str = ""
    id: str = ""
    """The forge's own id, in place of a login: whoever takes over a login that was given up has
    another."""


class Policy(Struct, frozen=True):
    """What the document says."""

    owners: tuple[Owner, ...] | None = None
    """None: everybody whose events are signed."""
    default: OwnerPolicy = OwnerPolicy()
    policies: dict[str, OwnerPolicy] = msgspec.field(default_factory=dict)
    """Namespace of an owner → what holds for it, instead of ``default``."""
    closed: str = ""
    """Why nobody may deploy, whatever else stands here."""

    def allows(self, forge: str, login: str, id_: str) -> bool:
        """Whether this owner at a forge may deploy. Of our own git remote the list says nothing:
        whoever may push to it was given the right by the administrator."""
        if self.closed:
            return False
        if self.owners is None or forge == "git":
            return True
        login = login.lower()
        return any(
            each.forge in ("", forge)
            and ((each.id and each.id == id_) or (each.login and each.login == login))
            for each in self.owners
        )

    def of(self, owner: str) -> OwnerPolicy:
        """What holds for an owner (``names.owner_of``)."""
        return self.policies.get(owner, self.default)

    def require_open(self) -> None:
        """Raises NotAllowed: nobody may deploy."""
        if self.closed:
            raise NotAllowed(self.closed)


OPEN = Policy()
"""Where there is no SLIPWAY_POLICY."""


class Held(Struct, frozen=True):
    """What the gateway made of the administrator's document."""

    source: str
    """SLIPWAY_POLICY as it was read; passwords in it masked."""
    policy: Policy | None = None
    """The last one without mistakes; None: there was none yet."""
    mark: str = ""
    """What tells this document from a later one: its commit, its ETag."""
    since: str = ""
    """When it came into force: RFC 3339."""
    trouble: str = ""
    """Why a newer one is not taken, or whether there is one is not known."""


def in_force(held: Held | None, source: str) -> Policy:
    """``source``: SLIPWAY_POLICY of who asks. Where it is set and no document of it was read yet,
    nobody may deploy."""
    if not source:
        return OPEN
    if held and held.policy and held.source == shown(source):
        return held.policy
    why = held.trouble if held and held.source == shown(source) else ""
    told = "nobody may deploy here now: the policy (SLIPWAY_POLICY) could not be read yet"
    return Policy(closed=f"{told}: {why}" if why else f"{told}; try again in a minute")


def shown(source: str) -> str:
    """The setting as others may see it: a URL without what opens it."""
    scheme, mark, rest = source.partition("://")
    if not mark:
        return source
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path.partition('?')[0]}"

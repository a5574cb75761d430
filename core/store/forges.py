"""What is known of repositories at forges beside their records: which owner the admin gave which
namespace, hooks of single repositories, and looks that are to be taken."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import cast

import msgspec
from redis.client import Pipeline

from core import keys
from core.errors import Conflict, NotFound
from core.models import Struct, now
from core.store.base import encode, text
from core.store.repositories import Repositories

MAX_HOOKS = 10_000
MAX_LOOKS = 10_000
"""Of all forges together: who can sign can name repositories that are none."""


class Hook(Struct, frozen=True):
    """A webhook of one repository: its secret signs for that one alone."""

    id: str
    forge: str
    full_name: str
    """As it was when the hook was made."""
    secret: bytes
    """Sealed."""
    created_at: str
    forge_id: str = ""
    """The forge's id of the repository, once it is known here: no other counts from then on."""


class Look(Struct, frozen=True):
    """A question to a forge that waits to be asked."""

    forge: str
    forge_id: str
    said: bytes
    """JSON ForgeRepository: what an event said, for where the forge cannot be asked."""
    installation: str = ""
    commit: str = ""
    """What an event said was pushed; empty: nothing."""
    why: str = ""
    """Of a repository that is said to be gone."""
    hook: bool = False
    """Whether the event was signed by the secret of one repository's hook: what it says of name and
    owner is not taken where the forge cannot be asked."""
    unknown: str = ""
    """Full name in lower case that the hook was made for, where its repository is not known here
    yet: the id may be anybody's."""
    due: float = 0.0
    """Unix time: not before."""
    tries: int = 0

    @property
    def place(self) -> str:
        """One look waits at each: whatever ids a hook's events name, theirs is one."""
        return f"{self.forge} {self.unknown or self.forge_id}"


class Forges(Repositories):
    # Owners

    def owner_namespace(self, holder: str) -> str:
        """The namespace that the admin gave an owner (``<forge URL>#<id>``), or ''."""
        return text(self.redis.hget(keys.OWNERS, holder))

    def owners(self) -> dict[str, str]:
        """Owner → namespace, of those to whom the admin gave one."""
        rows = cast("dict[bytes, bytes]", self.redis.hgetall(keys.OWNERS))
        return {text(holder): text(namespace) for holder, namespace in sorted(rows.items())}

    def link_owner(self, holder: str, namespace: str) -> None:
        """Gives an owner a namespace; one that others hold is shared with them."""
        with self.redis.pipeline(transaction=True) as pipe:
            pipe.hset(keys.OWNERS, holder, namespace)
            pipe.hsetnx(keys.NAMESPACES, namespace, holder)
            pipe.execute()

    def unlink_owner(self, holder: str) -> None:
        """Raises NotFound. What is deployed stays; the owner's next push needs a namespace anew."""
        if not self.redis.hdel(keys.OWNERS, holder):
            raise NotFound(f"no namespace was given to {holder}")

    # Hooks

    def add_hook(self, hook: Hook) -> None:
        """Raises Conflict: there are as many as there may be."""

        def change(pipe: Pipeline) -> None:
            full = int(pipe.hlen(keys.HOOKS)) >= MAX_HOOKS
            pipe.multi()
            if full:
                raise Conflict(f"there are {MAX_HOOKS} hooks, which is the most: delete some")
            pipe.hset(keys.HOOKS, hook.id, encode(hook))

        self._transaction(change, keys.HOOKS)

    def hook(self, id_: str) -> Hook:
        """Raises NotFound."""
        raw = self.redis.hget(keys.HOOKS, id_)
        if raw is None:
            raise NotFound(f"there is no hook {id_!r}: see 'slipway hooks'")
        return msgspec.json.decode(cast(bytes, raw), type=Hook)

    def hooks(self) -> list[Hook]:
        """The oldest first."""
        rows = cast("dict[bytes, bytes]", self.redis.hgetall(keys.HOOKS))
        found = [msgspec.json.decode(raw, type=Hook) for raw in rows.values()]
        return sorted(found, key=lambda hook: (hook.created_at, hook.id))

    def bind_hook(self, id_: str, forge_id: str) -> Hook:
        """Ties a hook to the repository of its first event; gives it back as it is then."""

        def change(pipe: Pipeline) -> Hook:
            hook = self.hook(id_)
            pipe.multi()
            if not hook.forge_id:
                hook = msgspec.structs.replace(hook, forge_id=forge_id)
                pipe.hset(keys.HOOKS, id_, encode(hook))
            return hook

        return self._transaction(change, keys.HOOKS)

    def bind_hooks(self, forge: str, full_name: str, forge_id: str) -> None:
        """Ties those that were made for a repository to it, now that its forge told its id."""
        for hook in self.hooks():
            if (hook.forge, hook.full_name.lower()) == (forge, full_name.lower()):
                with suppress(NotFound):  # deleted meanwhile
                    self.bind_hook(hook.id, forge_id)

    def delete_hook(self, id_: str) -> None:
        """Raises NotFound."""
        if not self.redis.hdel(keys.HOOKS, id_):
            raise NotFound(f"there is no hook {id_!r}: see 'slipway hooks'")

    # Looks

    def ask_to_look(self, look: Look) -> bool:
        """Notes that a forge is to be asked. Of one that waits already the newest wish counts, with
        what it leaves open as it was; but what was signed for all repositories is not replaced by
        what a hook's event says. False: too many wait."""

        def change(pipe: Pipeline) -> bool:
            raw = cast("bytes | None", pipe.hget(keys.LOOKS, look.place))
            full = int(pipe.hlen(keys.LOOKS)) >= MAX_LOOKS
            wanted = look
            if raw is not None:
                waits = msgspec.json.decode(raw, type=Look)
                wanted = msgspec.structs.replace(
                    look,
                    said=waits.said if look.hook and not waits.hook else look.said,
                    installation=look.installation or waits.installation,
                    commit=look.commit or waits.commit,
                    why=look.why or waits.why,
                    hook=look.hook and waits.hook,
                )
            pipe.multi()
            if raw is None and full:
                return False
            pipe.hset(keys.LOOKS, look.place, encode(wanted))
            return True

        return self._transaction(change, keys.LOOKS)

    def looks(self) -> list[Look]:
        """Those that are due, the longest due first."""
        rows = cast("dict[bytes, bytes]", self.redis.hgetall(keys.LOOKS))
        found = [msgspec.json.decode(raw, type=Look) for raw in rows.values()]
        return sorted(
            (look for look in found if look.due <= time.time()), key=lambda look: look.due
        )

    def looked(self, look: Look, again: Look | None = None) -> None:
        """Forgets a look that was taken, or puts ``again`` in its place, unless another was asked
        for meanwhile."""

        def change(pipe: Pipeline) -> None:
            raw = cast("bytes | None", pipe.hget(keys.LOOKS, look.place))
            # Not byte by byte: one of an older version has fewer fields.
            same = raw is not None and msgspec.json.decode(raw, type=Look) == look
            pipe.multi()
            if same and again is None:
                pipe.hdel(keys.LOOKS, look.place)
            elif same and again is not None:
                pipe.hset(keys.LOOKS, look.place, encode(again))

        self._transaction(change, keys.LOOKS)


def new_hook(id_: str, forge: str, full_name: str, secret: bytes) -> Hook:
    return Hook(id=id_, forge=forge, full_name=full_name, secret=secret, created_at=now())

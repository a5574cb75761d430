"""Previews of requests: their records, and how all of one leaves the store.

Nothing here is done once on an event: what is marked ``gone`` is taken down as often as anything of
it is found, and forgotten when there is nothing left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from redis.client import Pipeline

from core import keys
from core.errors import Conflict
from core.models import State
from core.previews import ForkRules, owner_of
from core.repositories import Repository
from core.store.base import encode, text
from core.store.policies import Policies
from core.store.repositories import Repositories
from core.store.retention import Retention

CLOSED_SECONDS = 7 * 24 * 3600
"""Forges deliver again for three days."""

Change = Callable[[Repository | None], Repository | None]


class Previews(Repositories, Retention, Policies):
    def previews(self) -> list[Repository]:
        return [each for each in self.repositories() if each.request]

    def of_forks(self) -> set[str]:
        """Namespaces of previews of requests from forks, whose functions and builds are counted
        apart from their owner's."""
        return {each.namespace for each in self.previews() if not each.trusted}

    def preview(self, parent: str, number: int) -> Repository | None:
        """``parent``: the key of the repository that the request is to go into."""
        key = text(self.redis.hget(keys.PREVIEWS, f"{parent}#{number}"))
        return self.find_repository(key) if key else None

    def fork_rules(self, source: str, preview: Repository) -> ForkRules:
        """What the policy says of requests from forks. ``source``: ``Settings.policy``."""
        owner = owner_of(preview) if preview.parent else preview.namespace
        allowed = self.policy(source).of(owner)
        return ForkRules(allowed.fork_previews, allowed.fork_network)

    def change_preview(self, parent: str, number: int, change: Change) -> Repository | None:
        """Writes what ``change`` makes of the record there is, and claims its namespace and the one
        of its secrets; None is left as it is. Returns what stands now.

        Raises:
            Conflict: the namespace is somebody else's. And what ``change`` raises.
        """
        place = f"{parent}#{number}"

        def alter(pipe: Pipeline) -> Repository | None:
            before = self.preview(parent, number)
            after = change(before)
            if after is None or after == before:
                pipe.multi()
                return before
            holder = f"request {place}"
            held = text(pipe.hget(keys.NAMESPACES, after.namespace)) or holder
            whose = text(pipe.hget(keys.NAMESPACES, owner_of(after))) or "git"
            pipe.multi()
            if held != holder:
                raise Conflict(f"the namespace {after.namespace!r} belongs to somebody else")
            pipe.hset(keys.NAMESPACES, after.namespace, holder)
            if after.secrets_namespace:
                pipe.hsetnx(keys.NAMESPACES, after.secrets_namespace, whose)
            pipe.hset(keys.PREVIEWS, place, after.key)
            pipe.hset(keys.REPOSITORIES, after.key, encode(after))
            return after

        watched = (keys.PREVIEWS, keys.REPOSITORIES, keys.NAMESPACES)
        return self._transaction(alter, *watched)

    def closed_at(self, forge: str, repository: str, number: int) -> str | None:
        """The forge's time of the end of a request whose preview was forgotten; None: no such is
        known."""
        found = self.redis.get(keys.closed_request(forge, repository, number))
        return None if found is None else text(found)

    def note_closed(self, forge: str, repository: str, number: int, told_at: str) -> None:
        """Of a request of which nothing is here."""
        self.redis.set(keys.closed_request(forge, repository, number), told_at, ex=CLOSED_SECONDS)

    def note_release(self, preview: str, commit: str) -> None:
        """Says that this commit has its release: one that was pinned does not say so itself."""
        self.redis.set(keys.head(preview), commit)

    def take_down(self, preview: Repository) -> bool:
        """Calls off what is on its way of a preview that is gone, and takes its functions out of
        the desired state. Returns whether nothing is left to do; to be called until then."""
        self.call_off(preview.key, preview.gone)  # what goes live just now, goes with the next call

        def change(pipe: Pipeline) -> bool:
            found = self.find_repository(preview.key)
            own = [
                function
                for function, record in self.functions().items()
                if record.spec.namespace == preview.namespace
            ]
            warm = [each for each in self.warm() if each.endswith(f".{preview.namespace}")]
            was_live = self.live_release(preview.key)
            last = self.release(was_live) if was_live else None
            moving = bool(self.under_way(preview.key))
            pipe.multi()
            if found is None or not found.gone:
                return False
            if own:
                pipe.hdel(keys.FUNCTIONS, *own)
            if warm:
                pipe.hdel(keys.WARM, *warm)
            if last and last.state is State.LIVE:
                self._displace(pipe, last, State.REPLACED, found.gone)
            pipe.delete(keys.live(preview.key), keys.head(preview.key))
            if own or warm:
                pipe.publish(keys.WAKE, b"")
            return not (moving or own)

        watched = (keys.REPOSITORIES, keys.FUNCTIONS, keys.WARM, keys.STAGING)
        return self._transaction(change, *watched, keys.live(preview.key))

    def forget_preview(self, preview: Repository) -> bool:
        """Forgets a preview that is gone, with its namespace and all that is kept in that; False
        while something of it is still there. Where its forge has told the end, a note of that
        stays. What its releases had is housekeeping's to remove, as of any repository that there
        is no more."""
        space = f"{preview.namespace}/"
        rollbacks = [each for each in self.rollbacks() if each.key == preview.key]
        request = preview.request
        if request is None or not all(each.finished_at for each in rollbacks):
            return False
        ended = keys.closed_request(preview.source, preview.forge_id, request.number)

        def change(pipe: Pipeline) -> bool:
            found = self.find_repository(preview.key)
            functions = cast("list[bytes]", self.redis.hkeys(keys.FUNCTIONS))
            left = any(text(each).endswith(f".{preview.namespace}") for each in functions)
            moving = bool(self.under_way(preview.key))
            secrets = [
                each for each in self.redis.hkeys(keys.SECRETS) if text(each).startswith(space)
            ]
            pipe.multi()
            if found is None or found != preview or left or moving or not preview.gone:
                return False
            pipe.hdel(keys.REPOSITORIES, preview.key)
            pipe.hdel(keys.PREVIEWS, f"{preview.parent}#{request.number}")
            pipe.hdel(keys.NAMESPACES, preview.namespace)
            pipe.hdel(keys.NAMESPACE_TEXTS, preview.namespace)
            pipe.hdel(keys.VARIABLES, preview.namespace)
            if secrets:
                pipe.hdel(keys.SECRETS, *secrets)
            if rollbacks:
                pipe.hdel(keys.ROLLBACKS, *(each.id for each in rollbacks))
            pipe.delete(keys.head(preview.key), keys.live(preview.key))
            if not request.open:
                pipe.set(ended, request.told_at, ex=CLOSED_SECONDS)
            return True

        watched = (keys.REPOSITORIES, keys.FUNCTIONS, keys.STAGING, keys.SECRETS)
        moves = (keys.turn(preview.key), keys.waiting(preview.key))
        return self._transaction(change, *watched, *moves)

    # Inside

"""What of the policy the controller asks as it starts a replica: a changed one holds for the next
start, whatever release brought the function."""

from __future__ import annotations

from redis.exceptions import RedisError

from core.errors import Unavailable
from core.settings import Settings
from core.store import Store
from runtime.providers.cells import IsQuiet


def reader(settings: Settings, store: Store) -> IsQuiet:
    """Tells whether functions of a namespace are kept from the outside world.

    The function that is returned raises Unavailable: the store does not answer.
    """

    def is_quiet(namespace: str) -> bool:
        if not settings.policy:
            return False
        try:
            return not store.policy(settings.policy).of(store.owner_of(namespace)).egress
        except RedisError as error:
            raise Unavailable(
                f"the policy of {namespace} cannot be read: the store does not answer"
            ) from error

    return is_quiet

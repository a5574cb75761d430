"""How the controller reads secrets for what it starts: out of the store, with the key's file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from redis.exceptions import RedisError

from core.errors import Unavailable
from core.sealing import SealingKey
from core.settings import Settings
from core.store import Store
from runtime.providers.secretfolders import ReadSecrets


def reader(settings: Settings, store: Store) -> ReadSecrets:
    """Opens what a function names, of its own namespace, as it is at that moment.

    The function that is returned raises:
        NotFound: the namespace does not have one of them.
        ConfigError: the key is missing or another one.
        Unavailable: the store does not answer.
    """

    def read(namespace: str, names: Sequence[str]) -> Mapping[str, bytes]:
        try:
            key = SealingKey.read(settings.secrets_key)
            return store.secret_values(key, namespace, names)
        except RedisError as error:
            raise Unavailable(
                f"the secrets of {namespace} cannot be read: the store does not answer"
            ) from error

    return read

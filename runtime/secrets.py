"""How the controller reads secrets for what it starts: those that the commit has sealed are opened,
the others are read out of the store, with the key's file."""

from __future__ import annotations

from collections.abc import Mapping

from redis.exceptions import RedisError

from core.errors import ConfigError, InvalidRequest, Unavailable
from core.models import FunctionSpec
from core.sealedbox import Place
from core.sealing import SealingKey
from core.settings import Settings
from core.store import Store
from runtime.providers.secretfolders import ReadSecrets
from runtime.sealingkeys import SealingKeys


def reader(settings: Settings, store: Store) -> ReadSecrets:
    """Opens what a function names, of the namespace whose secrets it has. Those of the store are as
    they are at that moment, those that are sealed as in its commit.

    The function that is returned raises:
        NotFound: the namespace does not have one of them.
        InvalidRequest: a sealed one was changed, or sealed for another place.
        ConfigError: the key is missing or another one.
        Unavailable: the store does not answer.
    """
    sealing_keys = SealingKeys(settings.sealing_keys)

    def read(spec: FunctionSpec) -> Mapping[str, bytes]:
        namespace = spec.secrets_namespace or spec.namespace
        sealed = spec.sealed or {}
        values = {}
        for name in spec.secrets or ():
            if name in sealed:
                place = Place(namespace, spec.repository_id, name)
                values[name] = _opened(sealing_keys, sealed[name], place, spec)
        names = [name for name in spec.secrets or () if name not in sealed]
        return {**values, **_stored(settings, store, namespace, names)}

    return read


def _opened(keys: SealingKeys, text: str, place: Place, spec: FunctionSpec) -> bytes:
    try:
        return keys.open(text, place)
    except (InvalidRequest, ConfigError) as error:
        raise type(error)(
            f"the sealed secret {place.name} of {place.namespace} does not open: {error}. Seal it "
            f"anew with 'slipway seal {place.name} --repository {place.namespace}/"
            f"{spec.repository or ''}', and push"
        ) from None


def _stored(
    settings: Settings, store: Store, namespace: str, names: list[str]
) -> Mapping[str, bytes]:
    if not names:
        return {}
    try:
        key = SealingKey.read(settings.secrets_key)
        return store.secret_values(key, namespace, names)
    except RedisError as error:
        raise Unavailable(
            f"the secrets of {namespace} cannot be read: the store does not answer"
        ) from error

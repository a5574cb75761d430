"""Keys for values that are sealed in git: the public one for everybody, which there are and a new
one for the admin; and what a handed over function has sealed is checked.

The gateway knows public keys alone. Private ones are made and deleted by the controller, within
seconds of what is wished in the store.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec
from flask import Blueprint, Response, request

from core import logging, names, sealedbox
from core.errors import InvalidRequest, NotFound
from core.models import FunctionSpec, Struct
from core.repositories import Repository
from core.scopes import Scope
from core.sealedbox import FINGERPRINT
from core.store import Store
from gateway.callers import caller, owners
from gateway.context import here

bp = Blueprint("sealing", __name__)
log = logging.get()


class SealingKey(Struct, frozen=True):
    """The public key to seal with."""

    fingerprint: str
    key: str
    """32 bytes of X25519 in base64url."""
    created_at: str


class SealingAddress(Struct, frozen=True):
    """The same, and for which repository."""

    fingerprint: str
    key: str
    created_at: str
    namespace: str
    """Of the repository, or of its environment; of a preview the one whose secrets it has."""
    repository_id: str
    """``<forge>:<the forge's id>``."""


class HeldKey(SealingKey, frozen=True):
    """A key, and who needs it."""

    number: int
    """In the order in which they were made."""
    current: bool
    """Whether it is the one to seal with."""
    functions: list[str]
    """Live or staged, with values that are sealed with it."""


class Wanted(Struct, frozen=True):
    """What is asked for with ``POST /system/sealing-keys``."""

    number: int
    """Of the new key, at least."""


@bp.get("/sealing-key")
def public_key() -> Response:
    """For everybody: what is sealed with it nobody opens but this installation's runtime."""
    found = here().store.sealing_key_of()
    return _json(
        SealingKey(fingerprint=found.fingerprint, key=found.key, created_at=found.created_at)
    )


@bp.get("/system/sealing-key")
@owners(Scope.SECRETS)
def address() -> Response:
    """``?namespace=&repository=&environment=``: with what a value for a repository is sealed."""
    gateway = here()
    owner = names.namespace(request.args.get("namespace", ""))
    caller().require(Scope.SECRETS, owner)
    name = names.repository_name(request.args.get("repository", ""))
    environment = request.args.get("environment", "")
    repository = gateway.store.repository(owner, name)
    space = repository.secrets_namespace
    found = gateway.store.sealing_key_of()
    return _json(
        SealingAddress(
            fingerprint=found.fingerprint,
            key=found.key,
            created_at=found.created_at,
            namespace=names.derived_namespace(space, environment) if environment else space,
            repository_id=gateway.store.repository_id(repository),
        )
    )


@bp.get("/system/sealing-keys")
def list_keys() -> Response:
    """All of them, the oldest first."""
    store = here().store
    found, users = store.sealing_keys(), store.sealed_with()
    return _json(
        [
            HeldKey(
                fingerprint=each.fingerprint,
                key=each.key,
                created_at=each.created_at,
                number=each.number,
                current=each is found[-1],
                functions=users.get(each.fingerprint, []),
            )
            for each in found
        ]
    )


@bp.post("/system/sealing-keys")
def rotate() -> Response:
    """A new key to seal with; what is sealed with earlier ones goes on opening. Asked for twice
    before the controller has made it, it is one."""
    number = here().store.want_new_sealing_key()
    log.info("sealing_key_wanted", number=number)
    return _json(Wanted(number=number), 202)


@bp.delete("/system/sealing-keys/<id_>")
def delete(id_: str) -> Response:
    """Deletes an old key for good: what is still sealed with it anywhere never opens again."""
    if not FINGERPRINT.fullmatch(id_):
        raise NotFound("a sealing key is named by its fingerprint of 16 hex digits")
    here().store.drop_sealing_key(id_)
    log.info("sealing_key_unwanted", fingerprint=id_)
    return Response(status=202)


def checked(store: Store, repository: Repository, spec: FunctionSpec) -> FunctionSpec:
    """What a handed over function has of secrets, held against what its repository may have; with
    its address, which is never the builder's word.

    Raises:
        InvalidRequest: naming the secret that is not as ``slipway seal`` writes it, or whose key is
            not here; or the repository is a fork's preview, which gets none.
    """
    if not repository.trusted and (spec.secrets or spec.sealed):
        raise InvalidRequest(
            f"{spec.name} is of a request from a fork, which gets no secrets: it cannot name any"
        )
    if spec.sealed:
        known = {each.fingerprint for each in store.sealing_keys()}
        for name, text in spec.sealed.items():
            _check(spec, name, text, known, repository)
    space = repository.secrets_namespace
    return msgspec.structs.replace(
        spec,
        sealed=spec.sealed or None,
        repository_id=store.repository_id(repository) if spec.sealed else "",
        secrets_namespace=space if spec.secrets and space != spec.namespace else "",
    )


def _check(
    spec: FunctionSpec, name: str, text: str, known: Collection[str], repository: Repository
) -> None:
    names.secret_name(name)
    if name not in (spec.secrets or ()):
        raise InvalidRequest(f"{spec.name} has {name} sealed, and does not name it in its secrets")
    try:
        fingerprint = sealedbox.parse(text).fingerprint
    except InvalidRequest as error:
        raise InvalidRequest(f"the secret {name} of {spec.name}: {error}") from None
    if fingerprint not in known:
        raise InvalidRequest(
            f"the secret {name} of {spec.name} is sealed with the key {fingerprint}, which this "
            f"installation does not have: seal it with 'slipway seal {name} --repository "
            f"{repository.key}'"
        )


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, content_type="application/json")

"""Which secrets the functions of a commit can name: what it has sealed in ``sealed.yml``, and what
is in the store. A value that is sealed counts before one of the same name in the store.

Nothing is opened here: the texts are handed on, and the runtime opens them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from builder.source import TREE, Source
from core import sealedbox, sealedfile
from core.errors import (
    BuildFailed,
    InvalidRequest,
    InvalidStack,
    Mistake,
    NotAllowed,
    NotFound,
    TooLarge,
)
from core.lazy import cached_property
from core.repositories import Repository
from core.sealedfile import Entry
from core.store import Store
from core.yamlnodes import MAX_BYTES


@dataclass(frozen=True)
class OwnSecrets:
    """Those of one namespace."""

    store: Store
    repository: Repository
    namespace: str
    sealed: Mapping[str, Entry] = field(default_factory=dict)

    def check(self, names: Iterable[str]) -> None:
        """For functions.

        Raises:
            NotFound: naming those that are neither sealed nor in the store.
            InvalidRequest: one is sealed with a key that this installation does not have.
        """
        for name in names:
            if entry := self.sealed.get(name):
                self._check_key(name, entry)
                continue
            try:
                self.store.secret_versions(self.namespace, [name])
            except NotFound as error:
                if not self.repository.trusted:
                    raise
                seal = f"'slipway seal {name} --repository {self.repository.key}'"
                raise NotFound(f"{error}; or seal it into {sealedfile.NAME} with {seal}") from None

    def versions(self, names: Sequence[str]) -> dict[str, str]:
        """Of those of the store. Raises NotFound for what is missing."""
        return self.store.secret_versions(self.namespace, self.stored(names))

    def of_build(self, names: Sequence[str]) -> dict[str, str]:
        """The versions of secrets that a build is handed.

        Raises:
            NotFound: naming what is missing.
            InvalidRequest: one is sealed.
            NotAllowed: the commit is a fork's.
        """
        if not self.repository.trusted:
            raise NotAllowed(f"{', '.join(names)}: a request from a fork gets no secrets")
        for name in names:
            if name in self.sealed:
                raise InvalidRequest(
                    f"{name} is sealed ({sealedfile.NAME}, line {self.sealed[name].line}), which "
                    "opens for functions that run and not for builds: name another secret, made "
                    f"with 'slipway secret create … --namespace {self.namespace}'"
                )
        return self.store.secret_versions(self.namespace, names)

    def stored(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if name not in self.sealed]

    def texts(self, names: Iterable[str]) -> dict[str, str]:
        """Name → sealed text, of those that are sealed."""
        return {name: self.sealed[name].text for name in names if name in self.sealed}

    @cached_property
    def _known(self) -> set[str]:
        """Fingerprints of the keys that there are."""
        return {each.fingerprint for each in self.store.sealing_keys()}

    def _check_key(self, name: str, entry: Entry) -> None:
        fingerprint = sealedbox.parse(entry.text).fingerprint
        if fingerprint not in self._known:
            raise InvalidRequest(
                f"{name} ({sealedfile.NAME}, line {entry.line}) is sealed with the key "
                f"{fingerprint}, which this installation does not have: seal it with 'slipway seal "
                f"{name} --repository {self.repository.key}'"
            )


def own_secrets(source: Source, repository: Repository, store: Store) -> OwnSecrets:
    """Reads what the commit has sealed; of a preview of a fork nothing is.

    Raises:
        InvalidStack: the file has mistakes.
    """
    namespace = repository.secrets_namespace
    sealed = _read(source).get(namespace, {}) if repository.trusted else {}
    return OwnSecrets(store, repository, namespace, sealed)


def _read(source: Source) -> sealedfile.Sealed:
    path = sealedfile.NAME
    try:
        node = source.find(path)
        if node is None:
            return {}
        if node.kind == TREE:
            raise InvalidStack(path, [Mistake(0, "it is a folder: it has to be a file")])
        return sealedfile.read(source.read(path, MAX_BYTES), path)
    except (BuildFailed, NotFound, TooLarge) as error:
        raise InvalidStack(path, [Mistake(0, str(error))]) from error

"""Repositories, and who holds which namespace."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import cast

import msgspec
from redis.client import Pipeline

from core import keys
from core.errors import Conflict, NotFound
from core.repositories import Repository
from core.store.base import Base, encode, text


class Repositories(Base):
    def claim_namespace(
        self,
        namespace: str,
        holder: str,
        repository: Repository | None = None,
        *,
        former: str = "",
    ) -> None:
        """Gives the namespace to ``holder`` if nobody has it, together with its first
        ``repository``, which is left as it is where it is known: so nobody can delete the
        namespace between the two. ``former``: who the same holder was before we knew better.

        Raises:
            Conflict: somebody else holds it.
        """

        def change(pipe: Pipeline) -> None:
            upgraded = self._require_claim(pipe, namespace, holder, former)
            pipe.multi()
            self._write_claim(pipe, namespace, holder, upgraded)
            if repository:
                pipe.hsetnx(keys.REPOSITORIES, repository.key, encode(repository))

        self._transaction(change, keys.NAMESPACES, keys.OWNERS)

    def adopt_repository(self, record: Repository, holder: str, former: str = "") -> None:
        """Claims the namespace as ``claim_namespace``, and writes the record and what its
        environments have of it, all at once.

        Raises:
            Conflict: somebody else holds the namespace, or another repository has the name in it.
        """

        def change(pipe: Pipeline) -> None:
            upgraded = self._require_claim(pipe, record.namespace, holder, former)
            _require_name(self.find_repository(record.key), record)
            children = [
                as_parent(each, record)
                for each in self.children(record.key)
                if each.request is None  # previews follow by themselves
            ]
            pipe.multi()
            self._write_claim(pipe, record.namespace, holder, upgraded)
            for each in (record, *children):
                pipe.hset(keys.REPOSITORIES, each.key, encode(each))
            pipe.hset(keys.FORGE_REPOSITORIES, _at_forge(record), record.key)

        self._transaction(change, keys.NAMESPACES, keys.OWNERS, keys.REPOSITORIES)

    @staticmethod
    def _require_claim(pipe: Pipeline, namespace: str, holder: str, former: str) -> bool:
        """Whether what is held is the holder's by another name. Raises Conflict."""
        held = text(pipe.hget(keys.NAMESPACES, namespace)) or holder
        linked = text(pipe.hget(keys.OWNERS, holder)) == namespace
        upgraded = bool(former) and held == former != holder
        if held != holder and not linked and not upgraded:
            whose = "Slipway's own git remote" if held == "git" else held
            shared = (
                ""  # whoever pushes here says the namespace: there is no owner to be linked
                if holder == "git"
                else f", or have the admin link the two owners ('slipway owner link {holder} "
                f"{namespace}')"
            )
            raise Conflict(f"the namespace {namespace!r} belongs to {whose}: use another{shared}")
        return upgraded

    @staticmethod
    def _write_claim(pipe: Pipeline, namespace: str, holder: str, upgraded: bool) -> None:
        if upgraded:
            pipe.hset(keys.NAMESPACES, namespace, holder)
        else:
            pipe.hsetnx(keys.NAMESPACES, namespace, holder)

    def held_by(self, holder: str) -> str:
        """The owner's namespace that ``holder`` has already, or ''."""
        rows = cast("dict[bytes, bytes]", self.redis.hgetall(keys.NAMESPACES))
        own = [text(name) for name, who in rows.items() if text(who) == holder]
        return next((name for name in sorted(own) if "--" not in name), "")

    def namespaces(self) -> list[str]:
        return sorted(text(name) for name in self.redis.hkeys(keys.NAMESPACES))

    def holders(self) -> dict[str, str]:
        """Namespace → who holds it: ``git`` or ``<forge URL>#<owner id>``."""
        rows = cast("dict[bytes, bytes]", self.redis.hgetall(keys.NAMESPACES))
        return {text(name): text(holder) for name, holder in sorted(rows.items())}

    def save_repository(self, repository: Repository) -> None:
        with self.redis.pipeline(transaction=True) as pipe:
            pipe.hset(keys.REPOSITORIES, repository.key, encode(repository))
            if repository.forge_id and not repository.parent:
                pipe.hset(keys.FORGE_REPOSITORIES, _at_forge(repository), repository.key)
            pipe.execute()

    def change_repository(self, key: str, change: Callable[[Repository], Repository]) -> Repository:
        """Compare-and-set; returns it as it is then. Raises NotFound."""

        def step(pipe: Pipeline) -> Repository:
            found = self.find_repository(key)
            if found is None:
                raise NotFound(f"there is no repository {key}: push it first")
            changed = change(found)
            pipe.multi()
            if changed != found:
                pipe.hset(keys.REPOSITORIES, key, encode(changed))
            return changed

        return self._transaction(step, keys.REPOSITORIES)

    def repository_id(self, repository: Repository) -> str:
        """``<forge>:<the forge's id>`` of it, or of the one whose environment or preview it is:
        what sealed values are bound to. It stays when the repository is renamed, and another one of
        the same name has another. One of our own remote that was made before they had ids gets one
        now.

        Raises:
            NotFound: it was deleted meanwhile.
            Conflict: its forge never told its id.
        """
        if repository.parent:
            namespace, _, name = repository.parent.partition("/")
            repository = self.repository(namespace, name)
        if not repository.forge_id and repository.source == "git":
            repository = self.change_repository(repository.key, identified)
        if not repository.forge_id:
            raise Conflict(
                f"{repository.source} has not told yet which repository {repository.key} is: push "
                "to it once, so that it does"
            )
        return f"{repository.source}:{repository.forge_id}"

    def repository_at(self, forge: str, id_: str) -> Repository | None:
        """What a forge's repository is here, by the forge's own id of it: however it is called now.
        None: nothing."""
        key = text(self.redis.hget(keys.FORGE_REPOSITORIES, f"{forge} {id_}"))
        found = self.find_repository(key) if key else None
        return found if found and (found.source, found.forge_id) == (forge, id_) else None

    def index_repositories(self) -> None:
        """Has every repository found by its forge's id: what an older version wrote, or came out of
        its backup, was not."""
        rows = {
            _at_forge(each): each.key
            for each in self.repositories()
            if each.forge_id and each.source != "git" and not each.parent
        }
        for field, key in rows.items():
            self.redis.hsetnx(keys.FORGE_REPOSITORIES, field, key)

    def children(self, key: str) -> list[Repository]:
        """The environments and previews of a repository."""
        return [each for each in self.repositories() if each.parent == key]

    def repository(self, namespace: str, name: str) -> Repository:
        """Raises NotFound where Slipway does not know the repository."""
        found = self.find_repository(f"{namespace}/{name}")
        if found is None:
            raise NotFound(f"there is no repository {namespace}/{name}: push it first")
        return found

    def find_repository(self, key: str) -> Repository | None:
        raw = self.redis.hget(keys.REPOSITORIES, key)
        return None if raw is None else msgspec.json.decode(cast(bytes, raw), type=Repository)

    def repositories(self) -> list[Repository]:
        rows = cast("dict[bytes, bytes]", self.redis.hgetall(keys.REPOSITORIES))
        return [msgspec.json.decode(raw, type=Repository) for _, raw in sorted(rows.items())]


def identified(repository: Repository) -> Repository:
    """The same with an id, which those of our own remote get at random."""
    if repository.forge_id:
        return repository
    return msgspec.structs.replace(repository, forge_id=secrets.token_hex(16))


def as_parent(child: Repository, parent: Repository) -> Repository:
    """An environment, where its repository is now."""
    return msgspec.structs.replace(
        child,
        source=parent.source,
        full_name=parent.full_name,
        forge_id=parent.forge_id,
        owner_id=parent.owner_id,
        public=parent.public,
        installation=parent.installation,
        app=parent.app,
    )


def _require_name(there: Repository | None, record: Repository) -> None:
    """Two of one owner may be called the same here, where groups lie between, or one took the name
    that another had: the first keeps it, while it is there. Raises Conflict."""
    if there is None or there.gone or not there.forge_id:
        return
    if (there.source, there.forge_id) != (record.source, record.forge_id):
        raise Conflict(
            f"{record.key} is {there.full_name or 'a repository of the git remote'} already, and "
            f"{record.full_name} would be called the same: rename one of them"
        )


def _at_forge(repository: Repository) -> str:
    return f"{repository.source} {repository.forge_id}"

"""Events of pull requests as tests tell them, and the repository that they are of."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from core.repositories import Repository
from forges.events import ForgeRepository, PullRequest

BASE = Repository(
    namespace="alice",
    name="shop",
    source="github",
    full_name="Alice/shop",
    forge_id="100",
    owner_id="1",
    deploy_branch="master",
)
BEGUN = datetime(2026, 11, 1, 12, tzinfo=UTC)


def commit(digit: str) -> str:
    return digit * 40


def event(
    digit: str = "a",
    number: int = 5,
    *,
    of: Repository = BASE,
    head: str | None = None,
    open_: bool = True,
    after: int | None = None,
    full: str = "",
    title: str = "A change",
) -> PullRequest:
    """``head``: id of the head's repository, that of the base if not given; ``after``: seconds on
    the forge's clock, None: it does not say; ``full``: a whole commit in place of ``digit``."""
    owner, _, name = of.full_name.partition("/")
    base = ForgeRepository(
        forge=of.source,
        id=of.forge_id,
        full_name=of.full_name,
        owner=owner,
        owner_id=of.owner_id,
        name=name,
        default_branch=of.deploy_branch,
    )
    told = "" if after is None else (BEGUN + timedelta(seconds=after)).isoformat()
    return PullRequest(
        repository=base,
        number=number,
        title=title,
        url=f"https://github.com/{of.full_name}/pull/{number}",
        commit=full or commit(digit),
        reference=f"refs/pull/{number}/head",
        base="master",
        head_repository=of.forge_id if head is None else head,
        open=open_,
        updated_at=told,
    )


def known(store_namespace: str, forge_id: str, name: str = "shop") -> Repository:
    """Another repository than ``BASE``."""
    return msgspec.structs.replace(
        BASE,
        namespace=store_namespace,
        name=name,
        forge_id=forge_id,
        full_name=f"{store_namespace.title()}/{name}",
    )

"""What the builder asks about a forge's repository, with its own token: how it is opened for
reading, what it is at, and that the forge be asked anew. Keys and tokens of forges stay with the
gateway; what it gives away opens one repository, for an hour at most where it can do that."""

from __future__ import annotations

import re

import msgspec
from flask import Blueprint, Response, request

from core import logging, names
from core.errors import (
    BadCredentials,
    Conflict,
    NotAllowed,
    NotFound,
    NotSupported,
    SlipwayError,
    Unavailable,
)
from core.repositories import Repository
from core.store.forges import Look
from forges import Forge
from gateway import adoption, arrivals, looks, promotions
from gateway.auth import is_builder
from gateway.context import Gateway, here
from gateway.streams import decoded

bp = Blueprint("origins", __name__, url_prefix="/internal/repositories")
log = logging.get()

MAX_ETAG = 200
MAX_TAGS = 2**22
"""Bytes of what the builder tells of a repository's tags."""
_TAG = re.compile(r"promote/[^\x00-\x20\x7f]+")


class Opened(msgspec.Struct):
    """How a repository is fetched."""

    authorization: str = ""
    """Value of the HTTP header; empty: none is needed, or there is none to be had."""
    trouble: str = ""
    """Why there is none."""
    refused: str = ""
    """Why nothing may be fetched by this name now."""


class HeadTold(msgspec.Struct):
    """What a deployed branch is at."""

    commit: str = ""
    """Empty: there is no such branch, or it is ``unchanged``."""
    etag: str = ""
    """For the next question."""
    unchanged: bool = False
    by_git: bool = False
    """The forge's API cannot be asked: git has to."""


@bp.get("/<namespace>/<name>/head")
def head(namespace: str, name: str) -> Response:
    """``?etag=``, of the last answer. 503 where the forge is away, or has had enough of us."""
    gateway, repository = _asked(namespace, name)
    etag = request.args.get("etag", "")[:MAX_ETAG]
    branch = repository.deploy_branch
    reference = branch if repository.request else f"refs/heads/{branch}"
    try:
        found = gateway.forge(repository.source).head(repository, reference, etag)
    except (NotAllowed, NotFound, NotSupported):
        told = HeadTold(by_git=True)
    else:
        told = HeadTold(found.commit, found.etag) if found else HeadTold("", etag, unchanged=True)
    return Response(msgspec.json.encode(told), content_type="application/json")


class TagsTold(msgspec.Struct):
    """The tags that promote."""

    objects: dict[str, str] = {}
    """Tag → the id of what it names."""
    etag: str = ""
    unchanged: bool = False
    by_git: bool = False


@bp.get("/<namespace>/<name>/tags")
def tags(namespace: str, name: str) -> Response:
    """As ``head``: whether anything changed. What the tags stand for in the end git tells."""
    gateway, repository = _asked(namespace, name)
    etag = request.args.get("etag", "")[:MAX_ETAG]
    try:
        found = gateway.forge(repository.source).tags(repository, promotions.TAGS, etag)
    except (NotAllowed, NotFound, NotSupported):
        told = TagsTold(by_git=True)
    else:
        told = TagsTold(found.objects, found.etag) if found else TagsTold({}, etag, unchanged=True)
    return Response(msgspec.json.encode(told), content_type="application/json")


@bp.put("/<namespace>/<name>/tags")
def found_tags(namespace: str, name: str) -> Response:
    """All tags that promote, each with the commit that it stands for, as git shows them by the name
    that we know. Answers whether all were looked at: else it is to be told again.

    409 where that name is another repository's by now.
    """
    gateway, repository = _asked(namespace, name)
    told = decoded(request.environ, dict[str, str], MAX_TAGS)
    there = {tag: names.commit(commit) for tag, commit in told.items() if _TAG.fullmatch(tag)}
    try:
        refused = _other(gateway.forge(repository.source), repository)
    except Unavailable:  # a tag can wait
        return Response(msgspec.json.encode(False), content_type="application/json")
    if refused:
        raise Conflict(refused)
    done = promotions.compare_forge_tags(gateway.store, repository, there)
    return Response(msgspec.json.encode(done), content_type="application/json")


@bp.get("/<namespace>/<name>/credential")
def credential(namespace: str, name: str) -> Response:
    """``{authorization, trouble, refused}``. ``?checked=1``: what is fetched will be released, so
    its name has to be that of the repository whose id is known: others may have it by now.

    503 where the forge that would give a credential is away.
    """
    gateway, repository = _asked(namespace, name)
    forge = gateway.forge(repository.source)
    opened = Opened()
    if request.args.get("checked") == "1":
        opened.refused = _moved(forge, repository)
    if not repository.public and not opened.refused:
        try:
            opened.authorization = forge.clone_credential(repository)
            opened.trouble = "" if opened.authorization else _no_token(repository)
        except Unavailable:
            raise
        except SlipwayError as error:
            gateway.forget_forge(repository.source)  # its token may have been renewed meanwhile
            opened.trouble = str(error)
    return Response(
        msgspec.json.encode(opened),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def _no_token(repository: Repository) -> str:
    app = "makes an App at /setup/github, or " if repository.source == "github" else ""
    setting = f"SLIPWAY_{repository.source.upper()}_TOKEN_FILE"
    return f"the administrator {app}sets {setting}; then push or redeploy"


def _moved(forge: Forge, repository: Repository) -> str:
    """Why a repository is not to be fetched by the name that we know; '' where it is, or nobody can
    tell: an API that is away holds up no release."""
    try:
        return _other(forge, repository)
    except Unavailable:
        return ""


def _other(forge: Forge, repository: Repository) -> str:
    """The same. Raises Unavailable: nobody can tell."""
    called = repository.full_name
    try:
        now = forge.describe(repository)
    except Unavailable:
        raise
    except NotFound as error:
        return looks.unseen(repository, error)
    except SlipwayError as error:
        return f"{called} is not shown to everybody any more: {error}" if repository.public else ""
    if now.full_name != called:
        return f"{called} is called {now.full_name} by now: it is released anew by that name"
    if repository.public and not now.public:
        return f"{called} is private by now: it is released anew as such"
    return ""


class Standing(msgspec.Struct):
    """Whether what was built of a repository may go live."""

    refused: str = ""
    """Why not."""


@bp.get("/<namespace>/<name>/standing")
def standing(namespace: str, name: str) -> Response:
    """``{refused}``: of what is built, asked before it is handed over. The forge may have lost the
    repository, or somebody else may have it, since the build began, and no event came through."""
    gateway, repository = _asked(namespace, name)
    home = _home(gateway, repository)
    told = Standing(_left(gateway, home) if home else "")
    return Response(msgspec.json.encode(told), content_type="application/json")


def _left(gateway: Gateway, known: Repository) -> str:
    """Why nothing of a repository goes live any more; '' where it does, or nobody can tell. What
    is other than we know, is looked at: another name or another visibility changes nothing here."""
    try:
        now = looks.described(gateway, gateway.forge(known.source), known)
    except Unavailable:
        return ""
    except NotFound as error:
        _look(gateway, known)
        return looks.unseen(known, error)
    except SlipwayError:
        if known.public:  # and hidden by now
            _look(gateway, known)
        return ""
    if arrivals.differs(known, now, ""):
        _look(gateway, known)
    if known.owner_id and now.owner_id not in ("", known.owner_id):
        told = f"{known.full_name} belongs to {now.owner} now, as {now.full_name}"
        return f"{told}: it is released there"
    return ""


@bp.post("/<namespace>/<name>/look")
def look(namespace: str, name: str) -> Response:
    """It could not be fetched: it may have another name by now, or be gone."""
    gateway, repository = _asked(namespace, name)
    home = _home(gateway, repository)
    if home:
        _look(gateway, home)
    return Response(status=202)


def _home(gateway: Gateway, repository: Repository) -> Repository | None:
    """The repository itself, of an environment or a preview as well, where its forge's id is
    known."""
    store = gateway.store
    home = store.find_repository(repository.parent) if repository.parent else repository
    return home if home and home.forge_id else None


def _look(gateway: Gateway, home: Repository) -> None:
    said = adoption.said_of(home, home.full_name.partition("/")[0])
    wanted = Look(forge=home.source, forge_id=home.forge_id, said=msgspec.json.encode(said))
    gateway.store.ask_to_look(wanted)
    gateway.look.set()


def _asked(namespace: str, name: str) -> tuple[Gateway, Repository]:
    gateway = here()
    if not is_builder(gateway, request.headers.get("Authorization", "")):
        raise BadCredentials("invalid credentials")
    names.namespace(namespace)
    names.repository_name(name)
    repository = gateway.store.repository(namespace, name)
    if repository.source == "git":
        raise NotFound(f"{repository.key} is of our own git remote: no forge has it")
    return gateway, repository

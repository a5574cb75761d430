"""Fetches images that were not built here, within bounds of time, size and number.

The engine does the work and tells how it goes (``POST /images/create`` of its API, a line of JSON
for each step). It is read with a clock beside it: a registry that hangs, an image that is too
large, a disk that fills up end the pull, and with the connection the engine gives it up. Whoever
wants what is just being pulled waits for that pull and takes its result.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import select
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from typing import Any

import docker.errors
from docker.auth import encode_header

from core.errors import Conflict, InvalidRequest, NotFound, SlipwayError, Unavailable
from core.settings import Settings
from engine import pulled, references, stream
from engine.bounds import TICK, Bounds, place
from engine.client import Engine
from engine.references import Reference
from engine.refusals import refusal

log = logging.getLogger(__name__)

_lock = threading.Lock()
_running: dict[tuple[str, str, str], Future[str]] = {}
"""(engine, image, owner) → the pull that others wait for."""
_DIGEST = re.compile(r"Digest: (sha256:[0-9a-f]{64})")


def pull(
    engine: Engine,
    settings: Settings,
    reference: str,
    *,
    owner: str = "",
    stop: Callable[[], bool] = lambda: False,
) -> str:
    """Asks the image's registry and fetches what is missing; returns it as ``name@sha256:…``.

    ``owner``: the namespace whose repository asks; empty: the admin. ``stop`` is asked about twice
    a second, and ends this caller's wish alone: others who wait for the same image go on.

    Raises:
        InvalidRequest: it is no name, too large, or not for this machine.
        NotAllowed: it is not this owner's to use (see ``references.refuse_others``).
        NotFound: its registry does not have it, or not for us.
        Unavailable: registry or engine do not answer, or there is no room; try again.
        Conflict: ``stop`` said so.
    """
    if owner:
        references.refuse_others(settings, owner, reference)
    wanted = references.parse(reference)
    if wanted.id:
        raise _no_name(reference)
    key = (engine.url, wanted.name, owner)
    while True:
        with _lock:
            other = _running.get(key)
            mine = _running.setdefault(key, Future())
        if other is None:
            break
        if stop():
            raise Conflict(f"the image {wanted.name} is not pulled: that was called off")
        # Conflict: it was called off for them, not for us.
        with contextlib.suppress(TimeoutError, Conflict):
            return other.result(TICK)
    try:
        bounds = Bounds(engine, settings, f"the image {wanted.name} is not pulled", stop)
        with place(settings, wanted, owner, bounds):
            pinned = _pull(engine, settings, wanted, owner, bounds)
        mine.set_result(pinned)
        return pinned
    except BaseException as error:
        mine.set_exception(error)
        raise
    finally:
        with _lock:
            del _running[key]


def pin(engine: Engine, settings: Settings, reference: str, *, owner: str = "") -> str:
    """Asks the image's registry what a name stands for, and fetches nothing; returns it as
    ``name@sha256:…``. For a release: its image is pulled where and when it is started.

    Raises as ``pull``.
    """
    if owner:
        references.refuse_others(settings, owner, reference)
    wanted = references.parse(reference)
    if wanted.id:
        raise _no_name(reference)
    login = references.credentials_for(settings, wanted, owner)
    try:
        with engine.asking(f"the image {wanted.name} cannot be looked up") as api:
            told = api.inspect_distribution(wanted.name, auth_config=login or {})
    except SlipwayError as error:
        if not isinstance(error.__cause__, docker.errors.APIError):
            raise
        raise refusal(wanted, str(error.__cause__.explanation), owner) from error
    return f"{wanted.place}@{told['Descriptor']['digest']}"


def resolve(
    engine: Engine,
    settings: Settings,
    reference: str,
    *,
    owner: str = "",
    stop: Callable[[], bool] = lambda: False,
) -> str:
    """Says which image a function runs, fetched if need be: ``name@sha256:…``, or an image's id.

    By id or digest, the engine's own copy will do, and so it does for a name without a registry.
    Of a tag at a registry it is the newest; where that cannot be had, the copy that is here.

    Raises as ``pull``.
    """
    if owner:
        references.refuse_others(settings, owner, reference)
    wanted = references.parse(reference)
    here = _id(engine, wanted)
    if here and (wanted.id or wanted.digest):
        return wanted.name
    if here and not wanted.host and not owner:
        return here
    try:
        return pull(engine, settings, reference, owner=owner, stop=stop)
    except (NotFound, Unavailable) as error:
        if not here or owner:
            raise
        log.warning("%s: the copy in the engine is used, for %s", reference, error)
        return here


def _id(engine: Engine, wanted: Reference) -> str:
    try:
        with engine.asking(f"the image {wanted.name} cannot be looked at") as api:
            return str(api.inspect_image(wanted.name)["Id"])
    except NotFound:
        return ""


def _pull(engine: Engine, settings: Settings, wanted: Reference, owner: str, bounds: Bounds) -> str:
    with engine.asking(bounds.what) as api:
        version = api.api_version
    before = _id(engine, wanted)
    login = references.credentials_for(settings, wanted, owner)
    headers = {"X-Registry-Auth": encode_header(login or {}).decode(), "Content-Length": "0"}
    digest, fresh = wanted.digest, False
    query = {"fromImage": wanted.place, "tag": wanted.digest or wanted.tag}
    with closing(
        stream.request(engine.url, version, "/images/create", query, method="POST", headers=headers)
    ) as sock:
        for told in _lines(sock, bounds):
            if failed := told.get("error") or told.get("message"):
                raise refusal(wanted, str(failed), owner)
            bounds.note(told)
            status = str(told.get("status", ""))
            if match := _DIGEST.match(status):
                digest = match[1]
            fresh |= status.startswith("Status: Downloaded newer image")
    pinned = f"{wanted.place}@{digest}"
    size = _size(engine, pinned)
    if not size:
        raise Unavailable(f"{bounds.what}: the engine broke off, or it is gone again: try again")
    try:
        if fresh or owner:  # what the admin has in the engine may be as large as they like
            bounds.note_unpacked(size)
    except InvalidRequest:
        if fresh:
            _put_back(engine, wanted, pinned, before)
        raise
    # A tag that was here is somebody's, unless we brought what it stood for.
    ours = not before or pulled.brought(settings, engine, wanted.name, before)
    if fresh and ours and engine.url == settings.engine_url:
        pulled.note(settings, pinned, wanted.name)
    return pinned


def _size(engine: Engine, pinned: str) -> int:
    """Its bytes on the disk; 0 where it is not there."""
    with (
        contextlib.suppress(NotFound),
        engine.asking(f"the image {pinned} cannot be looked at") as api,
    ):
        return max(1, int(api.inspect_image(pinned)["Size"]))
    return 0


def _put_back(engine: Engine, wanted: Reference, pinned: str, before: str) -> None:
    """Undoes a pull: a tag stands again for what it did ``before`` ('': it was not there)."""
    what = f"the image {pinned} is not removed"
    with contextlib.suppress(NotFound), engine.asking(what) as api:
        if before:
            api.tag(before, wanted.place, tag=wanted.tag)
    for name in {pinned} if before else {wanted.name, pinned}:
        # Conflict: somebody has just made a container of it.
        with contextlib.suppress(NotFound, Conflict), engine.asking(what) as api:
            api.remove_image(name)


def _lines(sock: Any, bounds: Bounds) -> Iterator[dict[str, Any]]:
    """What the engine tells, line by line, until it is through."""
    head, rest = stream.Head(), b""
    while True:
        bounds.check()
        ready, _, _ = select.select([sock], [], [], TICK)
        if not ready:
            continue
        try:
            data = sock.recv(65536)
        except (BlockingIOError, ssl.SSLWantReadError):
            continue
        except OSError as error:
            raise Unavailable(f"{bounds.what}: the engine went away ({error})") from error
        bounds.heard()
        *lines, rest = (rest + head.strip(data)).split(b"\n")
        for line in [*lines, rest] if not data else lines:
            if line.strip():
                try:
                    yield dict(json.loads(line))
                except ValueError as error:
                    log.warning("%s: the engine told %r", bounds.what, line[:200])
                    raise Unavailable(f"{bounds.what}: the engine's answer is not JSON") from error
        if not data:
            return


def _no_name(id_: str) -> NotFound:
    return NotFound(
        f"the image {id_} is not in the engine, and an id says nothing of a registry: deploy it by "
        "its name"
    )

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
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

from docker.auth import encode_header
from docker.errors import APIError

from core import disk
from core.errors import Conflict, InvalidRequest, NotFound, SlipwayError, Unavailable
from core.settings import Settings
from engine import pulled, references, stream
from engine.client import Engine
from engine.references import Reference

log = logging.getLogger(__name__)

LONGEST = 600.0
"""Seconds for one pull, its wait for others included."""
SILENT = 60.0
"""Seconds without a word of the engine after which a pull is given up."""
AT_ONCE, OF_REGISTRY = 8, 4
"""One registry that hangs does not hold up the others."""
ROOM = 2**30
"""Bytes of the engine's disk that pulls leave free."""
_TICK = 0.5

_turn = threading.Condition()
_pulling: Counter[str] = Counter()
"""Registry → pulls under way."""
_running: dict[tuple[str, str, str], Future[str]] = {}
"""(engine, image, owner) → the pull that others wait for."""
_DIGEST = re.compile(r"Digest: (sha256:[0-9a-f]{64})")
_MISSING = re.compile(r"not found|manifest unknown|unknown manifest|no such image", re.I)
_REFUSED = re.compile(r"denied|unauthorized|authentication required|no basic auth", re.I)
_OTHER_KIND = re.compile(r"no matching manifest|does not match the specified platform", re.I)
_WRONG = re.compile(r"verification failed|invalid digest|digest mismatch|did not match", re.I)


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
    a second; not by those who wait for a pull of the same image.

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
        with _turn:
            other = _running.get(key)
            mine = _running.setdefault(key, Future())
        if other is None:
            break
        if stop():
            raise Conflict(f"the image {wanted.name} is not pulled: that was called off")
        # Conflict: it was called off for them, not for us.
        with contextlib.suppress(TimeoutError, Conflict):
            return other.result(_TICK)
    try:
        pinned = _in_turn(engine, settings, wanted, owner, stop)
        mine.set_result(pinned)
        return pinned
    except BaseException as error:
        mine.set_exception(error)
        raise
    finally:
        with _turn:
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
        if not isinstance(error.__cause__, APIError):
            raise
        raise _refusal(wanted, str(error.__cause__.explanation), owner) from error
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


def _in_turn(
    engine: Engine, settings: Settings, wanted: Reference, owner: str, stop: Callable[[], bool]
) -> str:
    what = f"the image {wanted.name} is not pulled"
    deadline = time.monotonic() + LONGEST
    with _turn:
        while _pulling.total() >= AT_ONCE or _pulling[wanted.host] >= OF_REGISTRY:
            _turn.wait(_TICK)
            if stop():
                raise Conflict(f"{what}: that was called off")
            if time.monotonic() > deadline:
                raise Unavailable(f"{what}: others took all the time; it is tried again")
        _pulling[wanted.host] += 1
    try:
        return _pull(engine, settings, wanted, owner, _Bounds(engine, settings, what, stop))
    finally:
        with _turn:
            _pulling[wanted.host] -= 1
            _turn.notify_all()


def _pull(
    engine: Engine, settings: Settings, wanted: Reference, owner: str, bounds: _Bounds
) -> str:
    with engine.asking(bounds.what) as api:
        version = api.api_version
    login = references.credentials_for(settings, wanted, owner)
    headers = {"X-Registry-Auth": encode_header(login or {}).decode(), "Content-Length": "0"}
    digest, fresh = wanted.digest, False
    query = {"fromImage": wanted.place, "tag": wanted.digest or wanted.tag}
    with closing(
        stream.request(engine.url, version, "/images/create", query, method="POST", headers=headers)
    ) as sock:
        for told in _lines(sock, bounds):
            if failed := told.get("error") or told.get("message"):
                raise _refusal(wanted, str(failed), owner)
            bounds.note(told)
            status = str(told.get("status", ""))
            if match := _DIGEST.match(status):
                digest = match[1]
            fresh |= status.startswith("Status: Downloaded newer image")
    pinned = f"{wanted.place}@{digest}"
    if not _id(engine, references.parse(pinned)):
        raise Unavailable(f"{bounds.what}: the engine broke off, or it is gone again: try again")
    if fresh and engine.url == settings.engine_url:
        pulled.note(settings, pinned, wanted.name)
    return pinned


class _Bounds:
    """What a pull may take of time, room and patience."""

    def __init__(
        self, engine: Engine, settings: Settings, what: str, stop: Callable[[], bool]
    ) -> None:
        self.what = what
        self._stop = stop
        self._most = settings.max_image
        self._begun = self._heard = time.monotonic()
        self._layers: dict[str, int] = {}
        """Layer → its compressed bytes, as far as they are known."""
        with engine.asking(what) as api:
            self._disk = Path(str(api.info().get("DockerRootDir") or "/nowhere"))

    def heard(self) -> None:
        self._heard = time.monotonic()

    def note(self, told: dict[str, Any]) -> None:
        """Takes note of one line; raises InvalidRequest once the image is too large."""
        detail = told.get("progressDetail") or {}
        size = max(int(detail.get("total") or 0), int(detail.get("current") or 0))
        layer = str(told.get("id", ""))
        self._layers[layer] = max(self._layers.get(layer, 0), size)
        if sum(self._layers.values()) > self._most:
            raise InvalidRequest(
                f"{self.what}: its layers have more than {self._most // 2**20} MiB "
                "(SLIPWAY_MAX_IMAGE): make it smaller, or have the administrator raise that"
            )

    def check(self) -> None:
        """Raises where the pull has to end."""
        if self._stop():
            raise Conflict(f"{self.what}: that was called off")
        now = time.monotonic()
        if now - self._heard > SILENT or now - self._begun > LONGEST:
            late = f"no answer in {SILENT:g} s" if now - self._heard > SILENT else "it takes long"
            raise Unavailable(
                f"{self.what}: {late}, at most {LONGEST:g} s are allowed: is its registry up?"
            )
        if self._disk.is_dir() and disk.free(self._disk) < ROOM:
            raise Unavailable(
                f"{self.what}: less than {ROOM // 2**20} MiB would be left on the engine's disk "
                f"({self._disk}): make room there"
            )


def _lines(sock: Any, bounds: _Bounds) -> Iterator[dict[str, Any]]:
    """What the engine tells, line by line, until it is through."""
    head, rest = stream.Head(), b""
    while True:
        bounds.check()
        ready, _, _ = select.select([sock], [], [], _TICK)
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
                    raise Unavailable(f"{bounds.what}: the engine told {line[:200]!r}") from error
        if not data:
            return


def _no_name(id_: str) -> NotFound:
    return NotFound(
        f"the image {id_} is not in the engine, and an id says nothing of a registry: deploy it by "
        "its name"
    )


def _refusal(wanted: Reference, told: str, owner: str) -> SlipwayError:
    """By the registry's words, as the engine passes them on."""
    told = told.strip()[:300]
    what = f"the image {wanted.name} cannot be pulled"
    where = f"the registry {wanted.host}" if wanted.host else "the hub, docker.io,"
    if "no space left" in told:
        return Unavailable(f"{what}: the engine's disk is full ({told}): make room there")
    if _OTHER_KIND.search(told):
        return InvalidRequest(
            f"{what}: there is none for this machine's kind of processor ({told}): build it for "
            "that, too"
        )
    if _WRONG.search(told):
        return Unavailable(f"{what}: {where} gave something else than it said ({told})")
    if _REFUSED.search(told):
        # The hub says so of what is not there at all, too.
        login = (
            "anybody may read it"
            if owner or not wanted.host
            else "anybody may read it, or SLIPWAY_REGISTRY_USER where that is SLIPWAY_REGISTRY"
        )
        return NotFound(
            f"{what}: {where} does not give it to us ({told}): check its name, and that {login}"
        )
    if _MISSING.search(told) and "no such host" not in told:
        return NotFound(f"{what}: {where} does not have it ({told}): check its name and tag")
    local = "" if owner else ", or bring the image into the engine with 'docker load'"
    return Unavailable(
        f"{what}: {where} is not reached, or answers wrongly ({told}): try again later{local}"
    )

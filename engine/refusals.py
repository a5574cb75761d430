"""Why an image cannot be had: what an engine says of a pull becomes one of a few reasons of ours.

An engine quotes what its registry answered, and goes wherever that registry sends it, from the
host's own network: those words may be an inside server's. So they go into our own log, and to the
admin, and never to an owner.
"""

from __future__ import annotations

import logging
import re

from core.errors import InvalidRequest, NotFound, SlipwayError, Unavailable
from engine.references import Reference

log = logging.getLogger(__name__)

_MOST = 300
_MISSING = re.compile(r"not found|manifest unknown|unknown manifest|no such image", re.I)
_REFUSED = re.compile(r"denied|unauthorized|authentication required|no basic auth", re.I)
_OTHER_KIND = re.compile(r"no matching manifest|does not match the specified platform", re.I)
_WRONG = re.compile(r"verification failed|invalid digest|digest mismatch|did not match", re.I)


def refusal(wanted: Reference, told: str, owner: str) -> SlipwayError:
    """The error for what the engine ``told``; quoted where there is no ``owner`` alone."""
    told = told.strip()[:_MOST]
    what = f"the image {wanted.name} cannot be pulled"
    where = f"the registry {wanted.host}" if wanted.host else "the hub, docker.io,"
    log.warning("%s: %s", what, ascii(told))
    quoted = "" if owner else f" ({told})"
    if "no space left" in told:
        return Unavailable(f"{what}: the engine's disk is full{quoted}: make room there")
    if _OTHER_KIND.search(told):
        return InvalidRequest(
            f"{what}: there is none for this machine's kind of processor{quoted}: build it for "
            "that, too"
        )
    if _WRONG.search(told):
        return Unavailable(f"{what}: {where} gave something else than it said{quoted}")
    if _REFUSED.search(told):
        # The hub says so of what is not there at all, too.
        login = (
            "anybody may read it"
            if owner or not wanted.host
            else "anybody may read it, or SLIPWAY_REGISTRY_USER where that is SLIPWAY_REGISTRY"
        )
        return NotFound(
            f"{what}: {where} does not give it to us{quoted}: check its name, and that {login}"
        )
    if _MISSING.search(told) and "no such host" not in told:
        return NotFound(f"{what}: {where} does not have it{quoted}: check its name and tag")
    local = "" if owner else ", or bring the image into the engine with 'docker load'"
    return Unavailable(
        f"{what}: {where} is not reached, or answers wrongly{quoted}: try again later{local}"
    )

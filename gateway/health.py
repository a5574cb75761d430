"""Whether the installation works, part by part, and the front page."""

from __future__ import annotations

import msgspec
import redis
from flask import Blueprint, Response
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from core.settings import Settings
from core.store import Store
from gateway.context import here

bp = Blueprint("health", __name__)

OK = "ok"
SECONDS = 1.0
"""The longest wait for the store: who asks for health wants an answer, not patience."""


class Health(msgspec.Struct):
    """Body of ``/healthz``."""

    status: str
    """``ok`` or ``unhealthy``."""
    missing: list[str]
    """Parts that do not answer."""
    parts: dict[str, str]
    """Part → ``ok``, or what is wrong with it."""


@bp.get("/healthz")
def healthz() -> Response:
    """200 when every part answers, else 503 that names those that do not."""
    told = parts(here().settings)
    missing = [part for part, state in told.items() if state != OK]
    body = Health("unhealthy" if missing else OK, missing, told)
    return Response(
        msgspec.json.encode(body),
        503 if missing else 200,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def parts(settings: Settings) -> dict[str, str]:
    """Part → ``ok`` or what is wrong with it."""
    wanted = ["worker", "queue", "reporter", "controller"]
    wanted += ["edge"] if settings.edge != "none" else []
    connection = redis.Redis.from_url(
        settings.store_url,
        socket_timeout=SECONDS,
        socket_connect_timeout=SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    told = {"gateway": OK}
    try:
        store = Store(connection)
        store.ping()
        told["store"] = OK
        for part in wanted:
            told[part] = OK if store.beats(part) else "no sign of life"
    except RedisError as error:
        told["store"] = f"no answer ({type(error).__name__})"
        told |= dict.fromkeys(wanted, "not known: the store does not answer")
    finally:
        connection.close()
    return told


@bp.get("/")
def front() -> Response:
    url = here().settings.user_url
    return Response(
        "This is Slipway: it turns a git push into running functions.\n\n"
        f"  push      git push {url}/git/<namespace>/<repository>.git main\n"
        f"  call      curl {url}/function/<name>.<namespace>\n"
        f"  list      curl -u admin {url}/system/functions\n"
        f"  health    curl {url}/healthz\n",
        content_type="text/plain; charset=utf-8",
    )

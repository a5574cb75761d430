"""What is to be seen without a login where a repository is public at its forge: a release with its
log, and a badge. Of any other release the page is there for who may read it.

    /releases/<id>                           a page: state, functions, the end of the log; where it
                                             is not public, it leads to the one below
    /releases/<id>/log                       the whole log as text, likewise
    /badge/<namespace>/<repository>.svg      state of the newest release, and the live version
    /system/releases/<id>/page               the page for who has signed in
"""

from __future__ import annotations

import base64
import hashlib
from collections import deque
from collections.abc import Iterator

from flask import Blueprint, Response, redirect, render_template_string, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from core import names
from core.errors import NotFound
from core.models import LogLine, Release, State
from core.names import function_url
from core.scopes import Scope
from core.store import Store
from core.store.releases import no_release
from gateway.callers import caller, owners
from gateway.context import Gateway, here
from gateway.progress import printable
from gateway.streams import guarded

bp = Blueprint("public", __name__)

TAIL = 200
"""Lines of a log that the page shows."""
AGAIN = 3
"""Seconds until the page of a release on its way is loaded anew."""
COMMIT_DIGITS = 7
_LOG = "releases.get_log"
"""Where the log of a release is that is not public."""

_STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "pre{background:#f4f4f4;padding:1em;overflow:auto;font-size:13px}"
    "#reason{white-space:pre-line}"
    "td,th{text-align:left;padding:.2em 1em .2em 0;vertical-align:top}"
)
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
{% if moving %}<meta http-equiv="refresh" content="{{ again }}">{% endif %}
<title>{{ release.repository }} {{ release.commit[:7] }}: {{ release.state }}</title>
<style>{{ style }}</style>
<h1>{{ release.namespace }}/{{ release.repository }}</h1>
<p>Release {{ release.id }} of commit <code>{{ release.commit[:12] }}</code> on
{{ release.branch }}: <strong id="state">{{ release.state }}</strong>
{%- if release.reason %}<p id="reason">{{ release.reason }}{% endif %}
<table>
{% for row, url in rows %}
<tr><td>{{ row.name }}<td>{{ row.build }}
<td>{% if url %}<a href="{{ url }}">{{ url }}</a>{% endif %}
{% endfor %}
</table>
<pre>{% for line in lines %}{{ line }}
{% endfor %}</pre>
<p><a href="{{ log }}">The whole log</a>
"""


@bp.get("/releases/<id_>")
def page(id_: str) -> AnyResponse:
    gateway = here()
    release = _public(gateway, id_)
    return _page(gateway, release) if release else _elsewhere(id_)


@bp.get("/system/releases/<id_>/page")
@owners(Scope.READ)
def private_page(id_: str) -> Response:
    gateway = here()
    release = gateway.store.release(names.release_id(id_))
    caller().require(Scope.READ, release.namespace, no_release(id_))
    return _page(gateway, release)


def _page(gateway: Gateway, release: Release) -> Response:
    tail = deque(_log(gateway.store, release), maxlen=TAIL)
    (release,) = gateway.store.answering(gateway.settings, [release])
    base = gateway.store.functions_url(gateway.settings, release.namespace)
    live = release.state in (State.LIVE, State.REPLACED)
    rows = [
        (row, (row.url or function_url(base, row.name, release.namespace)) if live else "")
        for row in release.functions
    ]
    content = render_template_string(
        _PAGE,
        style=_STYLE,
        release=release,
        rows=rows,
        lines=tail,
        moving=not release.settled,
        again=AGAIN,
        log=url_for("public.log" if _public(gateway, release.id) else _LOG, id_=release.id),
    )
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; frame-ancestors 'none'"
    return Response(
        content,
        content_type="text/html; charset=utf-8",
        headers={
            "Content-Security-Policy": f"{policy}; base-uri 'none'",
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        },
    )


@bp.get("/releases/<id_>/log")
def log(id_: str) -> AnyResponse:
    gateway = here()
    release = _public(gateway, id_)
    if release is None:
        return _elsewhere(id_)
    lines = (f"{line}\n".encode() for line in _log(gateway.store, release))
    return Response(
        guarded(lines),
        content_type="text/plain; charset=utf-8",
        headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"},
    )


@bp.get("/badge/<namespace>/<repository>.svg")
def badge(namespace: str, repository: str) -> Response:
    """An image for a README; asked for again each time, as proxies keep images."""
    gateway = here()
    names.namespace(namespace)
    names.repository_name(repository)
    found = gateway.store.find_repository(f"{namespace}/{repository}")
    if found is None or not found.public or found.gone:
        raise NotFound("there is no public repository of that name here")
    text, color = _told(gateway.store, f"{namespace}/{repository}")
    answer = Response(
        render_template_string(_BADGE, text=text, color=color, **_widths(text)),
        content_type="image/svg+xml; charset=utf-8",
        headers={
            "Cache-Control": "no-cache, max-age=0",
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
            "X-Content-Type-Options": "nosniff",
        },
    )
    answer.add_etag()
    answer.make_conditional(request)
    return answer


def _public(gateway: Gateway, id_: str) -> Release | None:
    """None: it is not there, or not for everybody, which is not told apart."""
    names.release_id(id_)
    try:
        release = gateway.store.release(id_)
    except NotFound:
        return None
    found = gateway.store.find_repository(f"{release.namespace}/{release.repository}")
    return release if found and found.public and not found.gone else None


def _elsewhere(id_: str) -> AnyResponse:
    return redirect(url_for("public.private_page", id_=id_), 303)


def _log(store: Store, release: Release) -> Iterator[str]:
    for line in store.follow_log(release.id, follow=False):
        if isinstance(line, LogLine):
            where = " ".join(filter(None, (line.function, line.step)))
            yield printable(f"{line.time[11:19]} {where}: {line.text}")


def _told(store: Store, key: str) -> tuple[str, str]:
    """(text, color) of a badge."""
    newest = store.newest_release(key)
    live = store.live_release(key)
    version = store.release(live).commit[:COMMIT_DIGITS] if live else ""
    if newest is None:
        return "no release", "#777"
    state = newest.state
    if not state.final:
        return " · ".join(filter(None, (str(state), version and f"live {version}"))), "#b27f00"
    if state is State.FAILED:
        return " · ".join(filter(None, ("failed", version and f"live {version}"))), "#c4372b"
    return (f"live {version}", "#2f8132") if version else (str(state), "#777")


_LABEL = "slipway"
_CHARACTER, _MARGIN = 6.6, 12
"""Pixels of an average character of the font at 11 pixels, and around a text."""


def _widths(text: str) -> dict[str, object]:
    left = round(len(_LABEL) * _CHARACTER) + _MARGIN
    right = round(len(text) * _CHARACTER) + _MARGIN
    return {"left": left, "right": right, "label": _LABEL, "margin": _MARGIN}


_BADGE = """<svg xmlns="http://www.w3.org/2000/svg" width="{{ left + right }}" height="20"
 role="img" aria-label="{{ label }}: {{ text }}"><title>{{ label }}: {{ text }}</title>
<rect width="{{ left }}" height="20" fill="#444"/>
<rect x="{{ left }}" width="{{ right }}" height="20" fill="{{ color }}"/>
<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle">
<text x="{{ left / 2 }}" y="14" textLength="{{ left - margin }}">{{ label }}</text>
<text x="{{ left + right / 2 }}" y="14" textLength="{{ right - margin }}">{{ text }}</text>
</g></svg>
"""

"""``/function/<name>[.<namespace>]/…`` where the edge is off or has no route, as to a function
that sleeps: this forwards.

Bodies flow both ways as they come. The function gets method, path and query byte by byte as the
client sent them.
"""

from __future__ import annotations

import http.client
import re
import select
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response, g, request
from flask.blueprints import BlueprintSetupState
from werkzeug.routing import Rule

from core import logging
from core.errors import (
    InvocationTimeout,
    NoEndpoints,
    NotFound,
    NotSupported,
    Unavailable,
    UpstreamFailed,
)
from core.http import Connection, UnclearLength, deadline
from core.models import FunctionRecord, Observed
from core.openfaas import SERVED_BY
from core.patience import USUAL, patience_of
from gateway import problems
from gateway.auth import holds_ours
from gateway.context import FUNCTION_PREFIX, UPGRADE, Gateway, here, raw_target
from gateway.headers import request_headers, response_headers, status_line
from gateway.hosts import OWN_HOST
from gateway.streams import CHUNK, BrokenOff, Pump, content_length, guarded, has_body
from gateway.waking import failure

bp = Blueprint("invoke", __name__)
log = logging.get()

CONNECT_SECONDS = 1.0
FIRST_SIGHT = 1.0
"""Seconds in which the controller tells for the first time where a function answers."""
NEW = 5.0
"""Seconds since a function was made desired in which that is waited for."""
OVERTAKEN = 5.0
"""The same where what answers is not what is desired any more: a controller that was killed at the
switch is back within that."""
LOOK_EVERY = 0.02
"""Seconds between two looks."""
_CALL_ID = re.compile(r"[\x21-\x7e]{1,200}")


def _any_method(state: BlueprintSetupState) -> None:
    # Flask's own rules have a list of methods; functions get every one there is.
    state.app.url_map.add(Rule(FUNCTION_PREFIX, endpoint=f"{bp.name}.function"))
    state.app.view_functions[f"{bp.name}.function"] = invoke


bp.record(_any_method)


def invoke() -> Response:
    """Forwards one request; errors of ours carry ``X-OpenFaaS-Internal: proxy``."""
    gateway = here()
    given = request.headers.get("X-Call-Id", "")
    call_id = given if _CALL_ID.fullmatch(given) else str(uuid.uuid4())
    started = request.headers.get("X-Start-Time", "") if gateway.settings.edge != "none" else ""
    started = started if started.isdecimal() else str(time.time_ns())
    try:
        response = _forward(gateway, request.environ, call_id, started)
    except Exception as error:  # all of them: no answer of ours may pass for the function's
        response = problems.answer(error)
        response.headers["X-OpenFaaS-Internal"] = "proxy"
    response.headers["X-Call-Id"] = call_id
    response.headers["X-Start-Time"] = started
    response.headers["X-Served-By"] = SERVED_BY
    return response


def _forward(gateway: Gateway, environ: dict[str, Any], call_id: str, started: str) -> Response:
    path, mark, query = raw_target(environ).partition("?")
    name, _, rest = path.removeprefix(FUNCTION_PREFIX).partition("/")
    if "." in environ.get(OWN_HOST, ""):
        raise NotFound(
            "there is no function of this host: one label stands before "
            f"{gateway.settings.domain}, as in <namespace>.{gateway.settings.domain}/<function>"
        )
    if (space := environ.get(OWN_HOST)) and gateway.store.hostless(gateway.settings, [space]):
        raise NotFound(
            f"functions of {space} have no host of their own here: call them at "
            f"{gateway.settings.user_url}/function/<name>.{space}"
        )
    if environ.get(OWN_HOST) and name.startswith("."):
        raise NotFound(f"this host has the functions of {name[1:]}: name one, as in /<function>")
    record = gateway.named(name)
    function = record.spec.function
    g.called = function  # what metrics.py counts
    if "websocket" in environ[UPGRADE].lower():
        _refuse_upgrade(gateway, function)
    headers = request_headers(
        environ,
        call_id,
        started,
        scheme=urlsplit(gateway.settings.user_url).scheme,
        behind_edge=gateway.settings.edge != "none",
        is_ours=lambda value: holds_ours(gateway, value),
    )
    with ExitStack() as undo:
        undo.callback(gateway.pools.invocations.take(function, record.spec.namespace))
        undo.callback(gateway.forwarding.begin(function))
        endpoints, patience = _find(gateway, function, record)
        connection = _connect(gateway, function, endpoints, patience)
        undo.callback(connection.close)
        undo.callback(gateway.forwarding.takes(connection.address))
        client = connection.sock
        method = environ["REQUEST_METHOD"]
        pump: Pump | None = None
        try:
            connection.putrequest(
                method, f"/{rest}{mark}{query}", skip_host=True, skip_accept_encoding=True
            )
            for header, value in headers:
                connection.putheader(header, value)
            connection.endheaders()
            if has_body(environ):
                pump = _send_body(environ, client)
                undo.callback(pump.end)
            _await_answer(function, client, pump, patience)
            with deadline(client, patience):
                answer = connection.getresponse()
            undo.callback(answer.close)
        except TimeoutError as error:
            raise InvocationTimeout(f"{function} broke off in the middle of its answer") from error
        except UnclearLength as error:
            raise UpstreamFailed(
                f"{function} answered with a length that is not clear ({error}): it has to send "
                "one, in digits"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            if pump and pump.broken:
                raise BrokenOff("the request's body broke off") from error
            raise UpstreamFailed(
                f"{function} gave no answer ({type(error).__name__}): it may have crashed; see its "
                "logs"
            ) from error
        if answer.status < 200:
            raise UpstreamFailed(f"{function} answered {answer.status}, which nobody asked for")
        response = Response(
            guarded(_body(function, answer)),
            status_line(answer),
            response_headers(
                method,
                answer,
                environ.get("CONTENT_TYPE", ""),
                sandboxed=OWN_HOST not in environ,
            ),
        )
        response.call_on_close(undo.pop_all().close)
    return response


def _refuse_upgrade(gateway: Gateway, function: str) -> None:
    """A connection of another protocol is the edge's to carry; it comes here where nothing answers
    yet. Raises NotSupported, NoEndpoints."""
    if gateway.settings.edge == "none":
        raise NotSupported("WebSockets need the edge: start Slipway with SLIPWAY_EDGE=haproxy")
    gateway.store.rouse(function)
    raise NoEndpoints(f"{function} is being started: connect again in a moment")


def _find(
    gateway: Gateway,
    function: str,
    record: FunctionRecord | None = None,
    refused: frozenset[str] = frozenset(),
) -> tuple[list[str], float]:
    """(its endpoints when last seen, how long it may be silent). One that sleeps is woken.
    ``record``: what was desired of it just now; ``refused``: endpoints that are none.

    Raises:
        NotFound: there is no such function any more.
        NoEndpoints: there is, but nothing healthy to answer.
    """
    record, observed = _seen(gateway, function, record)
    if observed is None or refused.issuperset(observed.endpoints):
        if record.replicas and (failed := failure(record, observed)):
            raise NoEndpoints(failed)
        observed = gateway.waking.wait(function, refused)
    return observed.endpoints, patience_of(record.spec) or USUAL


def _seen(
    gateway: Gateway, function: str, record: FunctionRecord | None = None
) -> tuple[FunctionRecord, Observed | None]:
    """What is desired of it, and what was last seen.

    A release makes a function desired a moment before anybody has seen it, and another revision a
    moment before the routes are told to follow. That moment is waited for, in a place of its own;
    where there is none, what still answers is as good. Where nobody looks any more, nobody waits
    long.

    Raises NotFound: there is no such function.
    """
    begun = time.monotonic()
    with ExitStack() as place:
        waits = False
        while True:
            record = record or gateway.store.function(function)
            if record is None:
                raise NotFound(f"there is no function {function}: see 'slipway list'")
            observed = gateway.store.observed(function)
            if time.monotonic() - begun >= _due(record, observed):
                return record, observed
            if not waits:
                try:
                    place.callback(gateway.pools.waiting.take(function))
                except Unavailable:
                    return record, observed
                waits = True
            time.sleep(LOOK_EVERY)
            record = None


def _due(record: FunctionRecord, observed: Observed | None) -> float:
    """Seconds to wait for the controller to see what is desired; 0 where it has."""
    if observed is None:
        age = time.time() - datetime.fromisoformat(record.created_at).timestamp()
        return FIRST_SIGHT if age < NEW else 0.0
    overtaken = observed.revision and observed.revision != record.spec.revision
    return OVERTAKEN if overtaken and not record.previous else 0.0


def _connect(
    gateway: Gateway, function: str, endpoints: Sequence[str], patience: float
) -> Connection:
    """Connects to the endpoint with the fewest requests of ours; one that refuses is passed over.

    Where all refuse, they ended since the controller looked: as at a release, or before all was
    started again. What takes their place is waited for.

    Raises:
        NotFound, NoEndpoints: as ``_find``; or everything there is refuses.
    """
    tried: set[str] = set()
    while fresh := [address for address in endpoints if address not in tried]:
        for address in gateway.forwarding.least(fresh):
            tried.add(address)
            connection = Connection(address, CONNECT_SECONDS)
            try:
                connection.connect()
            except OSError as error:
                log.info("endpoint_refuses", function=function, reason=str(error))
                continue
            connection.sock.settimeout(patience)
            return connection
        endpoints, _ = _find(gateway, function, refused=frozenset(tried))
    raise NoEndpoints(f"no endpoints available for {function}: all {len(tried)} refuse")


def _send_body(environ: dict[str, Any], client: socket.socket) -> Pump:
    """Carries the body to the function. One that breaks off breaks off there, too."""
    chunked = content_length(environ) is None

    def write(piece: bytes) -> None:
        client.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)

    def close(whole: bool) -> None:
        if not whole:
            client.shutdown(socket.SHUT_RDWR)
        elif chunked:
            client.sendall(b"0\r\n\r\n")

    return Pump(environ, write, close)


def _await_answer(function: str, client: socket.socket, pump: Pump | None, patience: float) -> None:
    """Returns when the function begins to answer; its time runs while nothing is sent to it."""
    moved = -1
    poll = select.poll()
    poll.register(client, select.POLLIN)
    while not poll.poll(patience * 1000):
        if pump is None or not pump.running or pump.moved == moved:
            raise InvocationTimeout(f"{function} did not answer within {patience:g} s")
        moved = pump.moved


def _body(function: str, answer: http.client.HTTPResponse) -> Iterator[bytes]:
    yield b""  # the head goes out: who waits for events sees that it is connected
    while data := answer.read1(CHUNK):
        yield data
    if answer.length:
        raise UpstreamFailed(f"{function} ended {answer.length} bytes too early")

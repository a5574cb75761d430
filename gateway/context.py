"""The Flask application, and what its views share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from flask import Flask, current_app

from core import names
from core.errors import InvalidRequest, NotFound
from core.models import FunctionRecord
from core.settings import Settings
from core.signing import secret_file
from core.store import Store
from core.store.metrics import Tally
from forges import Forge, known
from gateway import hosts
from gateway.bodies import Bodies
from gateway.followers import Followers
from gateway.forwarding import Forwarding
from gateway.pools import Pools
from gateway.pushes import Pushes
from gateway.waking import Waking

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

FUNCTION_PREFIX = "/function/"
ASYNC_PREFIX = "/async-function/"
UPGRADE = "slipway.upgrade"
"""Where a request's ``Upgrade`` header lies in its environ."""


class Gateway(Flask):
    """Settings, store, bounded pools and secrets beside Flask's own things."""

    def __init__(self, settings: Settings, store: Store) -> None:
        super().__init__("gateway", static_folder=None, template_folder=None)
        # A function's path is its own: '//' in it stays. Nothing else of ours has such paths.
        self.url_map.merge_slashes = False
        self.settings = settings
        self.store = store
        self.pools = Pools()
        self.bodies = Bodies(settings.calls)
        self.pushes = Pushes()
        self.forwarding = Forwarding(store)
        self.waking = Waking(store, settings.health_timeout)
        self.rolled_back = threading.Event()
        """Set where a rollback has no branch yet."""
        self.look = threading.Event()
        """Set where a forge is to be asked."""
        self.installed = threading.Event()
        """Set where our GitHub App was just installed, as a browser says."""
        self._forges: dict[str, Forge] = {}
        self.tally = Tally("gateway")
        self.password = secret_file(settings.password_file)
        self.builder_token = secret_file(settings.token_file)
        self.session_key = secret_file(settings.session_key, length=32)
        self.hooks_socket = settings.gateway_socket
        """Where git's hook finds the process that has its push."""
        self.alive: Callable[[], bool] = lambda: True
        """False once this process is told to stop: long streams then end."""
        self.followers = Followers(
            settings.logs, lambda: self.alive(), lambda name: store.function(name) is not None
        )
        self.begin: Callable[[], None] = lambda: None
        """What is to be done once as it starts, beside the first requests."""

    def forge(self, name: str) -> Forge:
        """The client of a forge. Raises as ``forges.known.forge``."""
        if name not in self._forges:
            self._forges[name] = known.forge(self.settings, name)
        return self._forges[name]

    def forget_forge(self, name: str) -> None:
        """The next question is asked by a new client, which reads its token anew."""
        self._forges.pop(name, None)

    def named(self, name: str) -> FunctionRecord:
        """What is desired of the function that a path names. Raises NotFound: there is no such."""
        try:
            function = names.join_function(*names.split_function(name))
        except InvalidRequest as error:
            raise NotFound(f"there is no such function: {error}") from error
        record = self.store.function(function)
        if record is None:
            raise NotFound(f"there is no function {function}: see 'slipway list'")
        return record

    def wsgi_app(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        host = str(environ.get("HTTP_HOST", ""))
        environ[hosts.TROUBLE] = hosts.trouble(host, str(environ.get("RAW_URI", "/")))
        if own := hosts.function_target(host, raw_target(environ), self.settings.domain):
            environ[hosts.OWN_HOST], environ["RAW_URI"] = own
        # Invocations are told by the raw target, as at the edge: a decoded path cannot turn into
        # one, and a function gets every byte of its path.
        for prefix in (FUNCTION_PREFIX, ASYNC_PREFIX):
            if raw_target(environ).startswith(prefix):
                environ["PATH_INFO"] = prefix
        # Routing would refuse it before we can say why.
        environ[UPGRADE] = environ.pop("HTTP_UPGRADE", "")
        return super().wsgi_app(environ, start_response)


def here() -> Gateway:
    """The application of this request. Only views call it; all else gets what it needs."""
    # The object itself, not Flask's proxy: streams outlive their view.
    return cast(Gateway, current_app._get_current_object())  # type: ignore[attr-defined]  # werkzeug hides it


def raw_target(environ: dict[str, Any]) -> str:
    """Path and query as they came, in origin form (RFC 9112 §3.2.1), without a fragment."""
    target = str(environ.get("RAW_URI") or environ.get("REQUEST_URI") or "")
    if not target.startswith("/"):
        parts = urlsplit(target)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return target.partition("#")[0]

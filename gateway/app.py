"""The gateway: settings → store → blueprints → one error handler."""

from __future__ import annotations

from core.settings import Settings
from core.store import Store
from gateway import (
    auth,
    bare,
    functions,
    heads,
    health,
    internal,
    invoke,
    problems,
    releases,
    remote,
    webhooks,
)
from gateway.context import Gateway


def create_app(settings: Settings, store: Store) -> Gateway:
    """Makes the WSGI application.

    Raises:
        ConfigError: the state folder cannot be used.
    """
    app = Gateway(settings, store)
    bare.write_hooks(settings)
    settings.git_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    app.before_request(auth.guard)
    for part in (health, functions, releases, webhooks, remote, internal, invoke):
        app.register_blueprint(part.bp)
    app.register_error_handler(Exception, problems.answer)
    app.begin = lambda: heads.watch(settings, store)
    return app

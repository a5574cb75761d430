"""The gateway: settings → store → blueprints → one error handler."""

from __future__ import annotations

import threading

from core.settings import Settings
from core.store import Store
from gateway import (
    asynchronous,
    auth,
    bare,
    deadletters,
    deploy,
    environments,
    forgehooks,
    functionlogs,
    functions,
    heads,
    health,
    hosts,
    internal,
    invoke,
    looks,
    metrics,
    namespaces,
    openapi,
    origins,
    owners,
    policy,
    previewlist,
    previewwatch,
    problems,
    promotions,
    prune,
    public,
    releases,
    remote,
    rollbackbranch,
    rollbacks,
    schedules,
    sealing,
    secrets,
    setup_github,
    signin,
    system,
    tokens,
    variables,
    webhooks,
    why,
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
    app.before_request(metrics.begin)
    app.before_request(hosts.check)
    app.before_request(auth.guard)
    app.after_request(metrics.count)
    for part in (
        health,
        functions,
        why,
        deploy,
        namespaces,
        system,
        functionlogs,
        releases,
        environments,
        promotions,
        rollbacks,
        schedules,
        secrets,
        sealing,
        setup_github,
        tokens,
        signin,
        variables,
        webhooks,
        forgehooks,
        owners,
        remote,
        internal,
        origins,
        invoke,
        asynchronous,
        deadletters,
        metrics,
        openapi,
        policy,
        previewlist,
        prune,
        public,
    ):
        app.register_blueprint(part.bp)
    app.register_error_handler(Exception, problems.answer)

    def begin() -> None:
        app.waking.start()
        threading.Thread(target=metrics.keep, args=[app], name="metrics", daemon=True).start()
        threading.Thread(
            target=policy.watch, args=[settings, store], name="policy", daemon=True
        ).start()
        threading.Thread(
            target=prune.watch, args=[settings, store], name="prune", daemon=True
        ).start()
        threading.Thread(
            target=previewwatch.watch, args=[app], name="previews", daemon=True
        ).start()
        threading.Thread(
            target=rollbackbranch.watch,
            args=[settings, store, app.rolled_back],
            name="branches",
            daemon=True,
        ).start()
        threading.Thread(target=looks.watch, args=[app], name="looks", daemon=True).start()
        threading.Thread(
            target=environments.watch, args=[settings, store], name="environments", daemon=True
        ).start()
        heads.watch(settings, store)

    app.begin = begin
    return app

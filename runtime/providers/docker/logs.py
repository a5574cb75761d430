"""What all containers write, followed into the logs of their functions."""

from __future__ import annotations

import logging

from core.errors import SlipwayError
from core.logfiles import LogWriter
from core.settings import Settings
from engine.client import Engine
from runtime.providers.docker.follow import Followed, follow, last_time
from runtime.providers.docker.watch import Known
from runtime.providers.output import Output, Source

log = logging.getLogger(__name__)

_REST_SECONDS = 2.0
"""The longest that the last words of a container are waited for."""


class Logs:
    """Of one installation. May be used from several threads."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._settings = settings
        self._engine = engine
        self._output = Output(settings.function_log)

    def follow(self, known: Known, *, final: bool = False) -> None:
        """Begins to read what a container writes, or goes on with it where that is due."""
        id = known.document.id
        if not known.started:
            return
        source = self._output.source(id)
        if final and isinstance(source, Followed):
            source.final = True
        if not self._output.ended(id):
            return
        folder = self._settings.logs / known.document.spec.function
        since = source.last if isinstance(source, Followed) else last_time(folder, id)
        try:
            with self._engine.asking(f"what {id} writes cannot be followed") as api:
                version = api.api_version
            sock = follow(self._engine.url, version, known.container, since)
        except (SlipwayError, OSError) as error:
            log.warning("what %s writes is not followed now: %s", id, error)
            return

        taken = []

        def make(writer: LogWriter) -> Source:
            taken.append(sock)
            made = Followed(id, writer, sock, since)
            made.final = final or known.dead
            return made

        def renew(source: Source) -> None:
            assert isinstance(source, Followed)
            taken.append(sock)
            source.renew(sock)

        try:
            if source is None:
                self._output.add_source(id, folder, make)
            else:
                self._output.resume(id, renew)
        except OSError as error:
            log.warning("what %s writes is lost: %s", id, error)
        finally:
            if not taken:  # another thread was quicker
                sock.close()

    def finish(self, id: str, *, wait: bool = False) -> None:
        """It writes no more; ``wait``: until its last words are read."""
        self._output.finish(id, _REST_SECONDS if wait else 0.0)

    def close(self) -> None:
        self._output.close()

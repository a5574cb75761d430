"""Serves ``handle(req)`` of function/handler.py, with Flask's ``request`` at hand.

The watchdog's threads call Flask as the WSGI application it is (PEP 3333).
"""

import io
import os
import sys
from pathlib import Path
from urllib.parse import unquote_to_bytes

from flask import Flask, request
from slipway_watchdog import loader
from slipway_watchdog.answers import Answer

AT_ONCE = 2**20
"""Bytes of a body up to which it is sent in one piece."""


class Function(Flask):
    """A Flask application that gives every path and method to one handler."""

    def __init__(self, handle):
        # Where render_template looks for the function's templates/.
        super().__init__("function", root_path=str(Path("function").resolve()), static_folder=None)
        self.config["PROPAGATE_EXCEPTIONS"] = True  # to the watchdog, which logs and answers 500
        self._handle = handle
        self._as_text = os.environ.get("RAW_BODY", "").lower() not in ("true", "1")

    def dispatch_request(self):
        result = self._handle(request.get_data(as_text=self._as_text))
        return "" if result is None else result


def environ_of(arrived):
    """The WSGI environment of a request."""
    environ = {
        "REQUEST_METHOD": arrived.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(arrived.raw_path).decode("latin-1"),
        "QUERY_STRING": arrived.query,
        "REQUEST_URI": arrived.target.decode("latin-1"),
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.0" if arrived.http10 else "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",  # the edge; who asked it is in X-Forwarded-For
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(arrived.body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for raw_name, raw_value in arrived.headers:
        if b"_" in raw_name:  # X_Forwarded_For would become the same key as X-Forwarded-For
            continue
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        key = name.upper().replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = f"HTTP_{key}"
        if key in environ:
            value = environ[key] + ("; " if key == "HTTP_COOKIE" else ",") + value
        environ[key] = value
    environ.pop("HTTP_TRANSFER_ENCODING", None)  # the body is whole by now
    environ["CONTENT_LENGTH"] = str(len(arrived.body))
    return environ


def adapt(handle):
    """What the watchdog calls for each request, in a thread."""
    function = Function(handle)

    def invoke(arrived):
        started = []

        def start_response(status, headers, exc_info=None):  # noqa: ARG001 - PEP 3333's signature
            started[:] = [int(status[:3]), headers]

        body = function(environ_of(arrived), start_response)
        status, headers = started
        length = next((value for name, value in headers if name.lower() == "content-length"), None)
        if length is not None and int(length) <= AT_ONCE:
            pieces, body = body, b"".join(body)
            pieces.close()
        return Answer(status, list(headers), body)

    return invoke


if __name__ == "__main__":
    loader.start("handle(req)", adapt)

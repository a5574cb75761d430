"""Serves ``handle(event, context)`` of function/handler.py."""

import os
import socket
from urllib.parse import parse_qsl

from slipway_watchdog import loader
from slipway_watchdog.answers import from_result


class Headers(dict):
    """Names written like Content-Type; asked for in any case."""

    def __getitem__(self, name):
        return super().__getitem__(name.title())

    def __contains__(self, name):
        return isinstance(name, str) and super().__contains__(name.title())

    def get(self, name, default=None):
        return super().get(name.title(), default)


class Query(dict):
    """The first value of each name; ``getlist`` gives all of one."""

    def __init__(self, text):
        self._all = {}
        for name, value in parse_qsl(text, keep_blank_values=True):
            self._all.setdefault(name, []).append(value)
        super().__init__((name, values[0]) for name, values in self._all.items())

    def getlist(self, name):
        return list(self._all.get(name, ()))


class Event:
    """One request: ``body`` (bytes), ``headers``, ``method``, ``query``, ``path``."""

    def __init__(self, request):
        self.body = bytes(request.body)
        self.headers = headers = Headers()
        for raw_name, raw_value in request.headers:
            name, value = raw_name.decode("latin-1").title(), raw_value.decode("latin-1")
            if name in headers:
                value = headers[name] + ("; " if name == "Cookie" else ", ") + value
            headers[name] = value
        self.method = request.method
        self.query = Query(request.query)
        self.path = request.path


class Context:
    """Where the function runs: ``hostname``."""

    hostname = os.environ.get("HOSTNAME") or socket.gethostname()


def adapt(handle):
    """What the watchdog calls for each request, in a thread."""

    def invoke(request):
        return from_result(handle(Event(request), Context()))

    return invoke


if __name__ == "__main__":
    loader.start("handle(event, context)", adapt)

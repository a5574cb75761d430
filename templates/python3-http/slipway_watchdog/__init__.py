"""Serves a Python handler over HTTP the way OpenFaaS' of-watchdog does, in the handler's process.

    loader.py     imports the handler, or says in one line why that cannot be
    options.py    what the environment asks for
    watchdog.py   admits requests, runs them in threads, bounds and counts them, drains
    http1.py      one HTTP/1.1 connection: bytes in, requests out, answers back in order
    request.py    what arrived
    stream.py     an answer's body that comes in pieces
    answers.py    what a handler returned → status, headers, body
    rehearsal.py  one request of nobody, where functions are forked of a warm parent

No web framework and no event loop but uvloop is imported here: that is what starts a function in
a tenth of a second. The name of the package keeps out of the way of PyPI's ``watchdog``.
"""

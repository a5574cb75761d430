def handle(req):
    """Answers one request; req is its body.

    Returns what a Flask view may return. flask.request has the rest of what was asked.
    """
    return f"Hello from Slipway! You sent: {req}"

def handle(event, context):
    """Answers one request.

    event: body (bytes), headers, method, query, path; context: hostname.
    Returns text, bytes, a dict with statusCode, body and headers, or None.
    """
    return {
        "statusCode": 200,
        "body": f"Hello from Slipway! {context.hostname} got {event.method} {event.path}",
        "headers": {"Content-Type": "text/plain"},
    }

"""Greets whoever is named, and shows what of the request a function sees.

curl http://127.0.0.1:8080/function/hello.demo/any/path?name=Ada
"""

import os


def handle(event, context):
    greeting = os.environ.get("GREETING", "Hello")
    name = event.query.get("name") or event.body.decode("utf-8", "replace").strip() or "world"
    return {
        "statusCode": 200,
        "body": {
            "message": f"{greeting}, {name[:100]}!",
            "method": event.method,
            "path": event.path,
            "query": dict(event.query),
            "served by": context.hostname,
        },
    }

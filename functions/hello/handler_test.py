from types import SimpleNamespace

from .handler import handle


def greet(body=b"", **query):
    event = SimpleNamespace(method="GET", path="/", query=query, body=body)
    return handle(event, SimpleNamespace(hostname="here"))["body"]


def test_it_greets_the_world():
    assert greet()["message"] == "Hello, world!"


def test_it_greets_by_name_from_query_or_body():
    assert greet(name="Ada")["message"] == "Hello, Ada!"
    assert greet(b"Grace\n")["message"] == "Hello, Grace!"


def test_it_shows_the_request():
    assert greet(a="1")["query"] == {"a": "1"}
    assert greet()["method"] == "GET"

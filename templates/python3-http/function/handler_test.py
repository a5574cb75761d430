from types import SimpleNamespace

from .handler import handle


def test_it_says_what_it_got():
    event = SimpleNamespace(method="GET", path="/ahoy")

    answer = handle(event, SimpleNamespace(hostname="here"))

    assert answer["statusCode"] == 200
    assert answer["body"].endswith("here got GET /ahoy")

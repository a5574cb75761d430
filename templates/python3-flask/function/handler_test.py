from .handler import handle


def test_it_sends_back_what_it_got():
    assert handle("ahoy").endswith("ahoy")

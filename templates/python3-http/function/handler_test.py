from .handler import handle


def test_it_says_hello():
    answer = handle(event=None, context=None)

    assert answer["statusCode"] == 200
    assert "Hello" in answer["body"]

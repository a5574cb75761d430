"""Every error Slipway raises on purpose.

    SlipwayError
    ├── InvalidRequest            400  bad JSON, bad name, wrong type
    │   └── InvalidStack          400  mistakes of a stack file, all at once, with lines
    ├── BadCredentials            401  signature, password or token
    ├── NotAllowed                403  the caller is known, the deed is not theirs
    ├── NotFound                  404  function, release or repository
    ├── Conflict                  409  claimed name, release already decided
    ├── TooLarge                  413  body, push or context over its bound
    ├── Unprocessable             422  well formed, but a name or value that cannot be
    ├── CheckoutFailed            422  git could not give us the commit
    ├── BuildFailed               422  the user's code: carries the last log lines
    │   └── TestFailed            422  the function's own tests
    ├── NotSupported              501  this provider or version cannot do it
    ├── UpstreamFailed            502  the function broke off or does not speak HTTP
    ├── Unavailable               503  store, edge, engine or registry: a retry can help
    │   └── NoEndpoints           503  the function has nothing healthy to answer
    ├── InvocationTimeout         504  the function took too long
    └── ConfigError               500  settings, missing tools: only at start

A message says what happened, the likely cause and what to do. One handler per process reads
``status`` (HTTP) and ``retryable``; nothing else maps errors to answers.
"""

from __future__ import annotations

from collections.abc import Sequence


class SlipwayError(Exception):
    """Base of all errors made here; derives from Exception so that a worker survives it."""

    status = 500
    retryable = False

    @property
    def title(self) -> str:
        """The class name in words, for ``application/problem+json``."""
        name = type(self).__name__
        return "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip().capitalize()


class InvalidRequest(SlipwayError):
    status = 400


class Mistake:
    """One mistake in a file: what is wrong and in which line (1-based; 0 for the whole file)."""

    __slots__ = ("line", "text")

    def __init__(self, line: int, text: str) -> None:
        self.line = line
        self.text = text

    def __repr__(self) -> str:
        return f"line {self.line}: {self.text}" if self.line else self.text


class InvalidStack(InvalidRequest):
    """All mistakes of a stack file, told at once."""

    def __init__(self, path: str, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = list(mistakes)
        told = "\n".join(f"  {mistake!r}" for mistake in self.mistakes)
        count = len(self.mistakes)
        super().__init__(f"{path} has {count} mistake{'s' if count != 1 else ''}:\n{told}")


class BadCredentials(SlipwayError):
    status = 401


class NotAllowed(SlipwayError):
    status = 403


class NotFound(SlipwayError):
    status = 404


class Conflict(SlipwayError):
    status = 409


class TooLarge(SlipwayError):
    status = 413


class Unprocessable(SlipwayError):
    status = 422


class CheckoutFailed(SlipwayError):
    status = 422


class BuildFailed(SlipwayError):
    """The user's code or files made the build fail.

    ``function`` and ``step`` name where, for the release's reason and the log.
    """

    status = 422

    def __init__(self, message: str, function: str = "", step: str = "") -> None:
        super().__init__(message)
        self.function = function
        self.step = step


class TestFailed(BuildFailed):
    __test__ = False  # pytest collects classes named Test*


class NotSupported(SlipwayError):
    status = 501


class UpstreamFailed(SlipwayError):
    status = 502


class Unavailable(SlipwayError):
    status = 503
    retryable = True


class NoEndpoints(Unavailable):
    pass


class InvocationTimeout(SlipwayError):
    status = 504


class ConfigError(SlipwayError):
    """The installation itself is wrong: a setting, a missing tool, a locked folder."""

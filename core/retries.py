"""When an asynchronous call is tried again, by the annotations of OpenFaaS' paid edition:

    com.openfaas.retry.attempts   how often again (10)
    com.openfaas.retry.codes      statuses of a function's answer, by comma (429,502,500,504,408)
    com.openfaas.retry.min_wait   before the first one (10s)
    com.openfaas.retry.max_wait   the longest (120s)

in brackets what holds where there is none. Waits double, with jitter. What is wrong is told at a
deploy or push; whatever gets past that counts as absent.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from core.quantities import seconds

ATTEMPTS, CODES, MIN_WAIT, MAX_WAIT = (
    f"com.openfaas.retry.{each}" for each in ("attempts", "codes", "min_wait", "max_wait")
)
MOST_ATTEMPTS = 100
LONGEST_WAIT = 24 * 3600.0
_CODES = re.compile(r"[45][0-9]{2}( *, *[45][0-9]{2}){0,49}")


@dataclass(frozen=True)
class Policy:
    """Waits are seconds."""

    attempts: int = 10
    codes: frozenset[int] = frozenset({429, 502, 500, 504, 408})
    min_wait: float = 10.0
    max_wait: float = 120.0

    def wait(self, retry: int, after: float | None = None) -> float:
        """Seconds before the ``retry``-th one (from 1).

        From half to all of what doubles each time, within the bounds; ``after``, which the function
        asked for, up to a tenth longer: not all who were sent away come back at once.
        """
        if after is not None:
            return min(after * random.uniform(1.0, 1.1), self.max_wait)
        longest = min(self.min_wait * 2.0 ** min(retry, 32), self.max_wait)
        return max(random.uniform(longest / 2, longest), self.min_wait)


def policy_of(annotations: Mapping[str, str] | None) -> Policy:
    told = {name: value for name, value in (annotations or {}).items() if is_right(name, value)}
    usual = Policy()
    most = seconds(told[MAX_WAIT]) if MAX_WAIT in told else usual.max_wait
    least = seconds(told[MIN_WAIT]) if MIN_WAIT in told else usual.min_wait
    return Policy(
        attempts=int(told[ATTEMPTS]) if ATTEMPTS in told else usual.attempts,
        codes=frozenset(map(int, told[CODES].split(","))) if CODES in told else usual.codes,
        min_wait=min(least, most),
        max_wait=most,
    )


def is_right(name: str, value: str) -> bool:
    """Whether a value is one that this annotation can have; of others there is nothing to say."""
    if name == ATTEMPTS:
        return re.fullmatch(r"[0-9]{1,3}", value) is not None and int(value) <= MOST_ATTEMPTS
    if name == CODES:
        return _CODES.fullmatch(value) is not None
    if name in (MIN_WAIT, MAX_WAIT):
        try:
            return seconds(value) <= LONGEST_WAIT
        except ValueError:
            return False
    return True


def contradiction(annotations: Mapping[str, str]) -> str:
    """What two annotations that are right have against each other; '' where that is nothing."""
    if not all(is_right(name, annotations.get(name, "0s")) for name in (MIN_WAIT, MAX_WAIT)):
        return ""
    usual = Policy()
    least = annotations.get(MIN_WAIT, "")
    most = annotations.get(MAX_WAIT, "")
    if (seconds(least) if least else 0.0) <= (seconds(most) if most else usual.max_wait):
        return ""
    if not most:
        return f"it is {least}, and the longest wait is {usual.max_wait:g}s: set {MAX_WAIT} as well"
    return f"it is {least}, which is above {MAX_WAIT}, {most}"


def retry_after(value: str) -> float | None:
    """Seconds that a ``Retry-After`` header asks for (RFC 9110 §10.2.3: seconds or an HTTP date);
    None where it says nothing that can be understood."""
    value = value.strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError, TypeError, IndexError):
        return None


RULES = {
    ATTEMPTS: f"write a whole number from 0 to {MOST_ATTEMPTS}",
    CODES: "write statuses from 400 to 599, by comma, as 429,502,503; at most 50",
    MIN_WAIT: "write seconds or a duration such as 10s, at most 24h",
    MAX_WAIT: "write seconds or a duration such as 2m, at most 24h",
}

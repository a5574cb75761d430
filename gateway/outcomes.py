"""What an attempt at an asynchronous call comes to: done, tried again, or failed for good."""

from __future__ import annotations

from dataclasses import dataclass

from core.models import CallState
from core.retries import Policy, retry_after
from gateway.making import Answer

ASKS = (429, 503)
"""Statuses of which ``Retry-After`` counts (RFC 6585 §4, RFC 9110 §15.6.4)."""
SHOWN = 500
"""Characters of an answer of the platform that a reason has."""


@dataclass(frozen=True)
class Outcome:
    state: CallState
    reason: str = ""
    wait: float = 0.0
    """Seconds until it is tried again, where ``state`` is ``queued``."""


def outcome_of(answer: Answer, policy: Policy, retries: int) -> Outcome:
    """``retries``: how often it was tried again before.

    A function's answer counts by its status. Where the platform could not have it made (``5xx``
    of its own: no endpoint, no connection) it is tried again whatever the codes are, and in its own
    time: our ``Retry-After`` is for clients that wait.
    """
    code, ours = answer.status, answer.of_platform and answer.status >= 400
    if not ours and code not in policy.codes:
        return Outcome(CallState.DONE)
    reason = _told(answer) if ours else f"the function answered {code}"
    if answer.hopeless or (ours and code < 500 and code not in policy.codes):
        return Outcome(CallState.FAILED, reason)
    if retries >= policy.attempts:
        tried = f", and {retries} more times" if retries > 1 else ", twice" if retries else ""
        return Outcome(CallState.FAILED, f"{reason}{tried}")
    asked = None
    if not ours and code in ASKS:
        asked = retry_after(answer.header("Retry-After"))
    return Outcome(CallState.QUEUED, reason, policy.wait(retries + 1, asked))


def _told(answer: Answer) -> str:
    text = answer.body.data[: 4 * SHOWN].decode(errors="replace").strip()
    return f"{answer.status}: {text[:SHOWN]}" if text else f"the platform answered {answer.status}"

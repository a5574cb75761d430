"""How many replicas a function has, by OpenFaaS' labels, those of its paid edition included.

| ``com.openfaas.scale.`` | default | meaning |
|---|---|---|
| ``min``, ``max`` | 1; 20, of an alert 5 | the bounds |
| ``factor`` | 10 | per cent of ``max`` that an alert adds (the open edition's gateway) |
| ``type`` | ``capacity`` | what counts as load: requests a second (``rps``), requests that are \
under way (``capacity``), thousandths of a core (``cpu``) |
| ``target`` | 50 | load that one replica is to have |
| ``target-proportion`` | 0.9 | share of it at which another one is started |
| ``down.window`` | 1m | how long fewer have to be enough before there are fewer: at most 5m |
| ``zero`` | ``false`` | whether it sleeps when nobody calls |
| ``zero-duration`` | 15m | after how long |

A function grows by itself where one of ``max``, ``type``, ``target`` and ``target-proportion`` is
set; else what was set by hand stays. Bad values are refused where a function comes from
(``mistakes``); what is there all the same counts as the default.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from core.quantities import seconds

MAX_REPLICAS = 20
"""Of one function, whatever its labels say."""
_PREFIX = "com.openfaas.scale."
MIN, MAX, FACTOR, TYPE, TARGET, PROPORTION, WINDOW, ZERO, IDLE = (
    f"{_PREFIX}{each}"
    for each in (
        "min",
        "max",
        "factor",
        "type",
        "target",
        "target-proportion",
        "down.window",
        "zero",
        "zero-duration",
    )
)
TYPES = ("rps", "capacity", "cpu")
MAX_TARGET = 1_000_000
MAX_WINDOW = 300.0
MAX_IDLE = 7 * 86400.0
_ALERTED_MAX, _FACTOR = 5, 10

Labels = Mapping[str, str] | None
Value = TypeVar("Value")


@dataclass(frozen=True)
class Rule:
    """By what one function is scaled."""

    least: int
    most: int
    grows: bool
    """Whether its load says how many there are."""
    type: str
    target: float
    """Load of one replica at which there shall be another."""
    window: float
    """Seconds."""
    idle: float
    """Seconds without a request after which it sleeps; 0: never."""


def rule(labels: Labels, *, sleeps: bool = False) -> Rule:
    """``sleeps``: whether a function sleeps that does not say."""
    zero = _read(labels, ZERO, str(sleeps), _bool)
    return Rule(
        least=least(labels),
        most=most(labels, MAX_REPLICAS),
        grows=any(each in (labels or {}) for each in (MAX, TYPE, TARGET, PROPORTION)),
        type=_read(labels, TYPE, "capacity", _type),
        target=_read(labels, TARGET, "50", _target) * _read(labels, PROPORTION, "0.9", _share),
        window=_read(labels, WINDOW, "1m", _window),
        idle=_read(labels, IDLE, "15m", _idle) if zero else 0.0,
    )


def least(labels: Labels) -> int:
    """Replicas of a fresh revision, and of one that wakes."""
    return min(max(_read(labels, MIN, "1", _number), 1), MAX_REPLICAS)


def most(labels: Labels, default: int = _ALERTED_MAX) -> int:
    return min(max(_read(labels, MAX, str(default), _number), least(labels)), MAX_REPLICAS)


def deployed(labels: Labels, before: int) -> int:
    """Replicas after a deploy by API: as many as there were, within the labels. What was scaled to
    zero runs again."""
    return min(max(before, least(labels)), most(labels, MAX_REPLICAS))


def alerted(labels: Labels, now: int, *, firing: bool) -> int:
    """Replicas after an alert: while it fires a step more, else the least.

    A factor of 0 turns scaling off; more than ``most``, set by hand, are not taken away by an
    alert that asks for more.
    """
    factor = _read(labels, FACTOR, str(_FACTOR), _factor)
    if not factor:
        return now
    if not firing:
        return least(labels)
    step = math.ceil(most(labels) * factor / 100)
    return max(now, min(now + step, most(labels)))


def for_load(rule: Rule, load: float) -> int:
    """Replicas for the load of all of a function's replicas together: OpenFaaS' formula, where that
    is their number times the load of each, over target times proportion, rounded up."""
    return min(max(math.ceil(round(load / rule.target, 6)), rule.least), rule.most)


def mistakes(labels: Labels) -> Iterator[tuple[str, str]]:
    """(label, what is wrong with it)."""
    labels = labels or {}
    wrong = False
    for name, read in _READERS.items():
        if name in labels:
            try:
                read(labels[name])
            except ValueError as error:
                wrong = True
                yield name, f"is {_shown(labels[name])}: {error}"
    if not wrong and MIN in labels and MAX in labels and int(labels[MIN]) > int(labels[MAX]):
        yield MIN, f"is {labels[MIN]}, which is above {MAX}, {labels[MAX]}"


def warnings(labels: Labels) -> Iterator[tuple[str, str]]:
    """(label, why it has no effect)."""
    for name in labels or ():
        if name.startswith(_PREFIX) and name not in _READERS:
            known = [each.removeprefix(_PREFIX) for each in _READERS]
            near = difflib.get_close_matches(name.removeprefix(_PREFIX)[:80], known, n=1)
            hint = f"did you mean {_PREFIX}{near[0]}?" if near else f"known are {', '.join(known)}"
            yield name, f"has no effect: {hint}"


def _read(labels: Labels, name: str, default: str, read: Callable[[str], Value]) -> Value:
    try:
        return read((labels or {}).get(name, default))
    except ValueError:
        return read(default)


# Readers of values: each raises ValueError, which says what to write.


def _number(text: str) -> int:
    # Not isdigit(): it takes ² and 5,000 digits, of which int() would fail.
    if not re.fullmatch(r"[0-9]{1,4}", text):
        message = f"write a whole number; a function has at most {MAX_REPLICAS} replicas"
        raise ValueError(message)
    return int(text)


def _factor(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text) or int(text) > 100:
        message = "write per cent, from 0 to 100"
        raise ValueError(message)
    return int(text)


def _type(text: str) -> str:
    if text not in TYPES:
        message = f"write one of {', '.join(TYPES)}"
        raise ValueError(message)
    return text


def _target(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= MAX_TARGET:
        message = f"write a whole number from 1 to {MAX_TARGET}"
        raise ValueError(message)
    return int(text)


def _share(text: str) -> float:
    if not re.fullmatch(r"[0-9]{0,3}\.?[0-9]{0,6}", text) or text in ("", "."):
        message = "write a share such as 0.9"
        raise ValueError(message)
    if not 0.01 <= float(text) <= 1:
        message = "write a share from 0.01 to 1"
        raise ValueError(message)
    return float(text)


def _bool(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        message = "write true or false"
        raise ValueError(message)
    return text.lower() in ("true", "1")


def _window(text: str) -> float:
    return _duration(text, 0.0, MAX_WINDOW, "from 0s to 5m")


def _idle(text: str) -> float:
    return _duration(text, 1.0, MAX_IDLE, "from 1s to 168h")


def _duration(text: str, low: float, high: float, told: str) -> float:
    found = seconds(text) if len(text) <= 32 else -1.0
    if not low <= found <= high:
        message = f"write a duration such as 30s or 5m, {told}"
        raise ValueError(message)
    return found


_READERS: Mapping[str, Callable[[str], object]] = {
    MIN: _number,
    MAX: _number,
    FACTOR: _factor,
    TYPE: _type,
    TARGET: _target,
    PROPORTION: _share,
    WINDOW: _window,
    ZERO: _bool,
    IDLE: _idle,
}


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")

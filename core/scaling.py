"""How many replicas a function has, by OpenFaaS' labels.

``com.openfaas.scale.min`` (1), ``.max`` (5) and ``.factor`` (10, in per cent of the maximum) with
the defaults of OpenFaaS' gateway. What is no number counts as its default: a pushed repository may
hold anything.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

MAX_REPLICAS = 20
"""Of one function, whatever its labels say."""
MIN, MAX, FACTOR = (f"com.openfaas.scale.{each}" for each in ("min", "max", "factor"))
_MAX, _FACTOR = 5, 10


def least(labels: Mapping[str, str] | None) -> int:
    """Replicas of a fresh revision."""
    return min(max(_number(labels, MIN, 1), 1), MAX_REPLICAS)


def most(labels: Mapping[str, str] | None, default: int = _MAX) -> int:
    return min(max(_number(labels, MAX, default), least(labels)), MAX_REPLICAS)


def deployed(labels: Mapping[str, str] | None, before: int) -> int:
    """Replicas after a deploy by API: as many as there were, within the labels. What was scaled to
    zero runs again."""
    return min(max(before, least(labels)), most(labels, MAX_REPLICAS))


def alerted(labels: Mapping[str, str] | None, now: int, *, firing: bool) -> int:
    """Replicas after an alert: while it fires a step more, else the least.

    A factor of 0 turns scaling off; more than ``most``, set by hand, are not taken away by an
    alert that asks for more.
    """
    factor = min(_number(labels, FACTOR, _FACTOR), 100)
    if not factor:
        return now
    if not firing:
        return least(labels)
    step = math.ceil(most(labels) * factor / 100)
    return max(now, min(now + step, most(labels)))


def is_number(text: str) -> bool:
    """Not isdigit(): it takes ² and 5,000 digits, of which int() would fail."""
    return re.fullmatch(r"[0-9]{1,9}", text) is not None


def _number(labels: Mapping[str, str] | None, name: str, default: int) -> int:
    text = (labels or {}).get(name, "")
    return int(text) if is_number(text) else default

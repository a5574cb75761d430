"""Sizes, CPUs and durations as people write them, in settings as in stack files."""

from __future__ import annotations

import math
import re

_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SIZES |= {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_MAX_SIZE = 2**50
"""Bytes; engines count in 63 bits, and no machine has that much."""
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_NUMBER = r"[0-9]{1,18}(?:\.[0-9]{1,18})?"
"""Neither other scripts' digits nor so many that they overflow."""
_QUANTITY = rf"(?:{_NUMBER}|\.[0-9]{{1,18}}|[0-9]{{1,18}}\.)"
_SMALL = {"n": -9, "u": -6, "m": -3, "": 0, None: 0}


def size(text: str) -> int:
    """``128Mi``, ``1G``, ``65536``, ``1e9`` → bytes, as Kubernetes writes quantities."""
    number = rf"({_QUANTITY})(?:e([+-]?[0-9]{{1,2}})|\s*([kmgt]i?)?b?)"
    match = re.fullmatch(number, text.strip().lower())
    value = float(f"{match[1]}e{match[2] or 0}") * _SIZES[match[3] or ""] if match else math.inf
    if value > _MAX_SIZE:
        message = "write a size such as 512Mi or 1G, at most 1024Ti"
        raise ValueError(message)
    return int(value)


def size_text(value: int) -> str:
    """Bytes as ``size`` reads them: 268435456 → ``256Mi``."""
    for unit, factor in (("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10)):
        if value and value % factor == 0:
            return f"{value // factor}{unit}"
    return str(value)


def cpus(text: str) -> float:
    """``0.5``, ``2``, ``500m``, ``1e-1`` → CPUs, as Kubernetes writes quantities."""
    match = re.fullmatch(rf"({_QUANTITY})(?:[eE]([+-]?[0-9]{{1,2}})|([num]?))", text.strip())
    value = float(f"{match[1]}e{match[2] or _SMALL[match[3]]}") if match else 0.0
    if not 0 < value <= 1024:
        message = "write CPUs such as 0.5 or 500m"
        raise ValueError(message)
    return value


def seconds(text: str) -> float:
    """``30``, ``30s``, ``500ms``, ``1m30s`` → seconds, as OpenFaaS reads durations."""
    text = text.strip()
    if not re.fullmatch(rf"{_NUMBER}|(?:{_NUMBER}(?:ms|s|m|h)){{1,4}}", text):
        message = "write seconds or a duration such as 30s or 1m30s"
        raise ValueError(message)
    parts = re.findall(rf"({_NUMBER})(ms|s|m|h|)", text)
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)

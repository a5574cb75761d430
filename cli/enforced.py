"""What this machine's sandbox bounds, for ``slipway config`` and ``doctor``."""

from __future__ import annotations

from core.errors import SlipwayError
from core.settings import Settings


def enforced(settings: Settings) -> dict[str, str]:
    """Bound → what enforces it; starts one small sandbox to find out."""
    from core.sandbox import Sandbox

    try:
        return Sandbox.from_settings(settings).enforced()
    except SlipwayError as error:
        return {"sandbox": f"NONE: {error}"}

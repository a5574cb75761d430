"""What functions may not do to the origin that they share with /system, at edge and gateway.

A function on a host of its own (``SLIPWAY_DOMAIN``) is an origin of its own and may do all of it,
but for Slipway's own cookies, which it could set for the parent domain. Others pass everywhere, as
functions with a login live on them. Slipway's own have paths that browsers send to no function
(gateway/sessions.py).
"""

from __future__ import annotations

SANDBOX = "sandbox allow-scripts allow-forms allow-popups allow-downloads"
"""Content-Security-Policy of what functions answer: their pages get an origin of their own. On
every answer, not on text/html alone: browsers guess types, and SVG and XML run scripts too."""

OF_THE_WHOLE = (
    "alt-svc",
    "clear-site-data",
    "nel",
    "public-key-pins",
    "public-key-pins-report-only",
    "report-to",
    "reporting-endpoints",
    "service-worker-allowed",
    "strict-transport-security",
)
"""Headers of an answer, in lower case, that browsers keep for the whole origin whatever page sent
them: one function would close, redirect or watch all others and /system. They are deleted."""

OUR_COOKIES = r"[\s=]*slipway-"
"""What Slipway's own cookies begin with in ``Set-Cookie``: no function signs somebody in. A cookie
without a name is sent as its value alone: ``=slipway-session=…`` comes back as one of ours."""

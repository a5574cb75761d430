"""Every operation of the API."""

from __future__ import annotations

from gateway.openapi import access, deadletters, forges, functions, installation, releases, values

OPERATIONS = [
    *functions.functions(),
    *values.secrets(),
    *values.sealing(),
    *values.namespaces(),
    *values.variables(),
    *access.policy(),
    *access.tokens(),
    *access.signing_in(),
    *releases.releases(),
    *releases.previews(),
    *releases.public(),
    *functions.calls(),
    *deadletters.dead_letters(),
    *installation.system(),
    *forges.forges(),
    *forges.setup(),
]

"""The certificates that our clients of HTTPS trust: this machine's, as git does, where ``requests``
by itself has a list of its own, in which no authority of a company is."""

from __future__ import annotations

import os
import re
import ssl
from pathlib import Path


def trusted() -> str | bool:
    """For ``requests.Session.verify``. REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE come before it,
    SSL_CERT_FILE and SSL_CERT_DIR are in it; on a machine without certificates it is the list that
    ``requests`` has."""
    found = ssl.get_default_verify_paths()
    folder = found.capath if found.capath and any(Path(found.capath).glob("*.0")) else None
    named = folder if os.environ.get("SSL_CERT_DIR") and not os.environ.get("SSL_CERT_FILE") else ""
    return named or found.cafile or folder or True


def distrust(error: Exception) -> str:
    """What is wrong with the certificate that an error is about, in OpenSSL's words, and what to
    do; '': it is about another thing."""
    said = re.search(r"verify failed: (.+?) \(_ssl", str(error))
    return (
        f"its certificate is not trusted: {said[1].rstrip('.')}; a private authority's belongs "
        "among this machine's, or is named by SSL_CERT_FILE where Slipway is started"
        if said
        else ""
    )

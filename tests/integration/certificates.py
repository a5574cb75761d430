"""Certificates of a private authority, for tests of TLS."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme

HOST = "fn.example.com"


def issue(authority: trustme.CA, path: Path, *names: str, **more: object) -> bytes:
    """Writes certificate, chain and key as an operator would; returns the certificate, as DER."""
    made = authority.issue_cert(*(names or (HOST, f"*.{HOST}")), **more)  # type: ignore[arg-type]
    chain = b"".join(blob.bytes() for blob in made.cert_chain_pems)
    draft = path.with_suffix(".new")
    draft.write_bytes(b"friendlyName: slipway\n" + chain + b"\n" + made.private_key_pem.bytes())
    draft.replace(path)
    return ssl.PEM_cert_to_DER_cert(made.cert_chain_pems[0].bytes().decode())


def context(authority: trustme.CA, *protocols: str) -> ssl.SSLContext:
    made = ssl.create_default_context()
    authority.configure_trust(made)
    made.set_alpn_protocols(list(protocols))
    return made

"""The edge's certificate: the operator's file, checked; a copy that HAProxy reads; its renewal.

HAProxy knows a certificate by its path, and in compose sees no file of the operator's: so it reads
a copy in the edge's folder. ``Renewal`` looks at the operator's file while HAProxy runs and hands
over what is new by the admin socket: no connection notices (management.txt of HAProxy 2.8, "set ssl
cert"). The copy is written after that, so that what is cut off in between is done again.
"""

from __future__ import annotations

import os
import re
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from core import logging
from core.errors import ConfigError, Unavailable
from core.settings import Settings
from runtime.edge import config
from runtime.edge.admin import AdminSocket

SOON = 14 * 86400.0
"""Seconds before a certificate's end from which on it is warned of."""
MAX_PAYLOAD = 14_000
"""Bytes that HAProxy takes by its admin socket: its buffer holds 16 kB, more brings it down."""
LOOK = 1.0
"""Seconds between two looks at the file."""

_BLOCK = re.compile(
    r"-----BEGIN ([A-Z0-9 ]+)-----\s(?:(?!-----BEGIN).)*?-----END \1-----", re.DOTALL
)
_ADVICE = "write the certificate, its chain and its key into one file: cat fullchain.pem key.pem"

log = logging.get()


@dataclass(frozen=True)
class Certificate:
    """One that can be served now."""

    pem: str
    """Certificate, chain and key, without blank lines and anything else."""
    names: tuple[str, ...]
    not_after: float
    """Unix time."""

    def covers(self, host: str) -> bool:
        wildcard = "*." + host.partition(".")[2]
        return any(name.lower() in (host, wildcard) for name in self.names)

    def concerns(self, settings: Settings) -> list[str]:
        """What an operator should look after before users complain."""
        told = []
        if self.not_after - time.time() < SOON:
            told.append(f"the certificate ends on {_day(self.not_after)}: renew it")
        for host in (settings.domain, f"*.{settings.domain}") if settings.domain else ():
            if not self.covers(host):
                told.append(f"the certificate is not for {host}: it names {', '.join(self.names)}")
        return told


def read(path: Path) -> Certificate:
    """Reads and checks the operator's file.

    Raises:
        ConfigError: it cannot be read or served; says what is wrong with it.
    """
    setting = f"SLIPWAY_TLS_CERT={path}"
    try:
        text = path.read_bytes().decode("ascii", "replace")
    except IsADirectoryError:
        raise ConfigError(f"{setting} is a folder: {_ADVICE}") from None
    except OSError as error:
        raise ConfigError(f"{setting} cannot be read: {error.strerror}") from error
    blocks = [(found[1], found[0]) for found in _BLOCK.finditer(text)]
    chain = [block for kind, block in blocks if kind == "CERTIFICATE"]
    key = [block for kind, block in blocks if kind.endswith("PRIVATE KEY")]
    if not chain or not key:
        missing = "certificate" if not chain else "private key"
        raise ConfigError(f"{setting} has no {missing} in it: {_ADVICE}")
    if "ENCRYPTED" in key[0]:
        raise ConfigError(
            f"{setting}: its key has a passphrase, which nobody could give at a start: take it "
            "away with openssl pkey, and let only this user read the file"
        )
    pem = "\n".join(line for line in "\n".join([*chain, key[0]]).splitlines() if line.strip())
    try:
        names, not_after = _served(pem, chain[0])
    except ssl.SSLCertVerificationError as error:
        raise ConfigError(f"{setting} is not taken by clients: {error.verify_message}") from error
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).replace("_", " ").lower()
        if "mismatch" in reason:
            reason = "the key is not that of the first certificate in it"
        raise ConfigError(f"{setting} cannot be used: {reason}") from error
    return Certificate(pem, names, not_after)


def write_copy(path: Path, pem: str) -> None:
    """Writes it where HAProxy reads it, for this user alone."""
    draft = path.with_suffix(f".{os.getpid()}")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    draft.write_text(pem + "\n")
    draft.replace(path)


class Renewal:
    """Follows the operator's file while HAProxy runs."""

    def __init__(self, settings: Settings, admin: AdminSocket) -> None:
        self._settings = settings
        self._admin = admin
        self._seen: tuple[int, ...] = ()
        """Of the file's version that was dealt with."""
        self._looked = 0.0

    def look(self) -> None:
        """Hands HAProxy a certificate that is new; called as often as one likes. What is wrong
        with it is logged once, and the one before is served on."""
        source = self._settings.tls_cert
        if source is None or time.monotonic() - self._looked < LOOK:
            return
        self._looked = time.monotonic()
        try:
            found = source.stat()
            version: tuple[int, ...] = (found.st_mtime_ns, found.st_size, found.st_ino)
        except OSError:
            version = (0,)
        if version == self._seen:
            return
        try:
            self._renew(read(source))
        except ConfigError as error:
            log.warning("tls_certificate_refused", reason=str(error))
        except (Unavailable, OSError) as error:
            log.warning("tls_certificate_not_renewed", reason=str(error))
            return  # tried again
        self._seen = version

    def _renew(self, certificate: Certificate) -> None:
        copy = config.certificate(self._settings)
        with suppress(OSError):
            if copy.read_text().strip() == certificate.pem:
                return
        ends = _day(certificate.not_after)
        if len(certificate.pem) > MAX_PAYLOAD:
            log.warning("tls_certificate_waits", reason="over 14 kB: served from the next start on")
        else:
            self._hand_over(copy, certificate.pem)
            log.info("tls_certificate_renewed", names=certificate.names, ends=ends)
        write_copy(copy, certificate.pem)

    def _hand_over(self, copy: Path, pem: str) -> None:
        told = self._admin.send(f"set ssl cert {copy}", pem, most=MAX_PAYLOAD)
        if "created" not in told and "updated" not in told:
            raise Unavailable(f"the edge does not take the certificate: {told.strip()!r}")
        told = self._admin.send(f"commit ssl cert {copy}")
        if "Success" not in told:
            self._admin.send(f"abort ssl cert {copy}")
            raise Unavailable(f"the edge does not use the certificate: {told.strip()!r}")


def _served(pem: str, leaf: str) -> tuple[tuple[str, ...], float]:
    """Shakes hands with itself in memory, trusting that one certificate: what comes through is
    complete, fits its key and is valid now. Returns its names and its end.

    Raises:
        ssl.SSLError: it does not.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    memory = os.memfd_create("certificate", os.MFD_CLOEXEC)  # the module only reads files
    try:
        with open(memory, "w", closefd=False) as file:
            file.write(pem + "\n")
        server.load_cert_chain(f"/proc/self/fd/{memory}", password=lambda: "")
    finally:
        os.close(memory)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cadata=leaf + "\n")
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server)
    for side in (theirs, ours, theirs, ours):
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    told = theirs.getpeercert() or {}
    names = [str(pair[1]) for pair in told.get("subjectAltName", ())]
    return tuple(names), float(ssl.cert_time_to_seconds(str(told["notAfter"])))


def _day(moment: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(moment))

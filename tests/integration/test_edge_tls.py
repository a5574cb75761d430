"""TLS at the edge: what a client gets, HTTP/2 included, and how a certificate is renewed."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from structlog.testing import capture_logs
from websockets.sync.client import connect

from core.errors import ConfigError
from core.settings import Settings
from runtime.edge import Route, config, tls
from tests.integration.certificates import HOST, context, issue
from tests.integration.edge_harness import Proxy, websocket_function

LOCKED = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n"
"""How a key of the traditional form begins that has a passphrase (RFC 1421 §4.6.1.1)."""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def proxy(short_tmp: Path, authority: trustme.CA) -> Iterator[Proxy]:
    cert = short_tmp / "cert.pem"
    issue(authority, cert)
    proxy = Proxy(
        Settings.from_env(
            {
                "SLIPWAY_STATE": str(short_tmp / "s"),
                "SLIPWAY_TLS_CERT": str(cert),
                "SLIPWAY_DOMAIN": HOST,
            }
        )
    )
    yield proxy
    proxy.close()


def dial(proxy: Proxy, trust: ssl.SSLContext, host: str = HOST) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", proxy.port), 10)
    return trust.wrap_socket(plain, server_hostname=host)


def ask(client: ssl.SSLSocket, target: str, host: str = HOST) -> bytes:
    client.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    return b"".join(iter(lambda: client.recv(65536), b""))


# One connection.


def test_the_port_speaks_tls_of_today(proxy: Proxy, authority: trustme.CA) -> None:
    function = proxy.function("f")
    proxy.route({"f.ann": function})
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        trust = context(authority)
        trust.minimum_version = trust.maximum_version = version
        with dial(proxy, trust) as client:
            cipher = (client.cipher() or ("",))[0]
            assert cipher.startswith(("ECDHE-", "TLS_"))
            told = ask(client, "/function/f.ann/x")
        assert b'"server": "f"' in told
        assert b'["x-forwarded-proto", "https"]' in told
        assert b"strict-transport-security" not in told.lower()
    with dial(proxy, context(authority), f"ann.{HOST}") as client:
        assert b'"path": "/x"' in ask(client, "/f/x", f"ann.{HOST}")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
@pytest.mark.parametrize("weak", ["AES128-SHA", "ECDHE-ECDSA-AES128-SHA", "TLS 1.1"])
def test_what_is_weak_is_refused(proxy: Proxy, authority: trustme.CA, weak: str) -> None:
    trust = context(authority)
    if weak == "TLS 1.1":
        trust.minimum_version = ssl.TLSVersion.TLSv1_1
        trust.maximum_version = ssl.TLSVersion.TLSv1_1
        trust.set_ciphers("DEFAULT:@SECLEVEL=0")
    else:
        trust.maximum_version = ssl.TLSVersion.TLSv1_2
        trust.set_ciphers(f"{weak}:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        dial(proxy, trust)


def test_plain_http_there_is_closed_and_on_loopback_it_is_for_ourselves(proxy: Proxy) -> None:
    proxy.route({"f.ann": proxy.function("f")})
    request = b"GET /function/f.ann HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    with suppress(ConnectionResetError):
        assert proxy.raw(request) == b""
    told = proxy.raw(
        request.replace(b"Host: a", b"Host: a\r\nX-Forwarded-Proto: https"), proxy.local_port
    )
    assert b'["x-forwarded-proto", "http"]' in told, "it came without TLS, whatever is claimed"


def test_a_websocket_passes(proxy: Proxy, authority: trustme.CA) -> None:
    with websocket_function(proxy.settings.run / "w.sock") as endpoint:
        proxy.edge.apply({"f.ann": Route("r", [endpoint])})
        plain = socket.create_connection(("127.0.0.1", proxy.port), 60)
        url = f"wss://{HOST}/function/f.ann/chat"
        trusted = context(authority)
        # A busy machine takes more than the ten seconds that the client has by itself.
        with connect(url, sock=plain, ssl=trusted, server_hostname=HOST, open_timeout=60) as client:
            client.send("hello")
            assert client.recv(60) == "/chat: hello"


# Renewal.


def served(proxy: Proxy, authority: trustme.CA) -> bytes:
    with dial(proxy, context(authority)) as client:
        return client.getpeercert(binary_form=True) or b""


def renew(proxy: Proxy) -> None:
    proxy.edge._renewal._looked = 0.0  # it looks once a second
    proxy.edge.tick()


def test_a_new_certificate_is_served_and_nobody_notices(
    proxy: Proxy, authority: trustme.CA
) -> None:
    proxy.route({"f.ann": proxy.function("f")})
    cert = proxy.settings.tls_cert
    assert cert
    renew(proxy)
    before = served(proxy, authority)
    with dial(proxy, context(authority)) as old:
        fresh = issue(authority, cert)
        assert served(proxy, authority) == before, "nobody has looked yet"
        renew(proxy)
        assert served(proxy, authority) == fresh != before
        assert b'"server": "f"' in ask(old, "/function/f.ann"), "the old connection lives on"
    # One that is started anew has it, too; and its copy is for nobody else.
    proxy.process.kill()
    proxy.process.wait()
    proxy.start()
    assert served(proxy, authority) == fresh
    assert config.certificate(proxy.settings).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("wrong", ["torn", "gone", "expired"])
def test_what_cannot_be_served_does_not_replace_what_is(
    proxy: Proxy, authority: trustme.CA, wrong: str
) -> None:
    cert = proxy.settings.tls_cert
    assert cert
    proxy.route({"f.ann": proxy.function("f")})
    before = served(proxy, authority)
    if wrong == "gone":
        cert.unlink()
    elif wrong == "torn":
        cert.write_bytes(cert.read_bytes()[:-300])
    else:
        issue(authority, cert, not_after=datetime.now(UTC) - timedelta(days=1))
    with capture_logs() as logs:
        renew(proxy)
        renew(proxy)
    assert [each["event"] for each in logs] == ["tls_certificate_refused"], "once"
    assert served(proxy, authority) == before
    fresh = issue(authority, cert)
    renew(proxy)
    assert served(proxy, authority) == fresh


def test_the_longest_chain_that_is_sent_does_no_harm(proxy: Proxy, authority: trustme.CA) -> None:
    """Beyond its buffer's size a payload brings HAProxy down."""
    cert = proxy.settings.tls_cert
    assert cert
    proxy.route({"f.ann": proxy.function("f")})
    for most in (tls.MAX_PAYLOAD, 60_000):
        fresh = issue(authority, cert)
        text = cert.read_text()
        extra = authority.cert_pem.bytes().decode()
        key = text.index("-----BEGIN", text.rindex("END CERTIFICATE"))
        many = (most - len(text)) // len(extra)
        cert.write_text(text[:key] + extra * many + text[key:])
        with capture_logs() as logs:
            renew(proxy)
        before, now = fresh, served(proxy, authority)
        if most == tls.MAX_PAYLOAD:
            assert now == before
            assert len(config.certificate(proxy.settings).read_text()) > most - 2 * len(extra)
        else:
            assert now != before
            assert logs[0]["event"] == "tls_certificate_waits"
    assert proxy.process.poll() is None
    proxy.process.kill()
    proxy.process.wait()
    proxy.start()
    assert served(proxy, authority) == fresh, "a new start reads what is too large to be sent"


# The operator's file.


def test_a_file_that_cannot_be_served_says_why(tmp_path: Path, authority: trustme.CA) -> None:
    path = tmp_path / "cert.pem"
    issue(authority, path)
    good = path.read_text()
    other = tmp_path / "other.pem"
    issue(authority, other)
    key = good.index("-----BEGIN", good.rindex("END CERTIFICATE"))
    foreign = other.read_text()
    their_key = foreign[foreign.index("-----BEGIN", foreign.rindex("END CERTIFICATE")) :]
    day, now = timedelta(days=1), datetime.now(UTC)
    issue(authority, other, not_after=now - day)
    expired = other.read_text()
    issue(authority, other, not_before=now + day, not_after=now + 2 * day)
    early = other.read_text()
    for text, told in (
        ("", "no certificate"),
        (good[:key], "no private key"),
        (good[key:], "no certificate"),
        (good[:key] + their_key, "the key is not that of the first certificate"),
        (expired, "has expired"),
        (early, "not yet valid"),
        (good.replace("MII", "MIJ"), "cannot be used"),
        (good.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"), "passphrase"),
        (good.replace("PRIVATE KEY-----\n", f"PRIVATE KEY-----\n{LOCKED}", 1), "passphrase"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=told) as error:
            tls.read(path)
        assert str(path) in str(error.value)
    for broken, told in ((tmp_path, "is a folder"), (tmp_path / "no", "cannot be read: No such")):
        with pytest.raises(ConfigError, match=told):
            tls.read(broken)
    path.write_text(good)
    read = tls.read(path)
    assert read.names == (HOST, f"*.{HOST}")
    assert "friendlyName" not in read.pem


def test_what_an_operator_should_look_after_is_told(tmp_path: Path, authority: trustme.CA) -> None:
    path = tmp_path / "cert.pem"
    settings = Settings.from_env({"SLIPWAY_DOMAIN": HOST, "SLIPWAY_TLS_CERT": str(path)})
    issue(authority, path)
    assert tls.read(path).concerns(settings) == []
    issue(authority, path, HOST, not_after=datetime.now(UTC) + timedelta(days=3))
    ends, names = tls.read(path).concerns(settings)
    assert "renew it" in ends
    assert f"not for *.{HOST}" in names

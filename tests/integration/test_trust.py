"""A forge, and a policy's URL, whose certificate is of an authority of one's own."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from core.errors import Unavailable
from core.trust import trusted
from forges.api import Api, Later
from gateway.policysources import Url
from tests.integration.gateway.calls import Callbacks


def test_the_machines_certificates_are_trusted_and_a_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    authority, served = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(served)
    with Callbacks(tls=served) as server:
        url = f"https://localhost:{server.port}"
        for distrusted in (
            lambda: Api(url, "GitLab").ask("GET", "/"),
            lambda: Url(f"{url}/policy.yml").read(""),
        ):
            with pytest.raises((Later, Unavailable), match=r"get local issuer.*SSL_CERT_FILE"):
                distrusted()
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert Api(url, "GitLab").ask("GET", "/").status == 200
        assert Url(f"{url}/policy.yml").read("")


def test_without_any_the_list_of_requests_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert trusted() is True
    (tmp_path / "002c0b4f.0").touch()
    assert trusted() == str(tmp_path)


def test_a_folder_that_is_named_alone_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "002c0b4f.0").touch()
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert trusted() == str(tmp_path)

"""A platform whose port speaks TLS, with hosts of their own for functions: push, call, command."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from core.settings import ROOT
from tests.e2e.platform import Platform, fresh_folder, handler, running, stack
from tests.integration.abuse import status
from tests.integration.certificates import context, issue
from tests.waiting import until

DOMAIN = "localhost"
NAMES = (DOMAIN, f"*.{DOMAIN}", "sue.localhost")
"""Clients take no wildcard for a domain of one label."""


@dataclass
class Secured:
    platform: Platform
    authority: trustme.CA
    cert: Path
    ca_file: Path

    @property
    def url(self) -> str:
        return f"https://{DOMAIN}:{self.platform.port}"

    def ask(self, host: str, target: str) -> bytes:
        with self.dial(host) as client:
            head = f"GET {target} HTTP/1.1\r\nHost: {host}:{self.platform.port}\r\n"
            client.sendall(f"{head}Connection: close\r\n\r\n".encode())
            return b"".join(iter(lambda: client.recv(65536), b""))

    def dial(self, host: str = DOMAIN) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.platform.port), 20)
        return context(self.authority).wrap_socket(plain, server_hostname=host)

    def command(self, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
        """The command line client, as somebody elsewhere runs it: who knows nothing but these."""
        known = {"SLIPWAY_ADMIN_PASSWORD_FILE": str(self.platform.settings.password_file)}
        return subprocess.run(
            [sys.executable, "-m", "cli.main", *argv],
            cwd=ROOT,
            env={"PATH": "/usr/bin:/bin", "HOME": "/nowhere", **known, **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture(scope="module")
def secured() -> Iterator[Secured]:
    with fresh_folder() as folder:
        authority = trustme.CA()
        cert, ca_file = folder / "cert.pem", folder / "ca.pem"
        authority.cert_pem.write_to_path(str(ca_file))
        issue(authority, cert, *NAMES)
        with running(folder, SLIPWAY_TLS_CERT=str(cert), SLIPWAY_DOMAIN=DOMAIN) as up:
            yield Secured(up, authority, cert, ca_file)


def test_a_push_over_tls_goes_live_at_hosts_of_its_own(secured: Secured) -> None:
    up = secured.platform
    repository = up.repository("sue", "fns")
    repository.commit({"stack.yml": stack("hi"), "hi/handler.py": handler("hi there")})
    remote = f"https://admin:{up.password}@{DOMAIN}:{up.port}/git/sue/fns.git"
    pushed = repository.git(
        "-c", f"http.sslCAInfo={secured.ca_file}", "push", remote, "HEAD:main", check=False
    )
    assert "slipway: live" in pushed.stderr, pushed.stderr + up.logs()
    assert f"hi: https://sue.{DOMAIN}:{up.port}/hi" in pushed.stderr
    by_host = secured.ask(f"sue.{DOMAIN}", "/hi")
    assert by_host.endswith(b"hi there")
    assert b"content-security-policy" not in by_host.lower()
    by_path = secured.ask(DOMAIN, "/function/hi.sue")
    assert by_path.endswith(b"hi there")
    assert b"content-security-policy" in by_path.lower()
    assert status(secured.ask(f"sue.{DOMAIN}", "/system/functions")) == 404
    assert status(secured.ask(DOMAIN, "/system/functions")) == 401
    assert "WARNING" not in up.output(), up.output()


def test_the_command_line_trusts_whom_it_is_told_to(secured: Secured) -> None:
    done = secured.command("--url", secured.url, "list", SLIPWAY_CA_FILE=str(secured.ca_file))
    assert done.returncode == 0, done.stderr
    assert "FUNCTION" in done.stdout
    done = secured.command("--url", secured.url, "list")
    assert done.returncode == 1
    assert "is not trusted: " in done.stderr
    assert "SLIPWAY_CA_FILE" in done.stderr
    here = secured.platform.slipway("list")  # with the settings of `slipway up`
    assert here.returncode == 0
    told = secured.platform.slipway("doctor", check=False).stdout
    assert f"for {DOMAIN}, " in told


def test_a_renewed_certificate_is_served_within_seconds(secured: Secured) -> None:
    with secured.dial() as old:
        fresh = issue(secured.authority, secured.cert, *NAMES)

        def renewed() -> bool:
            with secured.dial() as client:
                return client.getpeercert(binary_form=True) == fresh

        until(renewed)
        old.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert status(b"".join(iter(lambda: old.recv(65536), b""))) == 200


def test_without_a_certificate_that_can_be_served_it_does_not_start() -> None:
    with fresh_folder() as folder:
        bad = folder / "cert.pem"
        bad.write_text("nothing")
        for extra, told in (
            ({"SLIPWAY_TLS_CERT": str(bad)}, "has no certificate in it"),
            ({"SLIPWAY_TLS_CERT": str(bad), "SLIPWAY_EDGE": "none"}, "needs the edge"),
        ):
            platform = Platform(folder, extra)
            platform.start(wait=False)
            assert platform.process
            assert platform.process.wait(60) == 1
            assert told in platform.output()

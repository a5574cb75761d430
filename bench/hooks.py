"""1,000 signed push events of GitHub at 50 a second, and how soon it shows that one is looked at.

The events come through the edge, each on a connection of its own, of fifty repositories in turns;
each is timed from when it was due. The reference is a bare Flask on gunicorn that checks the
signature and answers. The second half is a real App at a GitHub on loopback
(tests/forges/github.py, which holds each request against GitHub's own description): from the 202 of
an event to the first request there that says ``in_progress``.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from bench import events, harness
from bench.figures import Figure, Result, most, percentile
from bench.harness import BenchError, Platform
from tests.forges.github import serving_github

EVENTS, RATE, REPOSITORIES = 1000, 50, 50
_BARE = """\
import hashlib, hmac, os
from flask import Flask, request
app = Flask(__name__)
SECRET = os.environ["SECRET"].encode()
@app.post("/webhooks/github")
def hook():
    given = request.headers["X-Hub-Signature-256"].removeprefix("sha256=")
    right = hmac.new(SECRET, request.get_data(), hashlib.sha256).hexdigest()
    return ("", 202) if hmac.compare_digest(given, right) else ("", 401)
"""


def run(repeat: int) -> Result:
    """``repeat`` rounds of the events at each of the two, in turns; then as many events that are
    followed to the forge."""
    secret = secrets.token_hex(16)
    ours: list[list[float]] = []
    bare: list[list[float]] = []
    with (
        harness.scratch() as folder,
        _bare(folder, secret) as port,
        # Nothing listens there: what the events make fails at once, and builds disturb nothing.
        harness.running(
            folder,
            {
                "SLIPWAY_GITHUB_WEBHOOK_SECRET": secret,
                "SLIPWAY_GITHUB_URL": "http://127.0.0.1:9",
                "SLIPWAY_SWEEP": "0s",
            },
        ) as platform,
    ):
        for number in range(repeat + 1):
            for port_, found in ((platform.port, ours), (port, bare)):
                times = _send_all(port_, secret)
                if number:
                    found.append(times)
    soon = _in_progress(max(repeat, 5))
    return Result(
        figures=[
            Figure(
                name=f"webhook to 202, {name}, {EVENTS:,} events at {RATE}/s",
                unit="ms",
                samples=[percentile(times, share) * 1000 for times in ours],
                reference="bare Flask on gunicorn",
                reference_samples=[percentile(times, share) * 1000 for times in bare],
                aim=most(1000) if share > 0.9 else None,
            )
            for name, share in (("p50", 0.5), ("p99", 0.99))
        ]
        + [
            Figure(name="from the 202 to in_progress at the forge", unit="s", samples=soon),
        ],
    )


def _send_all(port: int, secret: str) -> list[float]:
    """Seconds that each took, from when it was due."""
    bodies = [_event(number) for number in range(REPOSITORIES)]

    def send(number: int) -> float:
        due = begun + number / RATE
        time.sleep(max(due - time.monotonic(), 0))
        body = bodies[number % REPOSITORIES]
        headers = {
            "Content-Type": "application/json",
            "X-GitHub-Event": "push",
            "X-GitHub-Delivery": secrets.token_hex(16),
            "X-Hub-Signature-256": "sha256="
            + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest(),
        }
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request("POST", "/webhooks/github", body, headers)
            answer = connection.getresponse()
            told = answer.read()
        finally:
            connection.close()
        if answer.status != 202:
            raise BenchError(f"an event was answered with {answer.status}: {told[:300]!r}")
        return time.monotonic() - due

    with ThreadPoolExecutor(16) as pool:
        begun = time.monotonic() + 0.2
        return sorted(pool.map(send, range(EVENTS)))


def _event(number: int) -> bytes:
    return json.dumps(
        {
            "ref": "refs/heads/main",
            "after": f"{number:040x}",
            "deleted": False,
            "repository": {
                "id": number + 1,
                "name": f"events{number}",
                "full_name": f"Hooks/events{number}",
                "private": False,
                "default_branch": "main",
                "owner": {"id": 1, "login": "Hooks"},
            },
        }
    ).encode()


@contextmanager
def _bare(folder: Path, secret: str) -> Iterator[int]:
    (folder / "bare.py").write_text(_BARE)
    port = harness.free_port()
    argv = ["-m", "gunicorn", "-k", "gthread", "--threads", "32", "-b", f"127.0.0.1:{port}"]
    process = subprocess.Popen(
        [sys.executable, *argv, "--chdir", str(folder), "bare:app"],
        env={**os.environ, "SECRET": secret},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise BenchError("the reference did not start") from None
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


def _in_progress(times: int) -> list[float]:
    """Seconds from an event's 202 until the forge is told, of so many pushes after the first."""
    found: list[float] = []
    with harness.scratch() as folder, serving_github(folder / "github") as github:
        app = github.app()
        key = folder / "app.pem"
        key.write_text(app.pem)
        secret = str(app.webhook_secret)
        repository = github.repository("Crew/shop")
        project = repository.project
        env = {
            "SLIPWAY_GITHUB_URL": github.url,
            "SLIPWAY_GITHUB_APP_ID": str(app.id),
            "SLIPWAY_GITHUB_APP_KEY_FILE": str(key),
            "SLIPWAY_GITHUB_WEBHOOK_SECRET": secret,
        }
        stack = "version: 1.0\nprovider:\n  name: openfaas\nfunctions:\n"
        stack += "  cart:\n    lang: python3-http\n    handler: ./cart\n"
        with harness.running(folder, env) as platform:
            installation = github.install(app, repository)
            for number in range(times + 1):
                code = f'def handle(event, context):\n    return "{number}"\n'
                head = project.commit({"stack.yml": stack, "cart/handler.py": code})
                body = json.dumps(
                    {
                        "ref": "refs/heads/main",
                        "after": head,
                        "repository": repository.shown(),
                        "installation": {"id": installation.id},
                    }
                ).encode()
                status, told = events.send(platform, secret, body)
                if status != 202:
                    raise BenchError(f"the event was answered with {status}: {told[:300]!r}")
                took = _told(repository.checks, head)
                if number:
                    found.append(took)
                _live(platform, str(number))
    return found


def _told(checks: list[dict[str, object]], head: str) -> float:
    begun = time.monotonic()
    while time.monotonic() - begun < 60:
        if any(each["head_sha"] == head and each["status"] != "queued" for each in checks):
            return time.monotonic() - begun
        time.sleep(0.005)
    raise BenchError("GitHub was not told within a minute")


def _live(platform: Platform, text: str) -> None:
    harness.await_answer(platform.url, "/function/cart.crew", text)

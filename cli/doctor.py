"""What can be wrong with a machine or an installation, looked at one by one."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import requests

from cli import docker_checks, forge_checks, installation
from cli.findings import FAIL, OK, WARN, Finding
from core import disk
from core.errors import SlipwayError
from core.settings import Settings
from supervisor import runtime_choice

GIT = (2, 30)
"""The oldest git whose hardening options the builder relies on."""


def examine(
    settings: Settings, url: str, *, elsewhere: bool, differences: Sequence[str] = ()
) -> list[Finding]:
    """All findings. ``settings``: of the installation that runs, or as one would have them here;
    ``differences``: of these to the shell's; ``elsewhere``: the installation at ``url`` need not
    be of this machine, so that of its parts only the health is looked at."""
    runs = installation.runs(settings)
    settings = runtime_choice.in_use(settings, os.environ, runs=runs)
    advice = "what runs keeps its own until its next start"
    found = [Finding("settings", WARN, each, advice) for each in differences]
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _git,
        _uv,
        lambda: _runtime(settings, runs=runs),
        lambda: _disk(settings),
        lambda: _state(settings),
        lambda: _tls(settings),
        lambda: forge_checks.examine(settings),
        _clock,
    ]
    for check in checks:
        found += check()
    if elsewhere:
        found += _health(url, settings)
    elif not runs:
        advice = "start it with 'make up', or name another state folder with --state"
        found.append(Finding("running", WARN, f"nothing runs on {settings.state}", advice))
    else:
        found += _store(settings)
        found += _policy(settings)
        found += _health(url, settings)
    return found


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11)
    advice = "" if good else "install Python 3.11 or later, then remove .venv and run 'make up'"
    yield Finding("python", OK if good else FAIL, f"{version}, {sys.executable}", advice)


def _git() -> Iterator[Finding]:
    told = _output(["git", "--version"])
    digits = told.removeprefix("git version ").split(".")[:2]
    if not told or not all(each.isdigit() for each in digits):
        yield Finding("git", FAIL, told or "not found on PATH", "apt-get install -y git")
    elif tuple(map(int, digits)) < GIT:
        yield Finding("git", FAIL, told, f"install git {GIT[0]}.{GIT[1]} or later")
    else:
        yield Finding("git", OK, told)


def _uv() -> Iterator[Finding]:
    try:
        from uv import find_uv_bin

        told = _output([str(find_uv_bin()), "--version"])
    except (ImportError, FileNotFoundError):
        told = ""
    advice = "" if told else "remove .venv and run 'make up', which installs it"
    yield Finding("uv", OK if told else FAIL, told or "does not run", advice)


def _runtime(settings: Settings, *, runs: bool) -> Iterator[Finding]:
    """What functions run on; where that is open yet, both are looked at."""
    if settings.runtime != "docker":
        yield from _sandbox(settings)
    if settings.runtime != "process":
        for each in docker_checks.examine(settings, runs=runs):
            # Where it need not be Docker, nothing of it is a failure.
            open_ = settings.runtime == "auto" and each.state == FAIL
            yield replace(each, state=WARN) if open_ else each


def _sandbox(settings: Settings) -> Iterator[Finding]:
    """Starts a real one."""
    from core.sandbox import Sandbox

    begun = time.monotonic()
    try:
        sandbox = Sandbox.from_settings(settings)
    except SlipwayError as error:
        yield Finding("sandbox", FAIL, "none can be made", str(error))
        return
    took = f"{(time.monotonic() - begun) * 1000:.0f} ms"
    if sandbox.refused:
        yield Finding("sandbox", WARN, "functions run WITHOUT one", sandbox.refused)
    else:
        yield Finding("sandbox", OK, f"started one in {took}")
    bounded = sandbox.cgroups.controllers
    for name in ("memory", "cpu", "pids"):
        if name in bounded:
            yield Finding(name, OK, bounded[name])
        else:
            advice = "run as root, or by systemd-run --user --scope -p Delegate=yes"
            yield Finding(name, WARN, "not bounded by a control group", advice)
    if sandbox.network.available():
        yield Finding("network", OK, sandbox.enforced()["network"])
    elif os.geteuid() != 0:
        yield Finding("network", WARN, "functions reach nothing outside", "run Slipway as root")
    elif installation.runs(settings) and sandbox.network.exists():
        advice = "the controller repairs it within seconds; if not, its log says why"
        yield Finding("network", FAIL, "its fence is damaged", advice)
    elif installation.runs(settings):
        advice = f"see {settings.state / 'log' / 'network.log'} and what 'make up' said of it"
        yield Finding("network", WARN, "functions reach nothing outside", advice)
    else:
        yield Finding("network", OK, "made when Slipway starts")


def _disk(settings: Settings) -> Iterator[Finding]:
    free = disk.free(settings.state)
    state = FAIL if free < disk.RESERVE else WARN if free < disk.LOW else OK
    fails = f": below {disk.human(disk.RESERVE)} builds fail" if state == FAIL else ""
    advice = "" if state == OK else f"make room on the disk of {settings.state}{fails}"
    yield Finding("disk", state, f"{free / 2**30:.1f} GiB free at {settings.state}", advice)
    used = sum(disk.made_by_builds(settings).values())
    limit = settings.disk_limit
    if not limit:
        yield Finding("builds", OK, f"take {disk.human(used)} of the disk")
        return
    state = FAIL if used > limit else WARN if used > 0.8 * limit else OK
    advice = "" if state == OK else "raise SLIPWAY_DISK_LIMIT, or lower SLIPWAY_KEEP_REVISIONS"
    told = f"take {disk.human(used)} of the disk, and may take {disk.human(limit)}"
    yield Finding("builds", state, told, advice)


def _state(settings: Settings) -> Iterator[Finding]:
    """What is secret must be ours alone."""
    for path in (
        settings.state,
        settings.password_file,
        settings.token_file,
        settings.secrets_key,
        settings.sealing_keys,
    ):
        try:
            found = path.stat()
        except FileNotFoundError:
            continue  # made by the first start
        except OSError as error:
            yield Finding("secrets", FAIL, f"{path}: {error.strerror}", "run as its owner")
            return
        if stat.S_IMODE(found.st_mode) & 0o077:
            advice = f"chmod go= {path}; if strangers were on this machine, make a new one"
            yield Finding("secrets", FAIL, f"others can read {path}", advice)
            return
    yield Finding("secrets", OK, f"{settings.state} is this user's alone")


def _tls(settings: Settings) -> Iterator[Finding]:
    """The certificate, read as the edge does."""
    if not settings.tls_cert:
        return
    from runtime.edge import tls

    try:
        certificate = tls.read(settings.tls_cert)
    except SlipwayError as error:
        yield Finding("tls", FAIL, "the certificate cannot be served", str(error))
        return
    concerns = certificate.concerns(settings)
    for concern in concerns:
        yield Finding("tls", WARN, concern, f"see {settings.tls_cert}")
    if not concerns:
        ends = time.strftime("%Y-%m-%d", time.gmtime(certificate.not_after))
        yield Finding("tls", OK, f"until {ends} for {', '.join(certificate.names)}")


def _clock() -> Iterator[Finding]:
    """A clock that is behind makes TLS certificates and signatures look as if not yet valid."""
    now, newest = time.time(), Path(__file__).stat().st_mtime
    told = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    if now < newest - 60:
        yield Finding("clock", FAIL, f"{told} is before this program was made", "set the clock")
    else:
        yield Finding("clock", OK, told)


def _store(settings: Settings) -> Iterator[Finding]:
    import redis

    where = settings.redis_url and "the Redis of SLIPWAY_REDIS_URL"
    where = where or f"the store at {settings.store_socket}"
    try:
        with redis.Redis.from_url(settings.store_url, socket_timeout=3) as connection:
            begun = time.monotonic()
            connection.ping()
        took = (time.monotonic() - begun) * 1000
        yield Finding("store", OK, f"answered in {took:.1f} ms")
    except redis.AuthenticationError:  # what runs tells its settings without passwords
        yield Finding("store", OK, f"{where} answered, and wants a password that is not known here")
    except redis.RedisError as error:
        advice = f"see {settings.state / 'log' / 'store.log'}"
        yield Finding("store", FAIL, f"{where} does not answer: {error}", advice)


def _policy(settings: Settings) -> Iterator[Finding]:
    """Whether the document that SLIPWAY_POLICY names is the one in force."""
    import redis

    from core.policy import shown
    from core.store import Store

    if not settings.policy:
        return
    try:
        with redis.Redis.from_url(settings.store_url, socket_timeout=3) as connection:
            held = Store(connection).held_policy()
    except redis.RedisError:  # told already
        return
    if held is None or held.source != shown(settings.policy):
        advice = "the gateway reads it as it starts; if this stays, see its log"
        yield Finding("policy", FAIL, "it was not read yet: nobody may deploy", advice)
    elif held.policy is None:
        yield Finding("policy", FAIL, "it cannot be read: nobody may deploy", held.trouble)
    elif held.trouble:
        told = f"that of {held.since} is in force, as what is there now is not taken"
        yield Finding("policy", WARN, told, held.trouble)
    else:
        yield Finding("policy", OK, f"in force since {held.since}")


def _health(url: str, settings: Settings) -> Iterator[Finding]:
    try:
        with requests.Session() as session:
            session.trust_env = False
            session.verify = str(settings.ca_file) if settings.ca_file else True
            answer = session.get(f"{url}/healthz", timeout=5)
        parts = answer.json()["parts"]
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        text = f"{url}/healthz does not answer ({type(error).__name__})"
        yield Finding("gateway", FAIL, text, "is it Slipway that listens there? See its log folder")
        return
    for name, told in parts.items():
        good = told == "ok"
        advice = "" if good else f"see {name}.log in the folder log/ of the state folder"
        yield Finding(name, OK if good else FAIL, str(told), advice)


def _output(argv: list[str]) -> str:
    """The first line of what a program prints, or '' where it cannot be run."""
    env = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": "/", "LANG": "C.UTF-8"}
    try:
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.partition("\n")[0].strip()

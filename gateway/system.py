"""What this installation is: ``/system/info``."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib import metadata

import msgspec
from flask import Blueprint, Response

from core.openfaas import ProviderInfo, SystemInfo, Version
from core.settings import ROOT
from gateway.callers import owners
from gateway.context import here

bp = Blueprint("system", __name__)

_GIT_SECONDS = 5.0


@bp.get("/system/info")
@owners()
def info() -> Response:
    runtime = here().settings.runtime
    told = SystemInfo(
        provider=ProviderInfo(
            provider="slipway",
            orchestration="process" if runtime == "auto" else runtime,
            version=version(),
        ),
        version=version(),
        arch=platform.machine(),
    )
    return Response(msgspec.json.encode(told), content_type="application/json")


@cache
def version() -> Version:
    """The release, and the commit where it is known: of a checkout, or of an installation that pip
    made from git (PEP 610)."""
    installed = metadata.distribution("slipway")
    sha, _, message = _head().partition(" ")
    if not sha:
        origin = msgspec.json.decode(installed.read_text("direct_url.json") or "{}")
        sha = origin.get("vcs_info", {}).get("commit_id", "")
    return Version(release=installed.version, sha=sha, commit_message=message)


def _head() -> str:
    """``<commit> <subject>`` of the checkout; empty where there is none, or no git."""
    if not (ROOT / ".git").exists():
        return ""
    command = ["git", "-c", f"safe.directory={ROOT}", "log", "-1", "--format=%H %s"]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={"PATH": os.environ.get("PATH", os.defpath), "GIT_CONFIG_NOSYSTEM": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace").strip()

"""Every setting, in one frozen object made from an environment that is passed in.

Each field carries what the README's table says of it; ``slipway config`` prints the result with
secrets masked, and a test holds the README to this file. All mistakes are reported together.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from core import settingvalues as read
from core.errors import ConfigError
from core.quantities import seconds, size, size_text

PREFIX = "SLIPWAY_"
ROOT = Path(__file__).resolve().parent.parent
"""The checkout: templates/ and functions/ lie in it."""

_SOCKET_ROOM = 60
"""Bytes the run folder may take: HAProxy refuses socket paths over 97 bytes."""
_MASK = "********"
_IN_URL = re.compile(r"(//[^/:]*:).*(?=@)|([?&]password=)[^&]*")
"""A password."""
_PLAIN_PATH = re.compile(r"[A-Za-z0-9._~+/-]+")


def _setting(default: Any, reads: Callable[[str], Any], about: str, *, secret: bool = False) -> Any:
    return field(default=default, metadata={"read": reads, "about": about, "secret": secret})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The installation's settings. Sizes are bytes, times seconds."""

    port: int = _setting(8080, read.number(1, 65535), "port of the edge")
    bind: str = _setting("127.0.0.1", str, "address the edge listens on")
    state: Path = _setting(
        Path(".slipway"), read.path, "folder that holds all state; one Slipway at a time"
    )
    runtime: str = _setting(
        "auto",
        read.choice("auto", "process", "docker"),
        "what runs functions; `auto`: docker where an engine answers and has, or can pull, the "
        "base images, else process",
    )
    engine: str = _setting(
        "",
        read.engine,
        "Docker engine that runs functions; unset: DOCKER_HOST, else the usual socket",
    )
    build_engine: str = _setting(
        "",
        read.engine,
        "Docker engine that builds images; unset: one of our own where root has `dockerd`, else "
        "the engine that runs functions",
    )
    registry: str = _setting(
        "",
        read.registry,
        "docker: registry of the images as the engine names it, such as ghcr.io/acme; unset: one "
        "is started",
    )
    registry_url: str = _setting(
        "", read.url, "docker: how we reach that registry; unset: https, or http on loopback"
    )
    registry_user: str = _setting("", str, "docker: user at the registry")
    registry_password_file: Path | None = _setting(
        None, read.path, "docker: file with that user's password"
    )
    python_image: str = _setting(
        "python:3.11-slim-bookworm", read.image, "docker: base image of the Python templates"
    )
    node_image: str = _setting(
        "node:24-bookworm-slim", read.image, "docker: base image of the Node template"
    )
    edge: str = _setting(
        "haproxy", read.choice("haproxy", "none"), "`none`: the gateway serves every request itself"
    )
    redis_url: str = _setting("", read.redis_url, "a Redis of your own; unset: one is started")
    gateway_url: str = _setting(
        "", read.url, "where builder and CLI reach the gateway; unset: the edge on loopback"
    )
    public_url: str = _setting(
        "", read.url, "how users reach the edge; unset: `http(s)://<domain or bind>:<port>`"
    )
    domain: str = _setting(
        "",
        read.domain,
        "domain of this installation: functions answer at `<namespace>.<domain>/<name>` as well",
    )
    tls_cert: Path | None = _setting(
        None,
        read.path,
        "PEM file with the certificate, its chain and its key: the port then speaks TLS only",
    )
    local_port: int = _setting(
        0,
        read.number(0, 65535),
        "with TLS: port of 127.0.0.1 where this machine's own parts reach the edge without it; "
        "0: a free one",
    )
    ca_file: Path | None = _setting(
        None, read.path, "certificates that the commands trust instead of the usual ones"
    )
    admin_password_file: Path | None = _setting(
        None,
        read.path,
        "file with the admin's password; unset: `<state>/admin-password`, made once",
    )
    builder_token_file: Path | None = _setting(
        None, read.path, "file with the builder's token; unset: `<state>/builder-token`, made once"
    )
    owner_token_file: Path | None = _setting(
        None, read.path, "file with an owner's token: the commands ask with it, not as the admin"
    )
    secrets_key_file: Path | None = _setting(
        None, read.path, "file with the key of secrets; unset: `<state>/secrets-key`, made once"
    )
    workers: int = _setting(2, read.number(1, 64), "releases that are built side by side")
    queue_workers: int = _setting(
        16,
        read.number(1, 256),
        "asynchronous calls that are made side by side: half of one owner, a quarter of a function",
    )
    async_max_body: int = _setting(
        2**20, size, "largest body of an asynchronous call, and of the answer that is kept of it"
    )
    async_queue: int = _setting(
        64 * 2**20,
        size,
        "bytes of the asynchronous calls that wait, half of one owner, a quarter of one function; "
        "beyond it 503",
    )
    async_keep: float = _setting(
        3600.0, seconds, "time that the answer of an asynchronous call can be read"
    )
    async_results: int = _setting(
        128 * 2**20, read.answers_size, "bytes of such answers that are kept; the oldest go first"
    )
    dead_letters_keep: float = _setting(
        7 * 24 * 3600.0, seconds, "time that asynchronous calls which failed for good are kept"
    )
    dead_letters: int = _setting(
        128 * 2**20,
        size,
        "bytes of such calls that are kept, with their bodies; the oldest go first",
    )
    build_parallel: int = _setting(4, read.number(1, 64), "functions of one release built at once")
    build_timeout: float = _setting(600.0, seconds, "longest time of one build step")
    build_memory: int = _setting(2**30, size, "memory of one build step or test run")
    build_cpus: float = _setting(1.0, read.decimal, "CPUs of one build step or test run")
    build_output: int = _setting(2**20, size, "output kept of one build step; more ends it")
    build_egress: bool = _setting(
        True, read.flag, "docker: whether a Dockerfile's RUN reaches the outside world"
    )
    allow_registries: tuple[str, ...] = _setting(
        (),
        read.words,
        "docker: registries on inside addresses that repositories may take images from",
    )
    max_image: int = _setting(
        4 * 2**30, size, "docker: largest image that is pulled, as its layers are sent"
    )
    allow_root: bool = _setting(
        False,
        read.flag,
        "docker: whether an image that the admin deploys may run as root where it says so",
    )
    keep_revisions: int = _setting(
        100,
        read.number(1, 1000),
        "releases of a repository, and revisions of a function, that can be gone back to",
    )
    disk_limit: int = _setting(
        0, size, "most that builds may take of the disk of the state folder; 0: no such limit"
    )
    max_push: int = _setting(256 * 2**20, size, "largest pack of one push")
    max_context: int = _setting(256 * 2**20, size, "largest function folder, in bytes")
    max_files: int = _setting(20_000, read.number(1, 10**6), "most files of a function folder")
    max_functions: int = _setting(200, read.number(1, 5000), "most functions of one commit")
    function_memory: int = _setting(256 * 2**20, size, "memory of a replica without a limit")
    function_cpus: float = _setting(1.0, read.decimal, "CPUs of a replica without a limit")
    function_max_memory: int = _setting(
        4 * 2**30, size, "most memory that a stack file may ask for"
    )
    function_max_cpus: float = _setting(
        4.0,
        read.decimal,
        "most CPUs that a stack file may ask for",
    )
    function_pids: int = _setting(128, read.number(8, 32768), "processes and threads of a replica")
    function_log: int = _setting(
        4 * 2**20, read.log_size, "log kept of a function on disk, at most 64Mi"
    )
    health_timeout: float = _setting(30.0, seconds, "time a new replica has to become healthy")
    drain_timeout: float = _setting(30.0, seconds, "time a leaving replica has for its requests")
    watch: float = _setting(
        10.0, seconds, "time that a new release is watched for, and taken back in; 0s: not at all"
    )
    warm: float = _setting(
        300.0, seconds, "time that what a release replaced goes on running, for a rollback at once"
    )
    scale_zero: bool = _setting(
        False,
        read.flag,
        "whether functions sleep when nobody calls that do not say by their labels",
    )
    pause: float = _setting(
        900.0, seconds, "docker: time that a function that sleeps is kept in memory, paused"
    )
    paused_memory: int = _setting(
        2 * 2**30, size, "docker: most memory that all paused functions hold together"
    )
    egress: bool = _setting(True, read.flag, "whether functions reach the outside world")
    subnet: str = _setting(
        "", str, "addresses of the functions' own network; unset: a /20 of 10.64.0.0/10"
    )
    github_url: str = _setting(
        "https://github.com",
        read.url,
        "where GitHub repositories are cloned",
    )
    github_api_url: str = _setting(
        "",
        read.url,
        "GitHub's API; unset: of github.com its own, else `<SLIPWAY_GITHUB_URL>/api/v3`",
    )
    github_webhook_secret: str = _setting(
        "",
        str,
        "secret of GitHub's webhooks; unset: that of the App made at `/setup/github`, else they "
        "are refused",
        secret=True,
    )
    github_app_id: str = _setting("", str, "id of a GitHub App of your own")
    github_app_key_file: Path | None = _setting(
        None, read.path, "file with that App's private key (PEM)"
    )
    github_token_file: Path | None = _setting(
        None, read.path, "without an App: file with a token that reads repositories, sets statuses"
    )
    github_client_id: str = _setting("", str, "OAuth client for signing in with GitHub")
    github_client_secret_file: Path | None = _setting(
        None,
        read.path,
        "file with that client's secret",
    )
    github_report: str = _setting(
        "checks",
        read.choice("checks", "statuses"),
        "what an App shows at GitHub: check runs, or commit statuses",
    )
    gitlab_url: str = _setting("https://gitlab.com", read.url, "your GitLab")
    gitlab_webhook_secret: str = _setting(
        "",
        str,
        "secret token or signing token of GitLab's webhooks; unset: they are refused",
        secret=True,
    )
    gitlab_token_file: Path | None = _setting(
        None,
        read.path,
        "file with an access token of GitLab (scope api): statuses, private projects",
    )
    gitlab_client_id: str = _setting("", str, "OAuth application for signing in with GitLab")
    gitlab_client_secret_file: Path | None = _setting(
        None, read.path, "file with that application's secret"
    )
    gitea_url: str = _setting("https://gitea.com", read.url, "your Gitea or Forgejo")
    gitea_webhook_secret: str = _setting(
        "", str, "secret of Gitea's webhooks; unset: they are refused", secret=True
    )
    gitea_token_file: Path | None = _setting(
        None, read.path, "file with an access token of Gitea: statuses, private repositories"
    )
    policy: str = _setting(
        "",
        read.policy,
        "who may deploy, and how much: a file, a URL, or `git:<namespace>/<repository>:<path>` of "
        "Slipway's own remote; unset: everybody whose events are signed",
    )
    sweep: float = _setting(
        30.0, seconds, "time between two looks at a branch's head at a forge; 0s: hooks alone count"
    )
    previews: bool = _setting(True, read.flag, "whether pull and merge requests get previews")
    preview_lifetime: float = _setting(
        7 * 24 * 3600.0, seconds, "time after its last push that a preview is kept"
    )
    allow_hosts: tuple[str, ...] = _setting(
        (), read.words, "hosts on inside addresses that clones and callbacks may reach, by comma"
    )
    template_hosts: tuple[str, ...] = _setting(
        ("github.com", "gitlab.com"),
        read.words,
        "hosts that templates may be fetched from, besides those of SLIPWAY_ALLOW_HOSTS",
    )
    log_format: str = _setting(
        "auto",
        read.choice("auto", "json", "console"),
        "form of our own logs",
    )
    unsafe_no_sandbox: bool = _setting(
        False, read.flag, "run functions without a sandbox where none can be made"
    )

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """Reads ``SLIPWAY_*`` out of ``env``; an empty value counts as unset.

        Raises:
            ConfigError: naming every wrong or unknown setting.
        """
        known = {PREFIX + each.name.upper(): each for each in fields(cls)}
        mistakes = []
        values = {}
        for name, text in env.items():
            if not name.startswith(PREFIX) or not text:
                continue
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f": did you mean {near[0]}?" if near else ""
                mistakes.append(f"{name} is not a setting{hint}")
                continue
            each = known[name]
            try:
                values[each.name] = each.metadata["read"](text)
            except ValueError as error:
                shown = "…" if each.metadata["secret"] else repr(text)
                mistakes.append(f"{name}={shown}: {error}")
        if mistakes:
            raise ConfigError("the settings have mistakes:\n  " + "\n  ".join(mistakes))
        values["state"] = Path(values.get("state", cls.state)).absolute()
        return cls(**values)

    def describe(self) -> dict[str, str]:
        """Returns every setting as ``from_env`` takes it, secrets and passwords in URLs masked."""
        told = {}
        for each in fields(self):
            value = getattr(self, each.name)
            masked = _MASK if each.metadata["secret"] and value else value
            if isinstance(masked, tuple):
                masked = ",".join(masked)
            elif each.metadata["read"] in (size, read.answers_size, read.log_size):
                masked = size_text(value)
            elif each.metadata["read"] is seconds:
                masked = f"{value:g}s"
            text = "" if masked is None else str(masked)
            told[PREFIX + each.name.upper()] = _IN_URL.sub(rf"\1\2{_MASK}", text)
        return told

    def environment(self) -> dict[str, str]:
        """Returns the variables that make a child process read these same settings."""
        told = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if value is None or value == "" or value == ():
                continue
            if isinstance(value, bool):
                value = int(value)
            told[PREFIX + each.name.upper()] = (
                ",".join(value) if isinstance(value, tuple) else str(value)
            )
        return told

    # Where things lie. Everything is below `state`, but for sockets whose path would be too long.

    @property
    def run(self) -> Path:
        """Sockets, in a folder for each part that owns one: in compose each is a volume that only
        those mount who may use it. In state, or a private folder in /tmp where that is too long
        or has characters that mean something in HAProxy's configuration."""
        inside = self.state / "run"
        if len(os.fsencode(inside)) <= _SOCKET_ROOM and _PLAIN_PATH.fullmatch(str(inside)):
            return inside
        mark = hashlib.sha256(os.fsencode(self.state)).hexdigest()[:16]
        return Path(f"/tmp/slipway-{os.getuid()}-{mark}")

    @property
    def functions_subnet(self) -> str:
        """The functions' network: as set, or drawn by the state folder, so that two
        installations on one host rarely want the same."""
        if self.subnet:
            return self.subnet
        return str(
            ip_network((int(IPv4Address("10.64.0.0")) + int(self.mark, 16) % 1024 * 4096, 20))
        )

    @property
    def builds_subnet(self) -> str:
        """The network of image builds: a /24 of 10.32.0.0/11, drawn as that of functions."""
        return str(
            ip_network((int(IPv4Address("10.32.0.0")) + int(self.mark, 16) % 8192 * 256, 24))
        )

    @property
    def mark(self) -> str:
        """Tells this installation's links, tables and control groups from those of others on the
        same host: 6 hex digits."""
        return hashlib.sha256(os.fsencode(self.state)).hexdigest()[:6]

    @property
    def engine_url(self) -> str:
        """The engine that runs functions. The supervisor puts DOCKER_HOST into ``engine``."""
        return self.engine or "unix:///var/run/docker.sock"

    @property
    def build_engine_url(self) -> str:
        return self.build_engine or self.engine_url

    @property
    def store_url(self) -> str:
        return self.redis_url or f"unix://{self.store_socket}"

    @property
    def store_socket(self) -> Path:
        """Where the store that we start listens."""
        return self.run / "store" / "redis.sock"

    @property
    def gateway_socket(self) -> Path:
        return self.run / "gateway" / "gateway.sock"

    @property
    def edge_folder(self) -> Path:
        """What the controller and HAProxy share: its configuration, its admin socket, its log."""
        return self.run / "edge"

    @property
    def run_folders(self) -> tuple[Path, ...]:
        """The folders in ``run`` that sockets of ours need before they can listen."""
        return self.store_socket.parent, self.gateway_socket.parent, self.edge_folder

    @property
    def base_url(self) -> str:
        """Where this machine's own parts reach the gateway."""
        host = "127.0.0.1" if self.bind in ("0.0.0.0", "") else self.bind
        host = f"[{host}]" if ":" in host else host
        if self.gateway_url:
            return self.gateway_url
        if not self.tls_cert:
            return f"http://{host}:{self.port}"
        # No certificate is made out for the loopback address.
        return f"http://127.0.0.1:{self.local_port}" if self.local_port else self.user_url

    @property
    def github_api(self) -> str:
        """GitHub's REST API (https://docs.github.com/rest); of an Enterprise Server below its own
        address."""
        if self.github_api_url:
            return self.github_api_url
        own = self.github_url == "https://github.com"
        return "https://api.github.com" if own else f"{self.github_url}/api/v3"

    @property
    def user_url(self) -> str:
        """The URL that users are told."""
        if self.public_url:
            return self.public_url
        host = self.domain or ("127.0.0.1" if self.bind in ("0.0.0.0", "") else self.bind)
        host = f"[{host}]" if ":" in host else host
        scheme, usual = ("https", 443) if self.tls_cert else ("http", 80)
        return f"{scheme}://{host}" + ("" if self.port == usual else f":{self.port}")

    @property
    def functions_url(self) -> str:
        """What function's URLs begin with, for ``names.function_url``: ``user_url``, or where
        there is a domain ``https://*.<domain>``, with ``*`` for the namespace."""
        if not self.domain:
            return self.user_url
        parts = urlsplit(self.user_url)
        return f"{parts.scheme}://*.{self.domain}" + (f":{parts.port}" if parts.port else "")

    @property
    def password_file(self) -> Path:
        return self.admin_password_file or self.state / "admin-password"

    @property
    def registry_folder(self) -> Path:
        """What the registry that we start keeps."""
        return self.state / "registry"

    @property
    def build_engine_folder(self) -> Path:
        """Images and caches of the engine that we start for builds."""
        return self.state / "build-engine"

    @property
    def token_file(self) -> Path:
        return self.builder_token_file or self.state / "builder-token"

    @property
    def secrets_key(self) -> Path:
        """File with the key that secrets are sealed with; not for the builder."""
        return self.secrets_key_file or self.state / "secrets-key"

    @property
    def sealing_keys(self) -> Path:
        """Folder of the private keys that open what is sealed in git; for the runtime alone."""
        return self.state / "sealing-keys"

    @property
    def session_key(self) -> Path:
        """File with the key that the cookies of who signed in are signed with."""
        return self.state / "session-key"

    @property
    def forges_folder(self) -> Path:
        """What we know ourselves by at forges: the App's key and secrets; not for the builder."""
        return self.state / "forges"

    @property
    def demo_folder(self) -> Path:
        """Of the demo while it is pushed."""
        return self.state / "demo"

    @property
    def calls(self) -> Path:
        """Large bodies of asynchronous calls, and of their answers."""
        return self.state / "calls"

    @property
    def git_folder(self) -> Path:
        """Repositories of our own git remote: <namespace>/<repository>.git, bare."""
        return self.state / "git"

    @property
    def mirrors(self) -> Path:
        """The builder's bare mirrors: <namespace>/<repository>.git."""
        return self.state / "mirrors"

    @property
    def bundles(self) -> Path:
        """Artifacts of the process provider: <namespace>/<sha256>/."""
        return self.state / "bundles"

    @property
    def templates(self) -> Path:
        """Templates of commits and of other repositories: <namespace>/<tree>/, read-only."""
        return self.state / "templates"

    @property
    def layers(self) -> Path:
        """Installed dependencies: <namespace>/<key>/, read-only to functions."""
        return self.state / "layers"

    @property
    def caches(self) -> Path:
        """Download caches, one folder an owner."""
        return self.state / "caches"

    @property
    def instances(self) -> Path:
        """One folder a running replica of the process provider."""
        return self.state / "instances"

    @property
    def logs(self) -> Path:
        """What functions wrote: <name>.<namespace>/, kept after their death."""
        return self.state / "logs"

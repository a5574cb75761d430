"""Where a repository is fetched from, and what opens it there."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from builder.handover import opened_by_gateway
from core import names
from core.addresses import outside_addresses
from core.errors import CheckoutFailed, NotSupported
from core.repositories import Repository
from core.settings import Settings
from core.signing import secret_file
from forges import paths


@dataclass(frozen=True)
class Origin:
    """Where a repository is fetched from, as ``Mirror.fetch`` wants it."""

    url: str
    local: bool = False
    credential: str = field(default="", repr=False)
    trouble: str = ""
    """Why there is no credential, where that may be why it cannot be fetched."""


def origin(settings: Settings, repository: Repository, *, checked: bool = False) -> Origin:
    """A forge's repository at the forge, opened by what the gateway gives for it unless everybody
    may read it; ``checked``: as what is fetched will be released, once the forge has said that this
    still is its name. One of our own git remote by its path; where that is not on this machine,
    over HTTP from the gateway with the builder's token.

    Raises:
        ConfigError: the builder's token cannot be read.
        CheckoutFailed: the name is another repository's by now, or nothing opens it.
        Unavailable: the gateway, or the forge behind it, did not answer in time.
        Others: as ``clone_url``.
    """
    if repository.source != "git":
        url = clone_url(settings, repository)
        if repository.public and not checked:
            return Origin(url)
        opened = opened_by_gateway(settings, repository, checked=checked)
        if opened.refused:
            raise CheckoutFailed(opened.refused)
        if checked and not repository.public and not opened.authorization:
            told = f"{repository.full_name} is private, and nothing opens it: {opened.trouble}"
            raise CheckoutFailed(told)
        return Origin(url, credential=opened.authorization, trouble=opened.trouble)
    if settings.git_folder.is_dir():
        return Origin(local_url(settings, repository), local=True)
    url = f"{settings.base_url}/git/{_own(repository)}"
    return Origin(url, credential=f"Bearer {secret_file(settings.token_file)}")


def local_url(settings: Settings, repository: Repository) -> str:
    """The bare repository of our own git remote, to be fetched with ``local=True``."""
    return str(settings.git_folder / _own(repository))


def _own(repository: Repository) -> str:
    namespace, _, name = repository.home.partition("/")
    return f"{names.namespace(namespace)}/{names.repository_name(name)}.git"


def clone_url(settings: Settings, repository: Repository) -> str:
    """Where a forge's repository is fetched from: the configured base and the validated full name.

    Raises:
        InvalidRequest: the full name is none.
        NotAllowed, Unavailable: as ``check_host``.
        NotSupported: the source is a forge that this version does not know.
    """
    bases = _bases(settings)
    if repository.source not in bases:
        raise NotSupported(f"repositories of {repository.source!r} cannot be fetched here yet")
    paths.read(repository.full_name, groups=repository.source == "gitlab")
    url = f"{bases[repository.source]}/{repository.full_name}.git"
    check_host(settings, url)
    return url


def check_host(settings: Settings, url: str) -> None:
    """Refuses a URL whose host has an inside address.

    The hosts of the configured forges and those of SLIPWAY_ALLOW_HOSTS are the administrator's
    word.

    Raises:
        NotAllowed: the host has an inside address.
        Unavailable: it cannot be resolved now.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host not in {urlsplit(base).hostname for base in _bases(settings).values()}:
        outside_addresses(host, parts.port or 443, allow_hosts=settings.allow_hosts)


def _bases(settings: Settings) -> dict[str, str]:
    return {
        "github": settings.github_url,
        "gitlab": settings.gitlab_url,
        "gitea": settings.gitea_url,
    }

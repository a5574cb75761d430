"""What can be wrong with the forges that an installation is set up for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from cli import show
from cli.findings import FAIL, OK, WARN, Finding
from core.errors import ConfigError, SlipwayError, Unavailable
from core.settings import Settings
from forges import tokenfile
from forges.api import Api
from forges.github.app import secret, stored_app
from forges.github.manifest import reached

_CLOSED = "no token: private repositories are closed to us, and nothing is shown there"


def examine(settings: Settings) -> Iterator[Finding]:
    """Two findings at most for each; none for those that nothing is set for."""
    forges: tuple[tuple[str, str, Callable[[Settings], str]], ...] = (
        ("github", settings.github_url, _github),
        ("gitlab", settings.gitlab_url, _gitlab),
        ("gitea", settings.gitea_url, _gitea),
    )
    for name, url, look in forges:
        try:
            told = look(settings)
        except ConfigError as error:
            yield Finding(name, FAIL, "a file of it cannot be read", str(error))
            continue
        except Unavailable as error:
            yield Finding(name, WARN, str(error), f"is {url} right, and reached from here?")
            continue
        except SlipwayError as error:
            setting = f"SLIPWAY_{name.upper()}_TOKEN_FILE"
            yield Finding(name, FAIL, str(error), f"is {url} right, and the token in {setting}?")
            continue
        if not told:
            continue
        yield Finding(name, OK, told)
        if reached(url, url) and not reached(settings.user_url, url):
            text = f"it cannot reach {settings.user_url}, so that pushes are found by looking alone"
            advice = "set SLIPWAY_PUBLIC_URL to an address that it reaches"
            yield Finding(name, WARN, text, advice)


def _github(settings: Settings) -> str:
    """What we are there; empty: nothing is set for it. Raises ConfigError."""
    app, token = stored_app(settings), tokenfile.read(settings.github_token_file)
    if app.id:
        return f"the App {app.slug or app.id}"
    if token:
        return "no App, an access token: results are commit statuses"
    if app.webhook_secret or app.client_id:
        return f"no App: /setup/github makes one; {_CLOSED}"
    return ""


def _gitlab(settings: Settings) -> str:
    if settings.gitlab_client_secret_file:
        secret(settings.gitlab_client_secret_file)
    if token := tokenfile.read(settings.gitlab_token_file):
        return _whose(Api(f"{settings.gitlab_url}/api/v4", "GitLab"), f"Bearer {token}")
    return _CLOSED if settings.gitlab_webhook_secret or settings.gitlab_client_id else ""


def _gitea(settings: Settings) -> str:
    if token := tokenfile.read(settings.gitea_token_file):
        return _whose(Api(f"{settings.gitea_url}/api/v1", "Gitea"), f"token {token}")
    return _CLOSED if settings.gitea_webhook_secret else ""


class _User(msgspec.Struct):
    login: str = ""
    username: str = ""


def _whose(api: Api, authorization: str) -> str:
    """Asks the forge whether it takes the token. Raises as ``Api.ask``."""
    headers = {"Authorization": authorization}
    user = api.ask("GET", "/user", headers=headers, expect=_User).body
    return f"an access token of {show.printable(user.login or user.username)}"

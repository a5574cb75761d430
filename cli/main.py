"""The commands. Each asks, prints and exits: 0 ok, 1 failed, 2 wrong usage."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from cli import (
    arguments,
    backup,
    functions,
    installation,
    policy,
    previews,
    prune,
    restart,
    rollback,
    seal,
    secrets,
    show,
    why,
)
from cli.deadletters import dead_letters
from cli.forges import hook, owner
from cli.tokens import token
from cli.variables import variables
from core.errors import ConfigError, InvalidRequest, NotFound, SlipwayError, Unavailable
from core.lazy import cached_property
from core.settings import PREFIX, ROOT, Settings

if TYPE_CHECKING:
    from cli.client import Client

APPEAR_SECONDS = 10.0
"""How long a commit may take to become a release: a forge's webhook comes after the push."""


@dataclass(frozen=True)
class Context:
    """What the options before the command say."""

    state: str
    url: str
    token_file: str = ""

    @property
    def env(self) -> dict[str, str]:
        """The settings' environment: the checkout's own state folder unless told otherwise."""
        told = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
        told[f"{PREFIX}STATE"] = self.state or told.get(f"{PREFIX}STATE") or str(ROOT / ".slipway")
        if self.token_file:
            told[f"{PREFIX}OWNER_TOKEN_FILE"] = self.token_file
        return told

    @property
    def settings(self) -> Settings:
        return Settings.from_env(self.env)

    @cached_property
    def running(self) -> Settings | None:
        """What the installation uses, where one runs on the state folder and says so."""
        return installation.running(self.settings)

    @property
    def differences(self) -> list[str]:
        """What this shell says otherwise than the installation that runs."""
        running = self.running
        return installation.differences(self.env, running) if running else []

    def client(self) -> Client:
        """
        Raises:
            ConfigError: the state folder that was named has no installation.
        """
        from cli.client import Client

        settings = self.settings
        named = self.state or os.environ.get(f"{PREFIX}STATE")
        if named and not self._asked and installation.absent(settings):
            raise ConfigError(
                f"there is no installation in {settings.state}: name its folder with --state, or "
                "its address with --url"
            )
        return Client(settings, self.base_url)

    @property
    def _asked(self) -> str:
        """The address to ask, where that was told."""
        return self.url or self.settings.gateway_url

    @property
    def base_url(self) -> str:
        """Where the installation answers: as told, else as it says itself while it runs, else as
        it wrote down when it started."""
        if self._asked:
            return self._asked
        if running := self.running:
            return running.base_url
        settings = self.settings
        # With TLS it answers on a port of this machine's own, which only the file knows.
        told = {f"{PREFIX}PORT", f"{PREFIX}BIND"} & self.env.keys()
        if told and not settings.tls_cert:
            return settings.base_url
        try:
            return (settings.state / "url").read_text().strip()
        except OSError:
            return settings.base_url

    @property
    def functions_url(self) -> str:
        """What functions' URLs begin with: as the installation says, else as far as the settings
        here know."""
        running = self.running
        if running and self.base_url == running.base_url:
            return running.functions_url
        settings = self.settings
        known = settings.public_url or settings.domain or settings.tls_cert
        return settings.functions_url if known else self.base_url


class Group(click.Group):
    """Tells errors of ours in one place: their text on standard error, exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SlipwayError as error:
            click.echo(f"slipway: {error}", err=True)
            ctx.exit(1)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--state", default="", metavar="FOLDER", help="State folder of the installation.")
@click.option("--url", default="", metavar="URL", help="Where the installation answers.")
@click.option("--token-file", default="", metavar="FILE", help="Ask with the owner's token in it.")
@click.version_option(package_name="slipway", prog_name="slipway")
@click.pass_context
def main(ctx: click.Context, state: str, url: str, token_file: str) -> None:
    """Turns a git push into running functions, on your own server."""
    ctx.obj = Context(state, url, token_file)


@main.command()
@click.option("--no-demo", is_flag=True, help="Do not push this checkout's own functions.")
@click.pass_obj
def up(context: Context, no_demo: bool) -> None:
    """Start everything in the foreground; Ctrl-C stops it."""
    from supervisor import parts

    _ = context.settings  # tells mistakes before anything is started
    argv = parts.python("supervisor.up", *(["--no-demo"] if no_demo else []))
    # In our place: signals reach it directly, and this command's memory is given back.
    env = parts.passed(os.environ) | context.env
    if engine := os.environ.get("DOCKER_HOST"):
        env["DOCKER_HOST"] = engine
    os.execve(argv[0], argv, env)


@main.command()
@arguments.OUTPUT
@click.pass_obj
def config(context: Context, output: str) -> None:
    """Print every setting, and what bounds functions on this machine.

    While an installation runs on the state folder: its own; else those that one would have here.
    """
    from cli.enforced import enforced

    settings = context.running or context.settings
    runs = installation.runs(settings)
    for each in context.differences:
        click.echo(f"slipway: {each}", err=True)
    told = {"settings": settings.describe(), "enforced": enforced(settings, runs=runs)}
    if output == "json":
        show.as_json(told)
        return
    for rows in told.values():
        width = max(map(len, rows))
        for name, value in rows.items():
            click.echo(f"{name:<{width}}  {value}".rstrip())
        click.echo()


@main.command(name="list")
@click.option("--namespace", "-n", default="", help="Only of this owner.")
@arguments.OUTPUT
@click.pass_obj
def list_(context: Context, namespace: str, output: str) -> None:
    """List the functions."""
    with context.client() as client:
        found = client.get("/system/functions", namespace=namespace)
        if output == "json":
            show.as_json(found)
        else:
            show.functions(found, context.functions_url)


@main.command()
@click.option("--namespace", "-n", default="", help="Only of this owner.")
@click.option("--repository", "-r", default="", help="Only of this repository.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 500))
@arguments.OUTPUT
@click.pass_obj
def releases(context: Context, namespace: str, repository: str, limit: int, output: str) -> None:
    """List releases, the newest first."""
    with context.client() as client:
        found = client.get(
            "/system/releases", namespace=namespace, repository=repository, limit=limit
        )
    show.as_json(found) if output == "json" else show.releases(found)


@main.command()
@arguments.RELEASE
@arguments.OUTPUT
@click.pass_obj
def release(context: Context, release: str, output: str) -> None:
    """Show one release, by its id or commit."""
    with context.client() as client:
        found = client.release(release)
    show.as_json(found) if output == "json" else show.release(found)


@main.command()
@arguments.WHOSE_LOG
@click.option("--follow", "-f", is_flag=True, help="Go on until it ends.")
@click.option(
    "--tail",
    type=click.IntRange(0),
    default=0,
    metavar="LINES",
    help="Of a function: only the last ones.",
)
@click.option(
    "--since", default="", metavar="TIME|AGO", help="Of a function: as 90s, 1h30m or RFC 3339."
)
@click.option("--instance", default="", metavar="ID", help="Of a function: only this replica.")
@arguments.OUTPUT
@click.pass_obj
def logs(
    context: Context, what: str, follow: bool, tail: int, since: str, instance: str, output: str
) -> None:
    """Print what a function wrote, or the log of a release."""
    from cli.logs import lines

    with context.client() as client, arguments.or_its_namespace(client, what):
        for line in lines(client, what, follow=follow, tail=tail, since=since, instance=instance):
            click.echo(_compact(line) if output == "json" else show.log_line(line))


@main.command()
@arguments.RELEASE
@click.option("--timeout", default=900.0, show_default=True, help="Seconds.")
@arguments.OUTPUT
@click.pass_obj
def wait(context: Context, release: str, timeout: float, output: str) -> None:
    """Wait until a release is decided: exit status 0 if it went live and stayed so, else 1."""
    with context.client() as client:
        found = _await(client, release, time.monotonic() + timeout)
    if output == "json":
        show.as_json(found)
    else:
        click.echo(show.log_line({"state": f"{found['state']} {found['id']}", **_reason(found)}))
    if found["state"] not in show.GOOD:
        sys.exit(1)


@main.command()
@arguments.FUNCTION
@click.option("--data", "-d", default=None, help="Body: text, @FILE, or - for standard input.")
@click.option("--method", "-X", default="", help="GET without a body, POST with one.")
@click.option("--header", "-H", multiple=True, metavar="NAME: VALUE")
@click.option("--path", default="/", show_default=True, help="Path and query below the function.")
@click.option("--timeout", default=300.0, show_default=True, help="Seconds.")
@click.pass_obj
def invoke(
    context: Context,
    function: str,
    data: str | None,
    method: str,
    header: tuple[str, ...],
    path: str,
    timeout: float,
) -> None:
    """Call a function and print its answer as it is; exit status 1 from 400 on."""
    headers = dict(_header(each) for each in header)
    body = _body(data)
    method = method.upper() or ("GET" if body is None else "POST")
    with (
        context.client() as client,
        client.invoke(
            function, method=method, path=path, headers=headers, data=body, timeout=timeout
        ) as answer,
    ):
        out = sys.stdout.buffer
        for chunk in answer.iter_content(chunk_size=None):
            out.write(chunk)
            out.flush()
        if answer.status_code >= 400:
            click.echo(f"\nslipway: {function} answered {answer.status_code}", err=True)
            sys.exit(1)


@main.command()
@arguments.RELEASE
@click.pass_obj
def cancel(context: Context, release: str) -> None:
    """Take back a release that is not live yet, and wait until nothing of its build is left."""
    with context.client() as client:
        id_ = client.release(release)["id"]
        found, ended = client.cancel(id_)
    click.echo(f"{found['state']} {found['id']}" + ("" if ended else ": its build is still ending"))


@main.command()
@arguments.REPOSITORY
@click.option("--commit", default="", help="A full commit id; else the branch's head.")
@click.pass_obj
def redeploy(context: Context, repository: str, commit: str) -> None:
    """Release a repository again; prints the new release's id."""
    namespace, _, name = repository.partition("/")
    body = {"namespace": namespace, "repository": name} | ({"commit": commit} if commit else {})
    with context.client() as client:
        click.echo(client.post("/system/releases", body)["id"])


@main.command()
@click.option("--namespace", "-n", default="", help="Only of this owner.")
@click.option("--repository", "-r", default="", help="Only of this repository.")
@arguments.OUTPUT
@click.pass_obj
def environments(context: Context, namespace: str, repository: str, output: str) -> None:
    """List where repositories are deployed, and from which branch."""
    with context.client() as client:
        found = client.get("/system/environments", namespace=namespace, repository=repository)
    show.as_json(found) if output == "json" else show.environments(found)


@main.command()
@arguments.REPOSITORY
@click.option(
    "--from", "source", default="", metavar="ENVIRONMENT", help="By default the only other one."
)
@click.option("--to", "target", default="production", show_default=True, metavar="ENVIRONMENT")
@click.option(
    "--release",
    "release_",
    type=arguments.A_RELEASE,
    metavar="RELEASE|COMMIT",
    help="By default the one that is live there.",
)
@click.option("--timeout", default=900.0, show_default=True, help="Seconds.")
@arguments.OUTPUT
@click.pass_obj
def promote(
    context: Context,
    repository: str,
    source: str,
    target: str,
    release_: str | None,
    timeout: float,
    output: str,
) -> None:
    """Release in one environment what is live in another, as it is; exit status 0 once it is live.

    Nothing is built: the very same artifacts run, with the settings and secrets of the other.
    """
    namespace, _, name = repository.partition("/")
    body = {"namespace": namespace, "repository": name, "to": target}
    with context.client() as client:
        if source:
            body["from"] = source
        if release_:
            body["release"] = client.release(release_)["id"]
        made = client.post("/system/promote", body)
        found = _await(client, made["id"], time.monotonic() + timeout)
    show.as_json(found) if output == "json" else show.release(found)
    if found["state"] not in show.GOOD:
        sys.exit(1)


@main.command()
@arguments.OUTPUT
@click.pass_obj
def doctor(context: Context, output: str) -> None:
    """Look for what is wrong with this machine or installation; exit status 1 if anything is."""
    from cli import doctor as checks
    from cli.findings import FAIL

    found = checks.examine(
        context.running or context.settings,
        context.base_url,
        elsewhere=bool(context.url),
        differences=context.differences,
    )
    if output == "json":
        show.as_json([vars(each) for each in found])
    else:
        for each in found:
            click.echo(each.line())
    if any(each.state == FAIL for each in found):
        sys.exit(1)


for command in (
    *functions.COMMANDS,
    rollback.rollback,
    previews.previews,
    previews.approve,
    prune.prune,
    policy.policy,
    why.why,
    dead_letters,
    variables,
    secrets.secret,
    seal.seal,
    seal.sealing_keys,
    token,
    backup.backup,
    backup.restore,
    restart.restart,
    hook,
    owner,
):
    main.add_command(command)


def _await(client: Client, what: str, deadline: float) -> Any:
    """The release once it is decided. A gateway that restarts has time to come back."""
    patience = time.monotonic() + APPEAR_SECONDS
    state = "not there"
    while True:
        try:
            found = client.release(what)
            what, state = found["id"], found["state"]
            if state not in rollback.MOVING and not _watched(found):
                return found
            patience = time.monotonic() + APPEAR_SECONDS
        except (NotFound, Unavailable):
            if time.monotonic() > patience:
                raise
        if time.monotonic() > deadline:
            raise SlipwayError(f"{what} is still {state}: wait longer with --timeout")
        time.sleep(0.25)


def _watched(found: Any) -> bool:
    """Whether it is live, and may still be taken back."""
    return found["state"] == "live" and (found["watch"] or {}).get("verdict") == "watching"


def _reason(found: Any) -> dict[str, str]:
    return {"reason": found["reason"] if found["state"] not in show.GOOD else ""}


def _body(data: str | None) -> bytes | IO[bytes] | None:
    if data is None:
        return None
    if data == "-":
        return sys.stdin.buffer
    if data.startswith("@"):
        try:
            return click.get_current_context().with_resource(Path(data[1:]).open("rb"))
        except OSError as error:
            raise InvalidRequest(f"{data[1:]} cannot be read: {error.strerror}") from error
    return data.encode()


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise click.UsageError(f"{text!r} is no header: write 'Name: value'")
    return name.strip(), value.strip()


def _compact(line: Any) -> str:
    import json

    return json.dumps(line, ensure_ascii=False, separators=(",", ":"))


if __name__ == "__main__":
    main()

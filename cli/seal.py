"""``slipway seal``: a value, sealed for one name of one repository, into a file that git may have;
and ``slipway sealing-keys …``, the keys of that."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from cli import arguments, show
from cli.arguments import OUTPUT, REPOSITORY
from cli.secrets import FROM_FILE, VERBATIM, read_value
from core import names, sealedbox, sealedfile
from core.errors import InvalidRequest
from core.sealedbox import Place
from core.yamlnodes import MAX_BYTES

if TYPE_CHECKING:
    from cli.client import Client
    from cli.main import Context

_PATIENCE = 10.0
"""Seconds: the runtime looks every second."""
_NONE = {"number": 0}
_ENVIRONMENT = click.option(
    "--environment", "-e", default="", metavar="NAME", help="For this one of its environments."
)


class Address(msgspec.Struct, rename="camel"):
    """With what and for which repository is sealed: what ``GET /system/sealing-key`` answers. A key
    file may have less."""

    fingerprint: str
    key: str
    namespace: str = ""
    repository_id: str = ""


@click.command()
@click.argument("name")
@click.option("--repository", "-r", default="", metavar="NAMESPACE/NAME", help="Whose it is.")
@_ENVIRONMENT
@click.option(
    "--file",
    "target",
    default=sealedfile.NAME,
    show_default=True,
    metavar="FILE",
    help="What to write to; it belongs at the repository's root.",
)
@FROM_FILE
@VERBATIM
@click.option(
    "--key-file",
    default="",
    metavar="FILE",
    help="What 'slipway sealing-keys show' printed; then nobody is asked.",
)
@click.option("--repository-id", default="", metavar="ID", help="Where the key file has none.")
@click.pass_obj
def seal(
    context: Context,
    name: str,
    repository: str,
    environment: str,
    target: str,
    file: str,
    verbatim: bool,
    key_file: str,
    repository_id: str,
) -> None:
    """Seal a secret for one repository; what is written may be pushed anywhere.

    The value is asked for, or read from a file or a pipe. It opens under this name, in functions of
    this repository, on this installation, and nowhere else.
    """
    names.secret_name(name)
    if key_file:
        address = _from_file(Path(key_file), repository, environment, repository_id)
    else:
        if repository_id:
            raise click.UsageError("--repository-id goes with --key-file: else it is asked for")
        address = msgspec.convert(_ask(context, repository, environment), Address)
    path = Path(target)
    before = _text_of(path)
    place = Place(address.namespace, address.repository_id, name)
    text = sealedbox.seal(_key(address), place, read_value(file, verbatim=verbatim))
    after = sealedfile.with_entry(before, place.namespace, name, text, str(path))
    _write(path, after)
    line = sealedfile.read(after.encode(), str(path))[place.namespace][name].line
    click.echo(
        f"{path}, line {line}: {name} is sealed for {place.namespace} ({place.repository}) with "
        f"the key {address.fingerprint}.\nName it in the function's 'secrets:', then: git add "
        f"{path} && git commit && git push"
    )


@click.group(name="sealing-keys")
def sealing_keys() -> None:
    """List, show, renew and remove the keys of 'slipway seal'."""


@sealing_keys.command(name="list")
@OUTPUT
@click.pass_obj
def list_(context: Context, output: str) -> None:
    """List the keys and who needs them, the oldest first."""
    with context.client() as client:
        found = client.get("/system/sealing-keys")
    if output == "json":
        show.as_json(found)
        return
    rows = [
        (
            each["fingerprint"],
            each["createdAt"],
            "yes" if each["current"] else "",
            ", ".join(each["functions"]),
        )
        for each in found
    ]
    show.table(("KEY", "CREATED", "SEALS", "NEEDED BY"), rows)


@sealing_keys.command(name="show")
@REPOSITORY
@_ENVIRONMENT
@click.pass_obj
def show_(context: Context, repository: str, environment: str) -> None:
    """Print what is needed to seal for a repository without asking: for --key-file."""
    show.as_json(_ask(context, repository, environment))


@sealing_keys.command()
@click.pass_obj
def rotate(context: Context) -> None:
    """Make a new key to seal with; what is sealed with earlier ones goes on opening."""
    with context.client() as client:
        number = client.post("/system/sealing-keys", {})["number"]
        deadline = time.monotonic() + _PATIENCE
        while (newest := _newest(client))["number"] < number:
            if time.monotonic() > deadline:
                click.echo("it is made once the runtime runs: see 'slipway sealing-keys list'")
                return
            time.sleep(0.1)
    click.echo(newest["fingerprint"])


@sealing_keys.command()
@click.argument("fingerprint")
@click.pass_obj
def remove(context: Context, fingerprint: str) -> None:
    """Remove an earlier key for good: what is still sealed with it never opens again."""
    if not sealedbox.FINGERPRINT.fullmatch(fingerprint):
        raise click.UsageError("a key is named by its 16 hex digits: see 'slipway sealing-keys'")
    with context.client() as client:
        client.change("DELETE", f"/system/sealing-keys/{fingerprint}", {})
    click.echo(f"the key {fingerprint} is removed: what is sealed with it opens nowhere any more")


def _newest(client: Client) -> Any:
    return max(client.get("/system/sealing-keys"), key=lambda each: each["number"], default=_NONE)


def _ask(context: Context, repository: str, environment: str) -> Any:
    namespace, slash, name = arguments.repository(repository).partition("/")
    if not slash:
        raise click.UsageError("name the repository: --repository <namespace>/<name>")
    query = {"namespace": names.namespace(namespace), "repository": names.repository_name(name)}
    with context.client() as client:
        return client.get("/system/sealing-key", **query, environment=environment)


def _from_file(path: Path, repository: str, environment: str, repository_id: str) -> Address:
    """Raises InvalidRequest: it cannot be read, or tells too little."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Address)
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidRequest(
            f"{path} is no key file: {error}. Write it with 'slipway sealing-keys show "
            f"<namespace>/<repository> > {path}'"
        ) from error
    namespace = found.namespace
    if repository:
        owner = names.namespace(arguments.repository(repository).partition("/")[0])
        namespace = names.derived_namespace(owner, environment) if environment else owner
    elif environment:
        raise click.UsageError("--environment goes with --repository")
    found = Address(found.fingerprint, found.key, namespace, repository_id or found.repository_id)
    if not found.namespace or not found.repository_id:
        raise click.UsageError(
            f"{path} does not say for which repository: name it with --repository and "
            "--repository-id"
        )
    return found


def _key(address: Address) -> bytes:
    """Raises InvalidRequest: it is not the key that it is called by."""
    try:
        key = sealedbox.decoded(address.key)
    except ValueError:
        key = b""
    if sealedbox.fingerprint(key) != address.fingerprint:
        raise InvalidRequest(
            f"the key is not the one of the fingerprint {address.fingerprint[:40]!r}: ask the "
            "installation for it anew"
        )
    return key


def _text_of(path: Path) -> str:
    """What is in the file so far. Raises InvalidRequest."""
    try:
        with path.open("rb") as source:
            return source.read(MAX_BYTES + 1).decode()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise InvalidRequest(f"{path} is not UTF-8 text: save it as UTF-8") from None


def _write(path: Path, text: str) -> None:
    """In one step. Raises InvalidRequest."""
    target = path.resolve()  # what is a link stays one
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        draft.write_text(text)
        if target.exists():
            draft.chmod(target.stat().st_mode & 0o777)
        os.replace(draft, target)  # noqa: PTH105 - as one step, as said
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise InvalidRequest(f"{path} cannot be written: {error.strerror}") from error

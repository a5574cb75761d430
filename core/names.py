"""Names and the rules they obey: the one place that decides what a name may be.

A label is an RFC 1123 label (RFC 1123 §2.1 as Kubernetes reads it): lower-case letters, digits
and ``-``, at most 63 characters, a letter or digit at both ends.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection

from core.errors import InvalidRequest

DEFAULT_NAMESPACE = "openfaas-fn"
RESERVED = frozenset({"openfaas-fn", "openfaas", "system", "slipway"})

LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
REPOSITORY = re.compile(r"[A-Za-z0-9_][-A-Za-z0-9_.]{0,199}")
COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
SECRET = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
ROLLBACK = re.compile(r"b[1-9][0-9]{0,15}")
RELEASE = re.compile(r"[a-z0-9][-a-z0-9]{0,62}")
REQUEST = re.compile(r"refs/(?:pull|merge-requests)/([1-9][0-9]{0,9})/head")
"""Where forges keep the head of a pull or merge request, in the repository that it is to go into:
GitHub and Gitea, and GitLab."""
# git-check-ref-format(1), below refs/heads/.
BRANCH = re.compile(
    r"(?!-)(?!.*(?:\.\.|@\{|//|/\.|\.lock(?:/|$)))[^./\x00- ~^:?*\[\\\x7f]"
    r"(?:[^\x00- ~^:?*\[\\\x7f]{0,242}[^./\x00- ~^:?*\[\\\x7f])?"
)

PRODUCTION = "production"
"""What is deployed from the deploy branch, beside the environments by their names."""
ENVIRONMENT_LENGTH = 40
_PREVIEW = re.compile(r"pr-[0-9]+(?:-[0-9a-f]{8})?")
_MARK = 10
"""Bytes of the hash of a name that was cut: nobody finds another name with the same."""
TOKEN = re.compile(r"[0-9a-f]{12}")

_RULE = "use lower-case letters, digits and '-', at most 63 characters, no '-' at the ends"


def function_name(value: str) -> str:
    """Returns the name of a function as given, or raises InvalidRequest."""
    if not LABEL.fullmatch(value):
        raise InvalidRequest(f"{_shown(value)} is not a function name: {_RULE}")
    return value


def namespace(value: str) -> str:
    """Returns a namespace that exists by its form, reserved ones included."""
    if not LABEL.fullmatch(value):
        raise InvalidRequest(f"{_shown(value)} is not a namespace: {_RULE}")
    return value


def owner_namespace(value: str) -> str:
    """Returns a namespace that an owner may hold: not reserved, and without ``--`` in it."""
    namespace(value)
    if value in RESERVED or value.startswith("kube-"):
        raise InvalidRequest(f"the namespace {value!r} is reserved: choose another one")
    if "--" in value:
        raise InvalidRequest(
            f"the namespace {value!r} has '--' in it, which is kept for derived namespaces "
            "(<owner>--<environment>): choose one without"
        )
    return value


def derived_namespace(owner: str, suffix: str) -> str:
    """``<owner>--<suffix>``: where an environment or a preview of the owner lives. An owner's name
    too long for that is cut, and a hash of all of it keeps two apart.

    Raises:
        InvalidRequest: the suffix is too long, or the two make no label.
    """
    if not suffix or "--" in suffix:
        raise InvalidRequest(f"{_shown(suffix)} cannot follow '--' in a namespace")
    return namespace(_derived(owner, suffix))


def _derived(owner: str, suffix: str) -> str:
    """Three dashes follow a name that was cut: what stands before two is an owner's whole name, and
    whoever is called like the cut one has nothing of it."""
    if len(owner) + 2 + len(suffix) <= 63:
        return f"{owner}--{suffix}"
    digest = hashlib.sha256(owner.encode()).digest()[:_MARK]
    mark = base64.b32encode(digest).decode().lower()
    kept = owner[: max(1, 63 - 4 - len(mark) - len(suffix))].rstrip("-")
    return f"{kept}-{mark}---{suffix}"


def environment_name(value: str) -> str:
    """Returns the name of an environment as given, or raises InvalidRequest."""
    if not LABEL.fullmatch(value) or "--" in value or len(value) > ENVIRONMENT_LENGTH:
        raise InvalidRequest(
            f"{_shown(value)} is not the name of an environment: use lower-case letters, digits "
            f"and single '-', at most {ENVIRONMENT_LENGTH} characters, no '-' at the ends"
        )
    if value in (PRODUCTION, "preview"):
        raise InvalidRequest(
            f"no environment can be called {value!r}, which the deploy branch and requests have: "
            "choose another name, such as staging"
        )
    if _PREVIEW.fullmatch(value):
        raise InvalidRequest(
            f"no environment can be called {value!r}: such names are those of previews of requests"
        )
    return value


def branch(value: str) -> str:
    """Returns a branch's name that git allows, or raises InvalidRequest."""
    if not BRANCH.fullmatch(value):
        raise InvalidRequest(
            f"{_shown(value)} is not the name of a branch: see 'git check-ref-format --branch'"
        )
    if value.startswith("refs/"):
        raise InvalidRequest(
            f"{_shown(value)} begins with refs/: write the branch's name alone, such as develop"
        )
    return value


def is_of(space: str, owner: str) -> bool:
    """Whether a namespace is an owner's: its own, or one that is derived from it."""
    if space == owner:
        return True
    suffix = space.partition("--")[2].removeprefix("-")
    whole = bool(suffix) and "--" not in suffix and "--" not in owner
    return whole and _derived(owner, suffix) == space


def owner_of(space: str, known: Collection[str]) -> str:
    """The owner whose namespace ``space`` is by ``is_of``; itself where it is nobody's. ``known``:
    all namespaces that are held, among which one is looked for whose name was cut."""
    owners = sorted(each for each in known if "--" not in each)
    return next((each for each in (space.partition("--")[0], *owners) if is_of(space, each)), space)


def preview_secrets(owner: str) -> str:
    """The namespace of what an owner's previews may know: ``<owner>--preview``."""
    return derived_namespace(owner, "preview")


def repository_name(value: str) -> str:
    """Returns a repository's name as forges allow it, or raises InvalidRequest."""
    if not REPOSITORY.fullmatch(value) or value.endswith((".git", ".lock")) or ".." in value:
        raise InvalidRequest(
            f"{_shown(value)} is not a repository name: use letters, digits, '-', '_' and '.', "
            "at most 200 characters, not '..', and no '.git' or '.lock' at the end"
        )
    return value


NO_COMMIT = "0" * 40
"""What stands in place of a commit where a branch was deleted, as git itself writes it."""
NONE_AT_ALL = "has none at its root or below"
"""Within the reason of a release whose commit has no stack file."""
TAKES_OVER = "com.slipway.takes-over"
"""Annotation: the repository of the same owner that a function moves away from."""


def request_number(reference: str) -> int:
    """The number of the request whose head lies at ``reference``; 0: it is no such reference."""
    match = REQUEST.fullmatch(reference)
    return int(match[1]) if match else 0


def commit(value: str) -> str:
    """Returns a full commit id (SHA-1 or SHA-256), or raises InvalidRequest."""
    if not COMMIT.fullmatch(value):
        raise InvalidRequest(f"{_shown(value)} is not a full commit id of 40 or 64 hex digits")
    return value


def secret_name(value: str) -> str:
    """Returns a secret's name as Kubernetes has it (RFC 1123 subdomain); else InvalidRequest."""
    if len(value) > 253 or not SECRET.fullmatch(value):
        raise InvalidRequest(
            f"{_shown(value)} is not a secret's name: use lower-case letters, digits, '-' and '.', "
            "at most 253 characters, a letter or digit at both ends and around each '.'"
        )
    return value


def release_id(value: str) -> str:
    """Returns a release id as given, or raises InvalidRequest."""
    if not RELEASE.fullmatch(value):
        raise InvalidRequest(f"{_shown(value)} is not a release id: see 'slipway releases'")
    return value


def rollback_id(value: str) -> str:
    """Returns a rollback's id as given, or raises InvalidRequest."""
    if not ROLLBACK.fullmatch(value):
        raise InvalidRequest(f"{_shown(value)} is not a rollback's id: those are b and a number")
    return value


def token_id(value: str) -> str:
    """Returns the id of an owner's token, or raises InvalidRequest."""
    if not TOKEN.fullmatch(value):
        raise InvalidRequest(
            f"{_shown(value)} is no token's id, which has 12 hex digits: see 'slipway token list'"
        )
    return value


def split_function(value: str) -> tuple[str, str]:
    """``name.namespace`` or ``name`` → (name, namespace), as OpenFaaS splits: at the last dot.

    Raises:
        InvalidRequest: one of the two parts is not a label.
    """
    name, dot, space = value.rpartition(".")
    if not dot:
        return function_name(value), DEFAULT_NAMESPACE
    return function_name(name), namespace(space)


def function_key(name: str, space: str = "") -> str:
    """``name`` or ``name.namespace``, and where else the namespace may be told → the key inside.

    Raises:
        InvalidRequest: they do not make a function's name, or tell two namespaces.
    """
    if not space:
        return join_function(*split_function(name))
    namespace(space)
    bare, dot, told = name.rpartition(".")
    if dot and told != space:
        raise InvalidRequest(
            f"{_shown(name)} is not in the namespace {space}: leave one of them out"
        )
    return join_function(function_name(bare if dot else name), space)


def join_function(name: str, space: str) -> str:
    """(name, namespace) → ``name.namespace``, the key of a function everywhere inside."""
    return f"{name}.{space}"


def space_of(function: str) -> str:
    """The namespace of ``name.namespace``."""
    return function.rpartition(".")[2]


def function_path(name: str, space: str) -> str:
    """The URL path that answers for a function."""
    return f"/function/{name}" if space == DEFAULT_NAMESPACE else f"/function/{name}.{space}"


def function_url(base: str, name: str, space: str) -> str:
    """A function's URL below ``Store.functions_url``."""
    if "*" in base:
        return f"{base.replace('*', space)}/{name}"
    return base + function_path(name, space)


def _shown(value: str) -> str:
    """The value as an error text may show it: quoted, escaped and short."""
    return repr(value if len(value) <= 80 else f"{value[:77]}...")

"""Every route, by everybody who may ask, about an object of theirs, of another owner's and of the
administrator's: what is answered, and that a refusal changes nothing and tells nothing.

A route that is not in the table fails this test: whoever adds one says here whom it is for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from core import names
from core.settings import Settings
from core.store import Store
from gateway.app import create_app
from tests.integration.gateway.harness import Gateway
from tests.integration.gateway.places import FORGE, IMAGE, Place, Places

COLUMNS = (
    *("nobody", "builder", "admin", "all", "read", "deploy", "secrets", "push"),
    *("user", "member", "other", "default"),
)
"""The statuses of nobody; of the builder and the admin, about anything; of a token with all scopes
and with just one, of who signed in as an owner and as a member of an organisation, about their own.
Then those of the token with all scopes and of who signed in about another owner's object, and about
the administrator's default namespace. Tokens and sessions that may not do a thing with their own
get the same 403 about others'."""
TABLE = """
GET    /                                       200 200 200 200 200 200 200 200 200 200   -   -
GET    /healthz                                503 503 503 503 503 503 503 503 503 503   -   -
ANY    /function/                              404 404 404 404 404 404 404 404 404 404 404 404
ANY    /async-function/                        202 202 202 202 202 202 202 202 202 202 202 202
POST   /webhooks/<forge>                       401 401 401 401 401 401 401 401 401 401   -   -
POST   /webhooks/<forge>/<hook>                401 401 401 401 401 401 401 401 401 401   -   -
GET    /internal/repositories/<n>/<name>/head 401 404 401 401 401 401 401 401 401 401 401 401
GET    /internal/repositories/<n>/<name>/credential 401 404 401 401 401 401 401 401 401 401 401 401
GET    /internal/repositories/<n>/<name>/tags 401 404 401 401 401 401 401 401 401 401 401 401
PUT    /internal/repositories/<n>/<name>/tags 401 404 401 401 401 401 401 401 401 401 401 401
GET    /internal/repositories/<n>/<name>/standing 401 404 401 401 401 401 401 401 401 401 401 401
POST   /internal/repositories/<n>/<name>/look 401 404 401 401 401 401 401 401 401 401 401 401
GET    /internal/releases/<id_>/secrets        401 409 401 401 401 401 401 401 401 401 401 401
POST   /internal/pushes/<n>/<r>                401 401 401 401 401 401 401 401 401 401 401 401
GET    /login                                  404 404 404 404 404 404 404 404 404 404   -   -
GET    /login/<forge>                          404 404 404 404 404 404 404 404 404 404   -   -
GET    /login/<forge>/callback                 404 404 404 404 404 404 404 404 404 404   -   -
POST   /logout                                 200 200 200 200 200 200 200 200 200 200   -   -
GET    /system/whoami                          401 403 200 200 200 200 200 200 200 200   -   -
GET    /system/info                            401 403 200 200 200 200 200 200 200 200   -   -
GET    /system/openapi.json                    401 403 200 200 200 200 200 200 200 200   -   -
POST   /system/prune                           401 403 400 403 403 403 403 403 403 403   -   -
POST   /system/alert                           401 403 200 403 403 403 403 403 403 403 403 403
GET    /system/functions                       401 403 200 200 200 403 403 403 200 200 404 404
GET    /system/function/<name>                 401 403 200 200 200 403 403 403 200 200 404 404
GET    /system/function/<name>/why             401 403 200 200 200 403 403 403 200 200 404 404
PUT    /system/functions                       401 403 202 202 403 202 403 403 202 403 404 404
POST   /system/functions                       401 403 409 409 403 409 403 403 409 403 404 404
DELETE /system/functions                       401 403 202 202 403 202 403 403 202 403 404 404
POST   /system/scale-function/<name>           401 403 202 202 403 202 403 403 202 403 404 404
GET    /system/logs                            401 403 200 200 200 403 403 403 200 200 404 404
GET    /system/schedules                       401 403 200 200 200 403 403 403 200 200 404 404
GET    /system/namespaces                      401 403 200 200 200 200 200 200 200 200   -   -
GET    /system/namespace/<name>                401 403 200 200 200 403 403 403 200 200 404 404
POST   /system/namespace/                      401 403 409 403 403 403 403 403 403 403 403 403
POST   /system/namespace/<name>                401 403 409 403 403 403 403 403 403 403 403 403
PUT    /system/namespace/<name>                401 403 202 403 403 403 403 403 403 403 403 403
DELETE /system/namespace/<name>                401 403 409 403 403 403 403 403 403 403 403 403
GET    /system/secrets                         401 403 200 200 403 403 200 403 200 403 404 404
POST   /system/secrets                         401 403 409 409 403 403 409 403 409 403 404 404
PUT    /system/secrets                         401 403 200 200 403 403 200 403 200 403 404 404
DELETE /system/secrets                         401 403 200 200 403 403 200 403 200 403 404 404
GET    /sealing-key                            200 200 200 200 200 200 200 200 200 200   -   -
GET    /system/sealing-key                     401 403 200 200 403 403 200 403 200 403 404 404
GET    /system/sealing-keys                    401 403 200 403 403 403 403 403 403 403 403 403
POST   /system/sealing-keys                    401 403 202 403 403 403 403 403 403 403 403 403
DELETE /system/sealing-keys/<id_>              401 403 404 403 403 403 403 403 403 403 403 403
GET    /system/policy                          401 403 200 403 403 403 403 403 403 403 403 403
GET    /system/policy/<name>                   401 403 200 200 200 403 403 403 200 200 404 404
GET    /setup/github                           401 403 200 403 403 403 403 403 401 401   -   -
GET    /setup/github/callback                  401 403 403 403 403 403 403 403 401 401   -   -
GET    /system/environments                    401 403 200 200 200 403 403 403 200 200 404 404
POST   /system/promote                         401 403 400 400 403 400 403 403 400 403 404 404
GET    /system/previews                        401 403 200 200 200 403 403 403 200 200 404 404
POST   /system/previews/<n>/<r>/<number>/approve 401 403 404 404 403 404 403 403 404 403 404 404
GET    /system/variables                       401 403 200 200 200 403 403 403 200 200 404 404
PUT    /system/variables                       401 403 204 204 403 204 403 403 204 403 404 404
DELETE /system/variables                       401 403 204 204 403 204 403 403 204 403 404 404
GET    /system/tokens                          401 403 200 200 200 403 403 403 200 200 404 404
POST   /system/tokens                          401 403 201 403 403 403 403 403 201 403 404 400
DELETE /system/tokens/<id_>                    401 403 204 403 403 403 403 403 204 403 404 404
GET    /system/releases                        401 403 200 200 200 403 403 403 200 200 404 404
POST   /system/releases                        401 403 202 202 403 202 403 403 202 403 404 404
GET    /system/releases/<id_>                  401 403 200 200 200 403 403 403 200 200 404 404
GET    /system/releases/<id_>/logs             401 403 200 200 200 403 403 403 200 200 404 404
DELETE /system/releases/<id_>                  401 403 200 200 403 200 403 403 200 403 404 404
PUT    /system/releases/<id_>/artifacts        401 409 409 403 403 403 403 403 403 403 403 403
GET    /system/releases/<id_>/page             401 403 200 200 200 403 403 403 200 200 404 404
GET    /releases/<id_>                         303 303 303 303 303 303 303 303 303 303   -   -
GET    /releases/<id_>/log                     303 303 303 303 303 303 303 303 303 303   -   -
GET    /badge/<n>/<r>.svg                      404 404 404 404 404 404 404 404 404 404   -   -
POST   /system/rollback                        401 403 202 202 403 202 403 403 202 403 404 404
GET    /system/rollbacks                       401 403 200 200 200 403 403 403 200 200 404 404
GET    /system/rollbacks/<id_>                 401 403 200 200 200 403 403 403 200 200 404 404
GET    /system/dead-letters                    401 403 200 200 200 403 403 403 200 200 404 404
GET    /system/dead-letters/<id_>              401 403 200 200 200 403 403 403 200 200 404 404
POST   /system/dead-letters/<id_>/replay       401 403 202 202 403 202 403 403 202 403 404 404
POST   /system/dead-letters/replay             401 403 202 202 403 202 403 403 202 403 404 404
DELETE /system/dead-letters/<id_>              401 403 204 204 403 204 403 403 204 403 404 404
GET    /system/hooks                           401 403 200 403 403 403 403 403 403 403 403 403
POST   /system/hooks                           401 403 201 403 403 403 403 403 403 403 403 403
DELETE /system/hooks/<id_>                     401 403 404 403 403 403 403 403 403 403 403 403
GET    /system/owners                          401 403 200 403 403 403 403 403 403 403 403 403
PUT    /system/owners                          401 403 202 403 403 403 403 403 403 403 403 403
DELETE /system/owners                          401 403 404 403 403 403 403 403 403 403 403 403
GET    /metrics                                401 403 200 200 200 403 403 403 401 401   -   -
GET    /git/<n>/<r>.git/info/refs              401 403 200 200 403 403 403 200 401 401 404 400
POST   /git/<n>/<r>.git/git-upload-pack        401 415 415 415 403 403 403 415 401 401 404 400
POST   /git/<n>/<r>.git/git-receive-pack       401 403 415 415 403 403 403 415 401 401 404 400
GET    /git/<path:path>                        401 403 404 404 404 404 404 404 401 401   -   -
POST   /git/<path:path>                        401 403 404 404 404 404 404 404 401 401   -   -
PUT    /git/<path:path>                        401 403 404 404 404 404 404 404 401 401   -   -
DELETE /git/<path:path>                        401 403 404 404 404 404 404 404 401 401   -   -
PATCH  /git/<path:path>                        401 403 404 404 404 404 404 404 401 401   -   -
"""
OPEN = (
    "/function/",
    "/async-function/",
    "/webhooks/",
    "/internal/",
    "/healthz",
    "/log",
    "/sealing-key",
    "/releases/",
    "/badge/",
)
LIMITED = ("all", "read", "deploy", "secrets", "push", "user", "member")
BY_ROLE = (("POST", "/system/tokens"), ("DELETE", "/system/tokens/<id_>"))
"""What a token is refused for being a token, whatever its scopes."""
OWN = {"user": "ann", "member": "corp"}
"""The namespace that each role's own objects lie in; else ``acme``."""


def rows() -> Iterator[tuple[tuple[str, str], dict[str, str]]]:
    for line in TABLE.strip().splitlines():
        method, path, *statuses = line.split()
        path = path.replace("<n>/<r>", "<namespace>/<repository>").replace("<n>", "<namespace>")
        yield (method, path), dict(zip(COLUMNS, statuses, strict=True))


EXPECTED = dict(rows())


@pytest.fixture
def places(gateway: Gateway, store: Store) -> Places:
    return Places(gateway, store)


def asked(method: str, path: str, place: Place) -> tuple[str, dict[str, Any]]:
    """(path, query and body) of a good request about what is in ``place``."""
    space, mark = place.space, place.mark
    function, repository = f"f-{mark}", f"back-{mark}"
    id_ = place.live
    if path.startswith("/system/rollbacks"):
        id_ = place.rollback
    elif path.startswith("/system/dead-letters"):
        id_ = place.letter
    elif path.startswith("/system/tokens"):
        id_ = place.token
    elif method == "DELETE":
        id_ = place.queued
    name = space if "namespace" in path or "policy" in path else f"{function}.{space}"
    filled = path.replace("<id_>", id_).replace("<name>", name).replace("<path:path>", "x")
    filled = (
        filled.replace("<forge>", "github").replace("<hook>", "a" * 16).replace("<number>", "5")
    )
    filled = filled.replace("<namespace>", space).replace("<repository>", f"new-{mark}")
    in_space = {"params": {"namespace": space}}
    bodies: dict[str, dict[str, Any]] = {
        "POST /system/prune": {"json": {"dryRun": "?"}},
        "POST /system/alert": {
            "json": {
                "alerts": [{"status": "firing", "labels": {"function_name": f"{function}.{space}"}}]
            }
        },
        "PUT /system/functions": {
            "json": {"service": function, "image": IMAGE, "namespace": space}
        },
        "POST /system/functions": {
            "json": {"service": function, "image": IMAGE, "namespace": space}
        },
        "DELETE /system/functions": {"json": {"functionName": function, "namespace": space}},
        "POST /system/scale-function/<name>": {"json": {"replicas": 2}},
        "GET /system/logs": {"params": {"name": f"{function}.{space}"}},
        "POST /system/secrets": {
            "json": {"name": f"secret-{mark}", "namespace": space, "value": "x"}
        },
        "PUT /system/secrets": {
            "json": {"name": f"secret-{mark}", "namespace": space, "value": "x"}
        },
        "DELETE /system/secrets": {"json": {"name": f"secret-{mark}", "namespace": space}},
        "PUT /system/variables": {"json": {"namespace": space, "variables": {"A": "b"}}},
        "DELETE /system/variables": {"params": {"namespace": space, "name": f"V_{mark}"}},
        "GET /system/sealing-key": {"params": {"namespace": space, "repository": repository}},
        "POST /system/previews/<namespace>/<repository>/<number>/approve": {
            "json": {"commit": "a" * 40}
        },
        "POST /system/hooks": {"json": {"forge": "github", "repository": f"{space}/x"}},
        "PUT /system/owners": {"json": {"owner": f"{FORGE}#7", "namespace": "acme"}},
        "DELETE /system/owners": {"json": {"owner": f"{FORGE}#7"}},
        "POST /system/tokens": {"json": {"namespace": space}},
        "POST /system/releases": {"json": {"namespace": space, "repository": repository}},
        "PUT /system/releases/<id_>/artifacts": {"json": {"commit": "a" * 40, "functions": []}},
        "POST /system/promote": {"json": {"namespace": space, "repository": repository}},
        "POST /system/rollback": {"json": {"namespace": space, "repository": repository}},
        "POST /system/dead-letters/replay": {"params": {"function": f"{function}.{space}"}},
        "GET /git/<namespace>/<repository>.git/info/refs": {
            "params": {"service": "git-receive-pack"}
        },
        "GET /internal/releases/<id_>/secrets": {"params": {"name": f"secret-{mark}"}},
    }
    if method == "ANY":
        filled += f"{function}.{space}" if path.startswith("/async") else f"absent.{space}"
    elif path in ("/system/namespace/", "/system/namespace/<name>") and method != "GET":
        body = {"name": space, "labels": {"openfaas": "1"}}
        return filled, {"json": body} if method != "DELETE" else {}
    return filled, bodies.get(f"{method} {path}", in_space if method == "GET" else {})


def test_the_table_has_every_route(settings: Settings, store: Store) -> None:
    there = {
        (method, rule.rule)
        for rule in create_app(settings, store).url_map.iter_rules()
        for method in (rule.methods or {"ANY"})
        if method not in ("HEAD", "OPTIONS")
    }
    assert there == set(EXPECTED)


@pytest.mark.parametrize(("method", "path"), EXPECTED, ids=lambda each: str(each))
def test_everybody_gets_what_the_table_says(places: Places, method: str, path: str) -> None:
    row = EXPECTED[method, path]
    wrong = []
    for role in ("nobody", "wrong", "revoked", "expired", "builder", "admin", *LIMITED):
        for column, space in (
            (role if role in row else "nobody", OWN.get(role, "acme")),
            ("other", "umbrella"),
            ("default", "openfaas-fn"),
        ):
            expected = _expected(row, role, column, scoped=(method, path) not in BY_ROLE)
            if expected == "-":
                continue
            told = _told(places, role, method, path, places.of[space])
            if told != [expected]:
                wrong.append(f"{role} {method} {path} of {space}: {told}, and not {expected}")
    assert not wrong, "\n".join(wrong)


def _expected(row: dict[str, str], role: str, column: str, *, scoped: bool) -> str:
    """``scoped``: who lacks a scope lacks it everywhere, and is told before anything is looked
    at."""
    own = row.get(role, row["nobody"])
    if column not in ("other", "default"):
        return own
    if role in LIMITED and own != "401" and (own != "403" or not scoped):
        return row[column]
    return "-" if role in ("admin", "builder") or row[column] == "-" else own


def _told(places: Places, role: str, method: str, path: str, place: Place) -> list[str]:
    """The status; with it what must not be: names of others, changes by what was refused."""
    places.restore()
    filled, more = asked(method, path, place)
    options = {**more, "allow_redirects": False}
    if role == "admin":
        options["auth"] = places.gateway.auth
    else:
        options["headers"] = places.headers[role]
    answer = places.gateway.anonymous("POST" if method == "ANY" else method, filled, **options)
    told = [str(answer.status_code)]
    said = f"{filled} {more}"
    for other in places.of.values():
        hidden = other.space not in (OWN.get(role, "acme"), place.space)
        refused = answer.status_code >= 400
        tells = other.mark in answer.text and other.mark not in said
        if role in LIMITED and (hidden or refused) and tells and not path.startswith(OPEN):
            told.append(f"it tells of {other.mark}")
    places.dirty = answer.status_code < 400 or path.startswith(OPEN)
    if not places.dirty:
        told += sorted(f"it changed {key}" for key in places.changed())
    return told


def test_who_is_not_there_and_who_is_not_theirs_are_told_alike(places: Places) -> None:
    """By no answer can an owner find out what others have."""
    theirs = places.of["umbrella"]
    letter = theirs.letter[:-4] + "ffff"
    absent = Place("nowhere", "nomark", "r999-aaaaaaa", "r998-aaaaaaa", "b999", letter, "f" * 12)
    for method, path in EXPECTED:
        if EXPECTED[method, path]["other"] == "-" or path.startswith(OPEN):
            continue
        answers = []
        for place in (theirs, absent):
            places.restore()
            filled, more = asked(method, path, place)
            answer = places.gateway.anonymous(method, filled, headers=places.headers["all"], **more)
            text = answer.text
            for word in sorted(vars(place).values(), key=len, reverse=True):
                text = text.replace(word, "…")
            answers.append((answer.status_code, text))
        assert answers[0] == answers[1], (method, path)


def test_head_and_options_tell_no_more(places: Places) -> None:
    headers = places.headers["all"]
    for method, path in EXPECTED:
        if method != "GET" or EXPECTED[method, path]["other"] == "-" or path.startswith(OPEN):
            continue
        filled, more = asked(method, path, places.of["umbrella"])
        told = places.gateway.anonymous("GET", filled, headers=headers, **more)
        head = places.gateway.anonymous("HEAD", filled, headers=headers, **more)
        assert (head.status_code, head.text) == (told.status_code, ""), path
        assert places.gateway.anonymous("HEAD", filled, **more).status_code == 401, path
        assert places.gateway.anonymous("OPTIONS", filled, **more).status_code == 401, path
        asked_for = places.gateway.anonymous("OPTIONS", filled, headers=headers, **more)
        assert "umb" not in asked_for.text, path
    assert not places.changed()


CUT = names.derived_namespace("a" * 60, "staging")


@pytest.mark.parametrize(
    ("space", "owner", "theirs"),
    [
        ("acme", "acme", True),
        ("acme--staging", "acme", True),
        ("acme--pr-5", "acme", True),
        ("acme-2", "acme", False),
        ("acmex", "acme", False),
        ("a", "acme", False),
        ("acme--a--b", "acme", False),
        ("a--" + "b" * 60, "acme", False),
        ("other--acme", "acme", False),
        (names.derived_namespace("a" * 60, "staging"), "a" * 60, True),
        (names.derived_namespace("a" * 60, "staging"), "a" * 59, False),
        (CUT, CUT.partition("--")[0], False),
    ],
)
def test_which_namespaces_are_an_owner_s(space: str, owner: str, theirs: bool) -> None:
    assert names.is_of(space, owner) is theirs

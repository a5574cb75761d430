"""Every operation of the API: who may call it, what it takes, what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from core.models import Artifacts, LogLine, Release, Rollback
from core.openfaas import (
    Alerts,
    FunctionDeletion,
    FunctionDeployment,
    FunctionStatus,
    Namespace,
    Scale,
    SystemInfo,
)
from core.store.tokens import ListedToken, NewToken
from forges.gitea import webhooks as gitea
from forges.github import webhooks as github
from forges.gitlab import webhooks as gitlab
from gateway.calls import CallStatus
from gateway.deadletters import DeadLetter, Replayed, WholeLetter
from gateway.environments import Environment
from gateway.forgehooks import ListedHook, NewHook, WantedHook
from gateway.health import Health
from gateway.logreading import Message
from gateway.openapi import limits
from gateway.openapi.limits import Limit
from gateway.owners import LinkedOwner, UnlinkedOwner
from gateway.policy import OwnerState, PolicyState
from gateway.previewlist import Approval, Preview
from gateway.promotions import Promote
from gateway.prune import Prune, PruneReport
from gateway.releases import Start
from gateway.rollbacks import Back
from gateway.schedules import FunctionSchedule
from gateway.sealing import HeldKey, SealingAddress, SealingKey, Wanted
from gateway.secrets import Given, Listed, Named
from gateway.signin import Whoami
from gateway.tokens import TokenWanted
from gateway.variables import Variables
from gateway.webhooks import Noted
from gateway.why import Why

JSON = "application/json"
NDJSON = "application/x-ndjson"
TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"
PROMETHEUS = CONTENT_TYPE_PLAIN_0_0_4
ANY = "*/*"


@dataclass(frozen=True, kw_only=True)
class Query:
    """A parameter of the query, or a header."""

    name: str
    description: str
    type: Any = str
    format: str = ""
    limit: Limit = field(default_factory=dict)
    required: bool = False
    where: Literal["query", "header"] = "query"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """``type`` as JSON, or as ``media``; a medium alone is text or bytes; neither: no body.
    ``headers``: name → what it says, of those that are always there."""

    status: int
    description: str
    type: Any = None
    media: str = ""
    or_text: bool = False
    or_bytes: bool = False
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Operation:
    method: str
    path: str
    id: str
    tag: str
    summary: str
    who: Literal["admin", "owner", "builder", "open"] = "owner"
    """``owner``: of what is theirs, and the admin of all."""
    named: Limit = field(default_factory=lambda: limits.FUNCTION)
    """What may stand for ``name`` or ``id`` in the path."""
    parts: dict[str, Limit] = field(default_factory=dict)
    """The same of others that stand there."""
    query: tuple[Query, ...] = ()
    body: Any = None
    takes_bytes: bool = False
    answers: tuple[Answer, ...]
    errors: tuple[int, ...] = ()
    """Beside those of ``_always``."""

    def __post_init__(self) -> None:
        always = {503} | ({401, 403} if self.who != "open" else set())
        always |= {404} if self.who == "owner" else set()
        object.__setattr__(self, "errors", tuple(sorted({*self.errors, *always})))


NAMESPACE = Query(
    name="namespace",
    description="`openfaas-fn` where none is named; the body's counts before it",
    limit=limits.LABEL,
)
OF_NAMESPACE = Query(
    name="namespace", description="only those of this namespace; else all", limit=limits.LABEL
)
OF_FUNCTION = Query(
    name="namespace",
    description="of the function, where the name has none",
    limit=limits.LABEL,
)
ACCEPTED = Answer(status=202, description="It is the desired state now; the runtime follows.")


def _functions() -> list[Operation]:
    tag = "functions"
    return [
        Operation(
            method="GET",
            path="/system/functions",
            id="listFunctions",
            tag=tag,
            summary="All functions, by name",
            query=(OF_NAMESPACE,),
            answers=(Answer(status=200, description="Functions", type=list[FunctionStatus]),),
            errors=(400,),
        ),
        Operation(
            method="POST",
            path="/system/functions",
            id="createFunction",
            tag=tag,
            summary="Deploys a function that is not there",
            query=(NAMESPACE,),
            body=FunctionDeployment,
            answers=(ACCEPTED,),
            errors=(400, 409, 413, 501),
        ),
        Operation(
            method="PUT",
            path="/system/functions",
            id="updateFunction",
            tag=tag,
            summary="Deploys a function anew; the old one serves until the new one is healthy",
            query=(NAMESPACE,),
            body=FunctionDeployment,
            answers=(ACCEPTED,),
            errors=(400, 404, 409, 413, 501),
        ),
        Operation(
            method="DELETE",
            path="/system/functions",
            id="deleteFunction",
            tag=tag,
            summary="Removes a function that was deployed by API",
            query=(NAMESPACE,),
            body=FunctionDeletion,
            answers=(ACCEPTED,),
            errors=(400, 404, 409, 413),
        ),
        Operation(
            method="GET",
            path="/system/function/{name}",
            id="getFunction",
            tag=tag,
            summary="One function, by `name` and namespace or by `name.namespace`",
            query=(
                OF_FUNCTION,
                Query(
                    name="usage",
                    description="`1` or `true`: also what its replicas use, for which it may "
                    "take four seconds; absent where it cannot be measured",
                ),
            ),
            answers=(Answer(status=200, description="The function", type=FunctionStatus),),
            errors=(400, 404),
        ),
        Operation(
            method="GET",
            path="/system/function/{name}/why",
            id="whyFunction",
            tag=tag,
            summary="What the release that a function is of changed: names, never values",
            query=(OF_FUNCTION,),
            answers=(Answer(status=200, description="What changed", type=Why),),
            errors=(400, 404),
        ),
        Operation(
            method="GET",
            path="/system/schedules",
            id="listSchedules",
            tag=tag,
            summary="Functions that are called on a schedule, the next one first",
            query=(OF_NAMESPACE,),
            answers=(Answer(status=200, description="Schedules", type=list[FunctionSchedule]),),
            errors=(400,),
        ),
        Operation(
            method="POST",
            path="/system/scale-function/{name}",
            id="scaleFunction",
            tag=tag,
            summary="Sets the number of replicas; a release sets it anew",
            query=(NAMESPACE,),
            body=Scale,
            answers=(ACCEPTED,),
            errors=(400, 404, 413),
        ),
        Operation(
            method="POST",
            path="/system/alert",
            id="alert",
            tag=tag,
            who="admin",
            summary="Scales by the alerts of Prometheus' Alertmanager",
            body=Alerts,
            answers=(Answer(status=200, description="Every alert was heard"),),
            errors=(400, 404, 413),
        ),
        Operation(
            method="GET",
            path="/system/logs",
            id="logs",
            tag=tag,
            summary="What a function wrote, a JSON value a line; live with `follow`",
            query=(
                Query(
                    name="name",
                    description="`name` or `name.namespace`",
                    limit=limits.FUNCTION,
                    required=True,
                ),
                OF_FUNCTION,
                Query(
                    name="instance",
                    description="lines of this replica alone",
                    limit=limits.REPLICA,
                ),
                Query(
                    name="tail",
                    description="the last so many lines that are kept; 0 or less: all",
                    type=int,
                    limit=limits.LINES,
                ),
                Query(
                    name="since",
                    description="lines written at that time or later",
                    format="date-time",
                ),
                Query(name="follow", description="go on with what is written from now", type=bool),
            ),
            answers=(Answer(status=200, description="Lines", type=Message, media=NDJSON),),
            errors=(400, 404),
        ),
    ]


def _secrets() -> list[Operation]:
    tag = "secrets"
    return [
        Operation(
            method="GET",
            path="/system/secrets",
            id="listSecrets",
            tag=tag,
            summary="Names of a namespace's secrets; values never leave",
            query=(NAMESPACE,),
            answers=(Answer(status=200, description="Secrets", type=list[Listed]),),
            errors=(400,),
        ),
        Operation(
            method="POST",
            path="/system/secrets",
            id="createSecret",
            tag=tag,
            summary="Creates a secret",
            query=(NAMESPACE,),
            body=Given,
            answers=(Answer(status=201, description="It is there", media=TEXT),),
            errors=(400, 409, 413, 422),
        ),
        Operation(
            method="PUT",
            path="/system/secrets",
            id="updateSecret",
            tag=tag,
            summary="Gives a secret a new value; functions have it once they are deployed again",
            query=(NAMESPACE,),
            body=Given,
            answers=(Answer(status=200, description="It has the new value", media=TEXT),),
            errors=(400, 404, 413, 422),
        ),
        Operation(
            method="DELETE",
            path="/system/secrets",
            id="deleteSecret",
            tag=tag,
            summary="Deletes a secret; the answer names the functions that use it",
            query=(NAMESPACE,),
            body=Named,
            answers=(Answer(status=200, description="It is gone", media=TEXT),),
            errors=(400, 404, 413, 422),
        ),
    ]


def _sealing() -> list[Operation]:
    tag = "secrets"
    return [
        Operation(
            method="GET",
            path="/sealing-key",
            id="getSealingKey",
            tag=tag,
            summary="The public key that values for git are sealed with",
            who="open",
            answers=(Answer(status=200, description="The key", type=SealingKey),),
        ),
        Operation(
            method="GET",
            path="/system/sealing-key",
            id="getSealingAddress",
            tag=tag,
            summary="With what, and for which repository, a value is sealed",
            query=(
                Query(
                    name="namespace",
                    description="of the repository",
                    limit=limits.LABEL,
                    required=True,
                ),
                Query(
                    name="repository",
                    description="its name",
                    limit=limits.REPOSITORY,
                    required=True,
                ),
                Query(name="environment", description="of the repository, where it is for one"),
            ),
            answers=(Answer(status=200, description="Key and address", type=SealingAddress),),
            errors=(400, 404, 409),
        ),
        Operation(
            method="GET",
            path="/system/sealing-keys",
            id="listSealingKeys",
            tag=tag,
            who="admin",
            summary="All public keys, and which functions need them",
            answers=(Answer(status=200, description="The oldest first", type=list[HeldKey]),),
        ),
        Operation(
            method="POST",
            path="/system/sealing-keys",
            id="rotateSealingKey",
            tag=tag,
            who="admin",
            summary="Makes a new key to seal with; earlier ones go on opening",
            answers=(Answer(status=202, description="The controller makes it", type=Wanted),),
            errors=(409,),
        ),
        Operation(
            method="DELETE",
            path="/system/sealing-keys/{id}",
            id="deleteSealingKey",
            tag=tag,
            who="admin",
            summary="Deletes an old key: what is sealed with it never opens again",
            named=limits.FINGERPRINT,
            answers=(Answer(status=202, description="The controller deletes it"),),
            errors=(404, 409),
        ),
    ]


def _namespaces() -> list[Operation]:
    tag = "namespaces"
    return [
        Operation(
            method="GET",
            path="/system/namespaces",
            id="listNamespaces",
            tag=tag,
            summary="All namespaces",
            answers=(Answer(status=200, description="Names", type=list[str]),),
        ),
        Operation(
            method="POST",
            path="/system/namespace/",
            id="createNamespace",
            tag=tag,
            who="admin",
            summary="Creates a namespace; the name may stand in the path as well",
            body=Namespace,
            answers=(Answer(status=201, description="It is there"),),
            errors=(400, 409, 413),
        ),
        Operation(
            method="POST",
            path="/system/namespace/{name}",
            id="createNamedNamespace",
            tag=tag,
            named=limits.LABEL,
            who="admin",
            summary="Creates a namespace",
            body=Namespace,
            answers=(Answer(status=201, description="It is there"),),
            errors=(400, 409, 413),
        ),
        Operation(
            method="GET",
            path="/system/namespace/{name}",
            id="getNamespace",
            tag=tag,
            named=limits.LABEL,
            summary="One namespace",
            answers=(Answer(status=200, description="The namespace", type=Namespace),),
            errors=(400, 404),
        ),
        Operation(
            method="PUT",
            path="/system/namespace/{name}",
            id="updateNamespace",
            tag=tag,
            named=limits.LABEL,
            who="admin",
            summary="Replaces labels and annotations",
            body=Namespace,
            answers=(ACCEPTED,),
            errors=(400, 404, 413),
        ),
        Operation(
            method="DELETE",
            path="/system/namespace/{name}",
            id="deleteNamespace",
            tag=tag,
            named=limits.LABEL,
            who="admin",
            summary="Deletes an empty namespace",
            answers=(ACCEPTED,),
            errors=(400, 404, 409),
        ),
    ]


def _variables() -> list[Operation]:
    tag = "variables"
    return [
        Operation(
            method="GET",
            path="/system/variables",
            id="getVariables",
            tag=tag,
            summary="What `${NAME}` stands for in the stack files of a namespace",
            query=(NAMESPACE,),
            answers=(Answer(status=200, description="Variables", type=Variables),),
            errors=(400,),
        ),
        Operation(
            method="PUT",
            path="/system/variables",
            id="setVariables",
            tag=tag,
            summary="Adds or changes variables; they count from the next release on",
            body=Variables,
            answers=(Answer(status=204, description="They are set"),),
            errors=(400, 413),
        ),
        Operation(
            method="DELETE",
            path="/system/variables",
            id="deleteVariable",
            tag=tag,
            summary="Removes a variable",
            query=(NAMESPACE, Query(name="name", description="of the variable", required=True)),
            answers=(Answer(status=204, description="It is gone"),),
            errors=(400, 404),
        ),
    ]


def _policy() -> list[Operation]:
    tag = "policy"
    return [
        Operation(
            method="GET",
            path="/system/policy",
            id="getPolicy",
            tag=tag,
            who="admin",
            summary="The policy in force: who may deploy, what bounds everybody",
            answers=(Answer(status=200, description="The policy", type=PolicyState),),
        ),
        Operation(
            method="GET",
            path="/system/policy/{name}",
            id="getOwnerPolicy",
            tag=tag,
            named=limits.LABEL,
            summary="What bounds the owner of a namespace, and what it has of that",
            answers=(Answer(status=200, description="Bounds and use", type=OwnerState),),
            errors=(400,),
        ),
    ]


def _tokens() -> list[Operation]:
    tag = "tokens"
    return [
        Operation(
            method="GET",
            path="/system/tokens",
            id="listTokens",
            tag=tag,
            summary="Owners' tokens, the oldest first; never the token itself",
            query=(OF_NAMESPACE,),
            answers=(Answer(status=200, description="Tokens", type=list[ListedToken]),),
            errors=(400,),
        ),
        Operation(
            method="POST",
            path="/system/tokens",
            id="createToken",
            tag=tag,
            summary="Makes a token for an owner; it is shown this once",
            body=TokenWanted,
            answers=(Answer(status=201, description="The token", type=NewToken),),
            errors=(400, 409, 413),
        ),
        Operation(
            method="DELETE",
            path="/system/tokens/{id}",
            id="revokeToken",
            tag=tag,
            named=limits.TOKEN,
            summary="Revokes a token",
            answers=(Answer(status=204, description="It opens nothing any more"),),
            errors=(400, 404),
        ),
    ]


def _signing_in() -> list[Operation]:
    tag = "signing in"
    forge = {"enum": ["github", "gitlab"]}
    afterwards = Query(name="next", description="the path here to go on to")
    to = {"Location": "Where the browser goes on"}
    return [
        Operation(
            method="GET",
            path="/login",
            id="login",
            tag=tag,
            summary="A page with the forges to sign in with",
            who="open",
            query=(afterwards,),
            answers=(Answer(status=200, description="The page", media="text/html"),),
            errors=(404,),
        ),
        Operation(
            method="GET",
            path="/login/{forge}",
            id="beginLogin",
            tag=tag,
            summary="Sends the browser to the forge",
            who="open",
            named=forge,
            query=(afterwards,),
            answers=(Answer(status=302, description="To the forge", headers=to),),
            errors=(404,),
        ),
        Operation(
            method="GET",
            path="/login/{forge}/callback",
            id="finishLogin",
            tag=tag,
            summary="Where the forge sends the browser back to; sets the session's cookie",
            who="open",
            named=forge,
            query=(
                Query(name="state", description="of the sign-in that this browser began"),
                Query(name="code", description="what the forge trades for who it is"),
            ),
            answers=(Answer(status=302, description="Signed in", headers=to),),
            errors=(400, 403, 404),
        ),
        Operation(
            method="POST",
            path="/logout",
            id="logout",
            tag=tag,
            summary="Takes the session's cookie back",
            who="open",
            answers=(Answer(status=200, description="Signed out", media=TEXT),),
            errors=(403,),
        ),
        Operation(
            method="GET",
            path="/system/whoami",
            id="whoami",
            tag=tag,
            summary="Who asks, and what they may where",
            answers=(Answer(status=200, description="Who it is", type=Whoami),),
        ),
    ]


def _releases() -> list[Operation]:
    tag = "releases"
    return [
        Operation(
            method="GET",
            path="/system/releases",
            id="listReleases",
            tag=tag,
            summary="Releases, the newest first",
            query=(
                OF_NAMESPACE,
                Query(
                    name="repository",
                    description="only those of this repository",
                    limit=limits.REPOSITORY,
                ),
                Query(
                    name="limit",
                    description="the most that are listed; 50 where it is not given",
                    type=int,
                    limit=limits.LISTED,
                ),
            ),
            answers=(Answer(status=200, description="Releases", type=list[Release]),),
            errors=(400,),
        ),
        Operation(
            method="POST",
            path="/system/releases",
            id="startRelease",
            tag=tag,
            summary="Releases a commit again, or the newest one",
            body=Start,
            answers=(Answer(status=202, description="It is on its way", type=Release),),
            errors=(400, 404, 413),
        ),
        Operation(
            method="GET",
            path="/system/releases/{id}",
            id="getRelease",
            tag=tag,
            named=limits.RELEASE,
            summary="One release",
            answers=(Answer(status=200, description="The release", type=Release),),
            errors=(400, 404),
        ),
        Operation(
            method="DELETE",
            path="/system/releases/{id}",
            id="cancelRelease",
            tag=tag,
            named=limits.RELEASE,
            summary="Takes back a release that is not live yet",
            answers=(
                Answer(status=200, description="The release: nothing is left of it", type=Release),
                Answer(status=202, description="The release: its build still ends", type=Release),
            ),
            errors=(400, 404, 409),
        ),
        Operation(
            method="GET",
            path="/system/releases/{id}/logs",
            id="releaseLogs",
            tag=tag,
            named=limits.RELEASE,
            summary="The log of a release; its last line has `state` and `reason`",
            query=(Query(name="follow", description="go on until it is decided", type=bool),),
            answers=(Answer(status=200, description="Lines", type=LogLine, media=NDJSON),),
            errors=(400, 404),
        ),
        Operation(
            method="PUT",
            path="/system/releases/{id}/artifacts",
            id="putArtifacts",
            tag=tag,
            named=limits.RELEASE,
            summary="Hands over a built commit, all its functions",
            who="builder",
            body=Artifacts,
            answers=(Answer(status=200, description="The release", type=Release),),
            errors=(400, 404, 409, 413, 501),
        ),
        Operation(
            method="GET",
            path="/system/environments",
            id="listEnvironments",
            tag=tag,
            summary="Where repositories are deployed: their deploy branches and environments",
            query=(
                OF_NAMESPACE,
                Query(
                    name="repository",
                    description="only those of this repository",
                    limit=limits.REPOSITORY,
                ),
            ),
            answers=(Answer(status=200, description="Environments", type=list[Environment]),),
            errors=(400,),
        ),
        Operation(
            method="POST",
            path="/system/promote",
            id="promote",
            tag=tag,
            summary="Releases in one environment what is live in another, without a build",
            body=Promote,
            answers=(
                Answer(
                    status=202,
                    description="The release, which is under way",
                    type=Release,
                    headers={"Location": "Where it can be read"},
                ),
            ),
            errors=(400, 404, 409, 413),
        ),
        Operation(
            method="POST",
            path="/system/rollback",
            id="rollBack",
            tag=tag,
            summary="Goes back to what an earlier release brought, without a build",
            body=Back,
            answers=(
                Answer(
                    status=202,
                    description="It is under way",
                    type=Rollback,
                    headers={"Location": "Where it can be read"},
                ),
            ),
            errors=(400, 404, 409, 413),
        ),
        Operation(
            method="GET",
            path="/system/rollbacks",
            id="listRollbacks",
            tag=tag,
            summary="Rollbacks, the newest first",
            query=(
                OF_NAMESPACE,
                Query(
                    name="repository",
                    description="only those of this repository",
                    limit=limits.REPOSITORY,
                ),
            ),
            answers=(Answer(status=200, description="Rollbacks", type=list[Rollback]),),
            errors=(400,),
        ),
        Operation(
            method="GET",
            path="/system/rollbacks/{id}",
            id="getRollback",
            tag=tag,
            named=limits.ROLLBACK,
            summary="One rollback",
            answers=(Answer(status=200, description="The rollback", type=Rollback),),
            errors=(400, 404),
        ),
    ]


def _previews() -> list[Operation]:
    tag = "previews"
    return [
        Operation(
            method="GET",
            path="/system/previews",
            id="listPreviews",
            tag=tag,
            summary="Pull and merge requests, and what of them runs",
            query=(OF_NAMESPACE,),
            answers=(Answer(status=200, description="Previews", type=list[Preview]),),
            errors=(400,),
        ),
        Operation(
            method="POST",
            path="/system/previews/{namespace}/{repository}/{number}/approve",
            id="approvePreview",
            tag=tag,
            parts={
                "namespace": limits.LABEL,
                "repository": limits.REPOSITORY,
                "number": limits.NUMBER,
            },
            summary="Has this commit of a fork's request built, if it is the request's head",
            body=Approval,
            answers=(Answer(status=202, description="It is on its way", type=Preview),),
            errors=(400, 404, 409, 413),
        ),
    ]


def _calls() -> list[Operation]:
    tag = "calls"
    told = {
        "X-Call-Id": "Names the call in logs, and in the answer's callback",
        "X-Start-Time": "When the call came, in nanoseconds since 1970",
        "X-Served-By": "`slipway/` and its version",
    }
    answer = Answer(
        status=200,
        description="What the function answers, whatever that is",
        media=ANY,
        headers=told,
    )
    accepted = Answer(status=202, description="It is kept, and made later", headers=told)
    callback = Query(
        name="X-Callback-Url",
        description="gets the function's answer by POST",
        format="uri",
        where="header",
    )
    called = [
        Operation(
            method=method,
            path=path,
            id=f"call{'Below' if 'path' in path else ''}{method.title()}",
            tag=tag,
            summary="Calls a function and waits; every other method there is works as well",
            who="open",
            takes_bytes=method not in ("GET", "HEAD", "OPTIONS"),
            answers=(answer,),
            errors=(400, 404, 501, 502, 504),
        )
        for path in ("/function/{name}", "/function/{name}/{path}")
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    ]
    later = [
        Operation(
            method="POST",
            path=path,
            id=f"callLater{'Below' if 'path' in path else ''}",
            tag=tag,
            summary="Keeps a call of a function, and answers at once",
            who="open",
            query=(callback,),
            takes_bytes=True,
            answers=(accepted,),
            errors=(400, 404, 413),
        )
        for path in ("/async-function/{name}", "/async-function/{name}/{path}")
    ]
    raw = Query(
        name="raw",
        type=bool,
        description="only the body that the function answered, with its content type",
    )
    kept = [
        Operation(
            method="GET",
            path="/async-function/{name}",
            id="readLater",
            tag=tag,
            summary="What became of a kept call, whose id stands for `name`",
            who="open",
            named=limits.CALL,
            query=(raw,),
            answers=(
                Answer(
                    status=200,
                    description="Its state, and its answer; with `raw` that one's body alone",
                    type=CallStatus,
                    or_bytes=True,
                ),
            ),
            errors=(400, 404, 405, 409),
        ),
        Operation(
            method="DELETE",
            path="/async-function/{name}",
            id="cancelLater",
            tag=tag,
            summary="Ends a kept call, whose id stands for `name`",
            who="open",
            named=limits.CALL,
            answers=(Answer(status=202, description="It is not made, or not to its end"),),
            errors=(404, 405, 409),
        ),
    ]
    return [*called, *later, *kept]


def _dead_letters() -> list[Operation]:
    tag = "dead letters"
    function = Query(
        name="function",
        description="`name` or `name.namespace`: only those of this function",
        limit=limits.FUNCTION,
    )
    return [
        Operation(
            method="GET",
            path="/system/dead-letters",
            id="listDeadLetters",
            tag=tag,
            summary="Asynchronous calls that failed for good, the newest first",
            query=(
                OF_NAMESPACE,
                function,
                Query(
                    name="limit",
                    description="the most that are listed; 100 where it is not given",
                    type=int,
                    limit=limits.LETTERS,
                ),
            ),
            answers=(Answer(status=200, description="Dead letters", type=list[DeadLetter]),),
            errors=(400,),
        ),
        Operation(
            method="GET",
            path="/system/dead-letters/{id}",
            id="getDeadLetter",
            tag=tag,
            named=limits.CALL,
            summary="One of them, with what it calls the function with",
            query=(
                Query(name="raw", type=bool, description="only the body of the call, as it came"),
            ),
            answers=(
                Answer(
                    status=200,
                    description="The dead letter; with `raw` its body alone",
                    type=WholeLetter,
                    or_bytes=True,
                ),
            ),
            errors=(400, 404),
        ),
        Operation(
            method="POST",
            path="/system/dead-letters/{id}/replay",
            id="replayDeadLetter",
            tag=tag,
            named=limits.CALL,
            summary="Has it made anew under the same id, with a new series of attempts",
            answers=(Answer(status=202, description="It is on its way", type=Replayed),),
            errors=(400, 404, 409),
        ),
        Operation(
            method="POST",
            path="/system/dead-letters/replay",
            id="replayDeadLetters",
            tag=tag,
            summary="The same of all of one function, as far as the queue has room",
            query=(OF_FUNCTION, replace(function, required=True)),
            answers=(Answer(status=202, description="They are on their way", type=Replayed),),
            errors=(400, 404),
        ),
        Operation(
            method="DELETE",
            path="/system/dead-letters/{id}",
            id="removeDeadLetter",
            tag=tag,
            named=limits.CALL,
            summary="Removes one for ever",
            answers=(Answer(status=204, description="It is gone"),),
            errors=(400, 404),
        ),
    ]


def _system() -> list[Operation]:
    tag = "system"
    return [
        Operation(
            method="GET",
            path="/system/info",
            id="info",
            tag=tag,
            summary="What this is",
            answers=(Answer(status=200, description="Versions", type=SystemInfo),),
        ),
        Operation(
            method="GET",
            path="/system/openapi.json",
            id="openapi",
            tag=tag,
            summary="This description",
            answers=(Answer(status=200, description="OpenAPI 3.1", type=dict[str, Any]),),
        ),
        Operation(
            method="POST",
            path="/system/prune",
            id="prune",
            tag=tag,
            who="admin",
            summary="Removes what nothing needs any more, or says what that would be",
            body=Prune,
            answers=(Answer(status=200, description="What went, or would go", type=PruneReport),),
            errors=(400, 413),
        ),
        Operation(
            method="GET",
            path="/metrics",
            id="metrics",
            tag=tag,
            summary="What was counted, in Prometheus' text format",
            answers=(Answer(status=200, description="Metrics", media=PROMETHEUS),),
        ),
        Operation(
            method="GET",
            path="/healthz",
            id="healthz",
            tag=tag,
            summary="Whether every part works",
            who="open",
            answers=(
                Answer(status=200, description="All answer", type=Health),
                Answer(status=503, description="Some do not", type=Health),
            ),
        ),
    ]


def _forges() -> list[Operation]:
    tag = "forges"
    event = Operation(
        method="POST",
        path="/webhooks/{forge}",
        id="event",
        tag=tag,
        named=limits.FORGE,
        summary="An event of any repository of a forge; signed with the installation's secret",
        who="open",
        takes_bytes=True,
        query=tuple(
            Query(name=name, description=description, where="header")
            for name, description in (
                (github.SIGNATURE, "of GitHub: `sha256=` and the HMAC of the body by the secret"),
                (github.EVENT, "of GitHub: `push` makes a release of the default branch's head"),
                (github.DELIVERY, "of GitHub: the same once more makes no second release"),
                (gitlab.TOKEN, "of GitLab: the secret token, where it signs nothing"),
                (gitlab.EVENT, "of GitLab: `Push Hook`, `System Hook` and others"),
                (gitea.SIGNATURES[0], "of Gitea and Forgejo: the HMAC of the body by the secret"),
                (gitea.EVENTS[0], "of Gitea and Forgejo: `push` and others"),
            )
        ),
        answers=(
            Answer(status=200, description="A `ping` was understood", media=TEXT),
            Answer(
                status=202,
                description="The releases that it makes, or why it makes none",
                type=Noted,
                or_text=True,
            ),
        ),
        errors=(400, 401, 403, 404, 409, 413),
    )
    return [
        event,
        replace(
            event,
            path="/webhooks/{forge}/{hook}",
            id="eventOfHook",
            summary="An event of one repository; signed with the secret of its own hook",
        ),
        Operation(
            method="GET",
            path="/system/hooks",
            id="listHooks",
            tag=tag,
            who="admin",
            summary="Webhooks of single repositories, the oldest first",
            answers=(Answer(status=200, description="Hooks", type=list[ListedHook]),),
        ),
        Operation(
            method="POST",
            path="/system/hooks",
            id="createHook",
            tag=tag,
            who="admin",
            summary="Makes a webhook for one repository, with a secret that is told this once",
            body=WantedHook,
            answers=(Answer(status=201, description="The hook", type=NewHook),),
            errors=(400, 409, 413),
        ),
        Operation(
            method="DELETE",
            path="/system/hooks/{id}",
            id="deleteHook",
            tag=tag,
            who="admin",
            summary="Deletes one: its events are refused",
            answers=(Answer(status=202, description="It is gone"),),
            errors=(404,),
        ),
        Operation(
            method="GET",
            path="/system/owners",
            id="listOwners",
            tag=tag,
            who="admin",
            summary="Owners at forges to whom the admin gave a namespace",
            answers=(Answer(status=200, description="Owners", type=list[LinkedOwner]),),
        ),
        Operation(
            method="PUT",
            path="/system/owners",
            id="linkOwner",
            tag=tag,
            who="admin",
            summary="Gives an owner a namespace, shared with who holds it",
            body=LinkedOwner,
            answers=(Answer(status=202, description="It counts for the next event"),),
            errors=(400, 413),
        ),
        Operation(
            method="DELETE",
            path="/system/owners",
            id="unlinkOwner",
            tag=tag,
            who="admin",
            summary="Takes it back",
            body=UnlinkedOwner,
            answers=(Answer(status=202, description="What is deployed stays"),),
            errors=(400, 404, 413),
        ),
    ]


def _setup() -> list[Operation]:
    tag = "setup"
    return [
        Operation(
            method="GET",
            path="/setup/github",
            id="setUpGitHub",
            tag=tag,
            who="admin",
            summary="A page with a button that makes a GitHub App",
            query=(
                Query(
                    name="organization",
                    description="whose the App is to be; else whoever is signed in at GitHub",
                    limit=limits.ORGANIZATION,
                ),
                Query(name="replace", description="`yes`: in place of the one that is here"),
            ),
            answers=(Answer(status=200, description="The page", media=HTML),),
            errors=(400,),
        ),
        Operation(
            method="GET",
            path="/setup/github/callback",
            id="gitHubIsSetUp",
            tag=tag,
            who="admin",
            summary="GitHub sends the browser here: the App that it made is kept",
            query=(
                Query(name="code", description="by which GitHub gives the App away, once"),
                Query(name="state", description="that the browser was sent with"),
            ),
            answers=(
                Answer(
                    status=303,
                    description="It is here",
                    media=HTML,
                    headers={"Location": "`/setup/github`"},
                ),
            ),
            errors=(400, 409),
        ),
    ]


OPERATIONS = [
    *_functions(),
    *_secrets(),
    *_sealing(),
    *_namespaces(),
    *_variables(),
    *_policy(),
    *_tokens(),
    *_signing_in(),
    *_releases(),
    *_previews(),
    *_calls(),
    *_dead_letters(),
    *_system(),
    *_forges(),
    *_setup(),
]

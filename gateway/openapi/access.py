"""Who may do what: the policy, tokens, signing in."""

from __future__ import annotations

from core.store.tokens import ListedToken, NewToken
from gateway.openapi import limits
from gateway.openapi.operation import (
    OF_NAMESPACE,
    TEXT,
    Answer,
    Operation,
    Query,
)
from gateway.policy import OwnerState, PolicyState
from gateway.signin import Whoami
from gateway.tokens import TokenWanted


def policy() -> list[Operation]:
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


def tokens() -> list[Operation]:
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


def signing_in() -> list[Operation]:
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

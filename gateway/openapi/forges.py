"""What forges send, and how we are known to them."""

from __future__ import annotations

from dataclasses import replace

from forges.gitea import webhooks as gitea
from forges.github import webhooks as github
from forges.gitlab import webhooks as gitlab
from gateway.forgehooks import ListedHook, NewHook, WantedHook
from gateway.openapi import limits
from gateway.openapi.operation import (
    HTML,
    TEXT,
    Answer,
    Operation,
    Query,
)
from gateway.owners import LinkedOwner, UnlinkedOwner
from gateway.webhooks import Noted


def forges() -> list[Operation]:
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


def setup() -> list[Operation]:
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
                Query(name="others", description="`yes`: others may install the App too"),
                Query(name="replace", description="`yes`: in place of the one that is here"),
                Query(name="installation_id", description="GitHub's: it was installed just now"),
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

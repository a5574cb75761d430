"""Releases, and the previews of requests."""

from __future__ import annotations

from dataclasses import replace

from core.models import Artifacts, LogLine, Release, Rollback
from gateway.environments import Environment
from gateway.openapi import limits
from gateway.openapi.operation import (
    HTML,
    NDJSON,
    OF_NAMESPACE,
    SVG,
    TEXT,
    Answer,
    Operation,
    Query,
)
from gateway.previewlist import Approval, Preview
from gateway.promotions import Promote
from gateway.releases import Start
from gateway.rollbacks import Back


def releases() -> list[Operation]:
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


def previews() -> list[Operation]:
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


def public() -> list[Operation]:
    tag = "releases"
    page = Operation(
        method="GET",
        path="/releases/{id}",
        id="releasePage",
        tag=tag,
        named=limits.RELEASE,
        summary="A release as a page, where its repository is public",
        who="open",
        answers=(
            Answer(status=200, description="The page", media=HTML),
            Answer(status=303, description="It is not public: the page for who may read it"),
        ),
        errors=(400,),
    )
    return [
        page,
        replace(
            page,
            path="/releases/{id}/log",
            id="releaseLogText",
            summary="Its whole log as text, likewise",
            answers=(
                Answer(status=200, description="The log", media=TEXT),
                Answer(status=303, description="It is not public: the page for who may read it"),
            ),
        ),
        Operation(
            method="GET",
            path="/system/releases/{id}/page",
            id="privateReleasePage",
            tag=tag,
            named=limits.RELEASE,
            summary="A release as a page",
            who="owner",
            query=(Query(name="password", description="`yes`: ask for it, not for a sign-in"),),
            answers=(
                Answer(status=200, description="The page", media=HTML),
                Answer(
                    status=303,
                    description="Nobody asks, and people can sign in here: to that first",
                    media=HTML,
                    headers={"Location": "`/login?next=…`"},
                ),
            ),
            errors=(400, 404),
        ),
        Operation(
            method="GET",
            path="/badge/{namespace}/{repository}.svg",
            id="badge",
            tag=tag,
            named=limits.LABEL,
            summary="Build state and live version of a public repository, as an image",
            who="open",
            answers=(Answer(status=200, description="The image", media=SVG),),
            errors=(400, 404),
        ),
    ]

"""What functions are given: secrets, sealed ones, variables; and the namespaces of it all."""

from __future__ import annotations

from core.openfaas import (
    Namespace,
)
from gateway.openapi import limits
from gateway.openapi.operation import (
    ACCEPTED,
    NAMESPACE,
    TEXT,
    Answer,
    Operation,
    Query,
)
from gateway.sealing import HeldKey, SealingAddress, SealingKey, Wanted
from gateway.secrets import Given, Listed, Named
from gateway.variables import Variables


def secrets() -> list[Operation]:
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


def sealing() -> list[Operation]:
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


def namespaces() -> list[Operation]:
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


def variables() -> list[Operation]:
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

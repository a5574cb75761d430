"""What a client's deployment becomes, and what is refused of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from core.deployments import spec_of
from core.errors import InvalidRequest
from core.models import FunctionSpec, Resources
from core.openfaas import FunctionDeployment

DIGEST = "0" * 64


def spec(**fields: Any) -> FunctionSpec:
    body = msgspec.json.encode({"service": "figlet", "image": "figlet", **fields})
    return spec_of(msgspec.json.decode(body, type=FunctionDeployment), "ann", "d1")


def test_values_stay_as_they_were_written_and_what_is_absent_stays_absent() -> None:
    bare = spec()
    assert bare == FunctionSpec(
        name="figlet", namespace="ann", artifact="figlet", foreign=True, deployment="d1"
    )
    full = spec(
        envProcess="cat",
        envVars={"a": "on", "empty": ""},
        labels={"com.openfaas.scale.min": "2"},
        annotations={"topic": "0644"},
        constraints=["node.role == worker"],
        secrets=["api.key"],
        limits={"memory": "5Mi", "cpu": "100m"},
        requests={"memory": "0.5Gi", "cpu": ""},
        readOnlyRootFilesystem=False,
        registryAuth="x",
        network="func_functions",
    )
    assert full.env_vars == {"a": "on", "empty": ""}
    assert full.limits == Resources(memory="5Mi", cpu="100m")
    assert full.requests == Resources(memory="0.5Gi")
    assert full.read_only_root_filesystem is False
    assert spec(envVars=None, labels={}).labels == {}


@pytest.mark.parametrize(
    "image",
    [
        "figlet",
        "functions/figlet:latest",
        "ghcr.io/openfaas/figlet:0.1",
        "127.0.0.1:5000/a/b__c.d-e:V1_2.3",
        f"ghcr.io/openfaas/figlet:0.1@sha256:{DIGEST}",
        "localhost/x",
        f"sha256:{DIGEST}",
    ],
)
def test_names_of_images_as_people_write_them(image: str) -> None:
    assert spec(image=image).artifact == image
    assert spec(image=image).foreign


def test_a_bundle_is_not_foreign() -> None:
    assert not spec(image=f"bundle:sha256:{DIGEST}").foreign


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"service": ""}, "service: ''"),
        ({"service": "a.b"}, "service: 'a.b'"),
        ({"service": "A"}, "service: 'A'"),
        ({"service": "a" * 64}, "service: '"),
        ({"image": ""}, "image: ''"),
        ({"image": "Figlet"}, "image: 'Figlet' is not the name of an image"),
        ({"image": "-x"}, "image: '-x'"),
        ({"image": "a b"}, "image: 'a b'"),
        ({"image": "http://ghcr.io/x"}, "image: 'http"),
        ({"image": "x@sha256:12"}, "image: 'x@sha256:12'"),
        ({"image": "a/" * 300 + "a"}, "image: 'a/a"),
        ({"image": "bundle:sha256:12"}, "image: 'bundle:sha256:12' is not a bundle"),
        ({"envVars": {"A=B": "x"}}, "envVars: 'A=B' is not a variable's name"),
        ({"envVars": {"": "x"}}, "envVars: ''"),
        ({"envVars": {"A": "\0"}}, "envVars: 'A' holds a NUL"),
        ({"envVars": {"A": "x" * 131072}}, "envVars: 'A' is longer than"),
        ({"envProcess": "a\0"}, "envProcess: it holds a NUL"),
        ({"secrets": ["../etc"]}, "secrets: '../etc'"),
        ({"secrets": ["a"] * 65}, "secrets: at most 64"),
        ({"constraints": ["a\nb"]}, "constraints: 'a\\nb'"),
        ({"labels": {"a\nb": ""}}, "labels: 'a\\nb' is no name"),
        ({"labels": {"a": "x" * 300_000}}, "labels: they have more than"),
        (
            {"labels": {"com.openfaas.scale.min": "many"}},
            "labels: com.openfaas.scale.min is 'many'",
        ),
        (
            {"labels": {"com.openfaas.scale.min": "3", "com.openfaas.scale.max": "2"}},
            "labels: com.openfaas.scale.min is 3, which is above",
        ),
        ({"labels": {"com.openfaas.scale.factor": "101"}}, "labels: com.openfaas.scale.factor"),
        ({"annotations": {"x" * 318: ""}}, "annotations: '"),
        ({"annotations": {"com.slipway.egress": "maybe"}}, "annotations: com.slipway.egress is"),
        ({"limits": {"memory": "lots"}}, "limits.memory is 'lots': write a size such as 512Mi"),
        (
            {"limits": {"memory": "999999999999999999Gi"}},
            "limits.memory is '999999999999999999Gi': write a size such as 512Mi or 1G, at most",
        ),
        ({"limits": {"memory": "0"}}, "limits.memory is '0'"),
        ({"requests": {"cpu": "1.5x"}}, "requests.cpu is '1.5x': write CPUs such as 0.5"),
        ({"requests": {"cpu": "-1"}}, "requests.cpu is '-1'"),
    ],
)
def test_what_cannot_be_is_told_with_its_field(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        spec(**fields)
    assert str(caught.value).startswith(told)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(InvalidRequest) as caught:
        spec(service="A", image="A", limits={"memory": "x", "cpu": "x"})
    fields = [line.split(" ")[0] for line in str(caught.value).splitlines()]
    assert fields == ["service:", "image:", "limits.memory", "limits.cpu"]

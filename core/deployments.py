"""What a function that is deployed by API may say of itself, by the rules of the stack file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from core import images, names, retries, scaling, schedules
from core.bundle import PREFIX as BUNDLE
from core.errors import InvalidRequest
from core.models import FunctionSpec, Resources
from core.openfaas import FunctionDeployment, ResourcesGiven
from core.quantities import cpus, size
from core.stackvalues import ANNOTATIONS, ENV_NAME, MAX_VARIABLE

MAX_TEXTS = 256 * 1024
"""Bytes of all labels or all annotations, as Kubernetes bounds annotations."""
MAX_SECRETS, MAX_CONSTRAINTS = 64, 64
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def spec_of(given: FunctionDeployment, namespace: str, deployment: str) -> FunctionSpec:
    """The function that a client asks for.

    ``deployment``: new at each deploy, so that the same once more is a new revision.

    Raises:
        InvalidRequest: with all mistakes, each beginning with its field.
    """
    if told := list(_mistakes(given)):
        raise InvalidRequest("\n".join(told))
    return FunctionSpec(
        name=given.service,
        namespace=namespace,
        artifact=given.image,
        foreign=not given.image.startswith(BUNDLE),
        deployment=deployment,
        env_process=given.env_process or None,
        env_vars=given.env_vars,
        secrets=given.secrets,
        labels=given.labels,
        annotations=given.annotations,
        constraints=given.constraints,
        limits=_resources(given.limits),
        requests=_resources(given.requests),
        read_only_root_filesystem=given.read_only_root_filesystem,
    )


def check_texts(texts: Mapping[str, str] | None, field: str) -> Iterator[str]:
    """Mistakes of labels or annotations: names as Kubernetes bounds them, any value but NUL."""
    texts = texts or {}
    for name, value in texts.items():
        if not name or _CONTROL.search(name) or len(name) > 317:  # 253 + "/" + 63
            yield f"{field}: {_shown(name)} is no name: at most 317 characters of one line"
        if "\x00" in value:
            yield f"{field}: the value of {_shown(name)} holds a NUL character"
    if sum(len(n.encode()) + len(v.encode()) for n, v in texts.items()) > MAX_TEXTS:
        yield f"{field}: they have more than {MAX_TEXTS} bytes together"


def _mistakes(given: FunctionDeployment) -> Iterator[str]:
    try:
        names.function_name(given.service)
    except InvalidRequest as error:
        yield f"service: {error}"
    yield from _image(given.image)
    if "\x00" in (given.env_process or ""):
        yield "envProcess: it holds a NUL character"
    yield from _variables(given.env_vars or {})
    yield from _secrets(given.secrets or [])
    for constraint in given.constraints or []:
        if not constraint.strip() or _CONTROL.search(constraint) or len(constraint) > 4096:
            yield f"constraints: {_shown(constraint)} is no text of one line"
    if len(given.constraints or []) > MAX_CONSTRAINTS:
        yield f"constraints: at most {MAX_CONSTRAINTS}"
    yield from check_texts(given.labels, "labels")
    for name, wrong in scaling.mistakes(given.labels):
        yield f"labels: {name} {wrong}"
    yield from check_texts(given.annotations, "annotations")
    for name, is_right, rule in ANNOTATIONS:
        value = (given.annotations or {}).get(name)
        if value is not None and not is_right(value):
            yield f"annotations: {name} is {_shown(value)}: {rule}"
    for name, told in schedules.mistakes(given.annotations):
        yield f"annotations: {name}: {told}"
    if told := retries.contradiction(given.annotations or {}):
        yield f"annotations: {retries.MIN_WAIT}: {told}"
    yield from _quantities(given.limits, "limits")
    yield from _quantities(given.requests, "requests")


def _image(image: str) -> Iterator[str]:
    if image.startswith(BUNDLE):
        if not re.fullmatch(rf"{BUNDLE}[0-9a-f]{{64}}", image):
            yield f"image: {_shown(image)} is not a bundle: it has the form {BUNDLE}<64 hex>"
        return
    try:
        images.parts(image)
    except InvalidRequest as error:
        yield f"image: {error}"


def _variables(variables: Mapping[str, str]) -> Iterator[str]:
    for name, value in variables.items():
        if not ENV_NAME.fullmatch(name):
            yield f"envVars: {_shown(name)} is not a variable's name: use letters, digits and _"
        elif "\x00" in value:
            yield f"envVars: {_shown(name)} holds a NUL character"
        elif len(name.encode()) + len(value.encode()) + 1 > MAX_VARIABLE:
            yield f"envVars: {_shown(name)} is longer than {MAX_VARIABLE} bytes"


def _secrets(secrets: list[str]) -> Iterator[str]:
    for name in secrets:
        try:
            names.secret_name(name)
        except InvalidRequest as error:
            yield f"secrets: {error}"
    if len(secrets) > MAX_SECRETS:
        yield f"secrets: at most {MAX_SECRETS} of one function"


def _quantities(given: ResourcesGiven | None, field: str) -> Iterator[str]:
    if given is None:
        return
    for name, text, read in (("memory", given.memory, size), ("cpu", given.cpu, cpus)):
        try:
            if text and not read(text) > 0:
                yield f"{field}.{name} is {_shown(text)}: it has to be more than nothing"
        except ValueError as error:
            yield f"{field}.{name} is {_shown(text or '')}: {error}"


def _resources(given: ResourcesGiven | None) -> Resources | None:
    if given is None:
        return None
    return Resources(memory=given.memory or None, cpu=given.cpu or None)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")

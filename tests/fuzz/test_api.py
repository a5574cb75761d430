"""Cases out of the API's own description, good and bad ones, against a real gateway and store.

``SLIPWAY_FUZZ_CASES`` of them altogether (``make fuzz``: 10,000), by ``SLIPWAY_FUZZ_SEED``: the
same seed gives the same cases. No answer may be a 500, or one that the description does not know.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import schemathesis
from redis import Redis
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from core import keys
from core.models import FunctionRecord, FunctionSpec, now
from core.store import Store, connect
from core.store.base import encode
from gateway.openapi import document
from gateway.openapi.operations import OPERATIONS
from tests.integration.gateway.harness import Gateway, running

CASES = int(os.environ.get("SLIPWAY_FUZZ_CASES", "500"))
SEED = int(os.environ.get("SLIPWAY_FUZZ_SEED", "1"))
EACH = -(-CASES // len(OPERATIONS))
KNOWN = "known"
"""Name of a function, a namespace and a secret that are there."""

load_all_checks()
schema = schemathesis.openapi.from_dict(document())


@pytest.fixture(scope="module")
def gateway(valkey: str) -> Iterator[Gateway]:
    """With functions of API and repository in the store; nothing runs them."""
    folder = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    connection: Redis = connect(valkey)
    connection.flushall()
    with running(folder, valkey, SLIPWAY_RUNTIME="docker") as found:
        _fill(Store(connection))
        yield found
    connection.close()
    shutil.rmtree(folder, ignore_errors=True)


@hypothesis.seed(SEED)
@hypothesis.settings(
    max_examples=EACH,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
@schema.parametrize()
def test_no_answer_is_a_500_or_unknown(case: schemathesis.Case, gateway: Gateway) -> None:
    known(case)
    answer = case.call(base_url=gateway.url, auth=gateway.auth, timeout=30)
    assert answer.status_code not in (500, 502, 504), answer.text
    case.validate_response(
        answer,
        checks=[status_code_conformance, content_type_conformance, response_schema_conformance],
    )


def known(case: schemathesis.Case) -> None:
    """Lets about half of the cases name what is there: random names never do. Nothing is followed:
    a quiet log has no end."""
    for values in (case.path_parameters, case.query, case.body):
        if not isinstance(values, dict):
            continue
        for name in ("name", "service", "functionName", "serviceName", "namespace"):
            if name in values and len(str(values[name])) % 2:
                values[name] = KNOWN
    if isinstance(case.query, dict):
        case.query.pop("follow", None)


def _fill(store: Store) -> None:
    store.claim_namespace(KNOWN, "git")
    for namespace, repository in ((KNOWN, None), ("openfaas-fn", None), ("claimed", "fns")):
        spec = FunctionSpec(
            name=KNOWN,
            namespace=namespace,
            artifact="example.org/known:1",
            foreign=repository is None,
            repository=repository,
        )
        record = FunctionRecord(spec=spec, release="", replicas=1, created_at=now())
        store.redis.hset(keys.FUNCTIONS, spec.function, encode(record))

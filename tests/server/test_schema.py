"""Whatever fits the OpenAPI document is answered as it says, and nothing breaks the service."""

from __future__ import annotations

import pytest
import schemathesis
import schemathesis.specs.openapi.checks
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

pytestmark = pytest.mark.system

CHECKS = [
    schemathesis.checks.not_a_server_error,
    schemathesis.specs.openapi.checks.status_code_conformance,
    schemathesis.specs.openapi.checks.content_type_conformance,
    schemathesis.specs.openapi.checks.response_schema_conformance,
]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_every_operation_answers_as_the_document_says(start, mode):
    service = start(2, "--rate", "100000")
    document = schemathesis.openapi.from_url(f"{service.url}/api/v1/openapi.json")
    tried = 0
    for result in document.get_all_operations():
        operation = result.ok()
        if operation.path.endswith("/events"):
            continue  # a stream, tested by itself
        cases = operation.as_strategy(generation_mode=mode)

        @settings(
            max_examples=15,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=cases)
        def ask(case):
            answer = case.call(base_url=service.url, timeout=30)
            case.validate_response(answer, checks=CHECKS)

        try:
            ask()
        except Unsatisfiable:  # nothing can be wrong with a request that has no parameters
            assert mode is GenerationMode.NEGATIVE
            continue
        tried += 1
    assert tried >= (14 if mode is GenerationMode.POSITIVE else 9)
    assert "Traceback" not in service.said()

"""Requests made at random from the OpenAPI document, good and bad ones: none is a 500, all are as the document says."""

import contextlib

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.pipelines.serving.running import serving

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.mark.parametrize("examples", [25, pytest.param(1000, marks=pytest.mark.slow)])
def test_whatever_is_asked_is_answered_as_the_document_says(examples, made):
    with serving(made.root, made.kv) as client:
        schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{client.port}/openapi.json")
        operations = [operation.ok() for operation in schema.get_all_operations()]
        assert len(operations) == 8
        for operation in operations:
            for mode in schemathesis.GenerationMode:
                strategy = operation.as_strategy(generation_mode=mode)

                @settings(
                    max_examples=examples,
                    deadline=None,
                    database=None,
                    derandomize=True,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )
                @given(case=strategy)
                def ask(case):
                    response = case.call()
                    case.validate_response(response, checks=CHECKS)

                with contextlib.suppress(Unsatisfiable):  # there is no bad request to a path without parameters
                    ask()

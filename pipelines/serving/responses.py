"""Answers as bytes."""

from typing import Any

import orjson
from starlette.responses import Response

from pipelines.serving.problems import PROBLEM_JSON, Problem

RELEASE_HEADER = "PinnerFormer-Release"


def json_bytes(content: Any) -> bytes:
    """JSON; arrays of numpy as lists of their numbers."""
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)


def json_response(content: Any, release: str | None = None, status: int = 200) -> Response:
    """An answer, with the release that it is of."""
    headers = {} if release is None else {RELEASE_HEADER: release}
    return Response(json_bytes(content), status, headers, "application/json")


def problem_response(problem: Problem) -> Response:
    """An error."""
    return Response(json_bytes(problem.document()), problem.status, problem.headers, PROBLEM_JSON)

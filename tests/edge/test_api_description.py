"""The HTTP API as its own description says that it is."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.core.parameters import ParameterLocation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
)
from schemathesis.specs.openapi.schemas import OpenApiSchema

from edge.calling import POSTS, SERVICE, error_of
from support.server import Server


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    """The API's description of itself."""
    found: dict[str, Any] = httpx.get(f"{server.url}/api/openapi.json").json()
    return found


def test_every_operation_is_described(document: dict[str, Any]) -> None:
    """With a summary, an id of its own, and what it refuses."""
    operations = [one for path in document["paths"].values() for one in path.values()]
    ids = [one["operationId"] for one in operations]
    assert len(set(ids)) == len(ids)
    assert all(one["summary"].endswith(".") for one in operations)
    for one in operations:
        is_open = one["security"] == []
        assert is_open or {"400", "401", "403", "413"} <= set(one["responses"])


def test_open_calls_are_those_of_the_reference(document: dict[str, Any]) -> None:
    """Everything else needs a service token."""
    is_open = {
        path
        for path, methods in document["paths"].items()
        if all(one["security"] == [] for one in methods.values())
    }
    assert is_open == {
        *("/api/ws/stats", "/api/ws/health", "/api/openapi.json"),
        *("/livez", "/readyz", "/metrics"),
    }


def test_names_are_described_as_they_are_checked(document: dict[str, Any]) -> None:
    """A client made from the description can say any room, and is told what is none."""
    parameters = document["paths"]["/api/rooms/{room}/presence"]["get"]["parameters"]
    (schema,) = [one["schema"] for one in parameters if one["name"] == "room"]
    assert schema["maxLength"] == 255
    assert "pattern" in schema


CHECKED = settings(
    max_examples=12,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def schema(server: Server) -> OpenApiSchema:
    """The description, for requests made from it."""
    return schemathesis.openapi.from_url(f"{server.url}/api/openapi.json")


WITH_BODY = ["post_event", "post_message", "post_update", "post_revocation"]
WITHOUT = [
    "get_history",
    "get_presence",
    "delete_connections",
    "get_stats",
    "get_health",
    "get_livez",
]
WITHOUT += ["get_readyz", "get_metrics", "get_document"]
GOOD, BAD = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE


Case = schemathesis.Case[schemathesis.APIOperation[Any, Any, Any, Any]]


def is_bad(case: Case) -> bool:
    """Whether the body breaks the description; unknown fields of a query are nobody's business."""
    parts = {} if case.meta is None else case.meta.components
    return ParameterLocation.BODY in parts and parts[ParameterLocation.BODY].mode is BAD


@pytest.mark.parametrize(
    ("name", "mode"),
    [*((name, GOOD) for name in WITH_BODY + WITHOUT), *((name, BAD) for name in WITH_BODY)],
)
def test_requests_made_from_the_description(
    schema: OpenApiSchema, name: str, mode: schemathesis.GenerationMode
) -> None:
    """
    Good ones and bad ones: answered as described, never by a 5xx, and what is bad is refused.

    Names are left out: the description does not know all that they may be.
    """
    operation = schema.find_operation_by_id(name)

    @CHECKED
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Case) -> None:
        case.path_parameters = dict.fromkeys(case.path_parameters or {}, "name")
        response = case.call(headers=SERVICE)
        assert response.status_code < 500, response.text
        checks = [content_type_conformance, response_schema_conformance]
        if is_bad(case):
            checks.append(negative_data_rejection)
        case.validate_response(response, checks=checks)

    check()


@settings(max_examples=30, derandomize=True, database=None)
@given(data=st.binary(max_size=60), path=st.sampled_from([path for path, _ in POSTS]))
def test_any_body_is_answered(server: Server, data: bytes, path: str) -> None:
    """Bytes that are nothing in particular: a refusal with its code."""
    response = httpx.post(server.url + path, content=data, headers=SERVICE)
    assert response.status_code in (200, 201, 400)
    if response.status_code == 400:
        error_of(response)

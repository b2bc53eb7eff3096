"""The OpenAPI document, made from the calls themselves: their types, docstrings and parameters."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

__all__ = ["MAX_NUMBER", "Operation", "Parameter", "build_document"]

JSON = "application/json"
MAX_NUMBER = 2**53
"""Offsets are below; JavaScript has no larger whole numbers."""
_NAME = {"type": "string", "minLength": 1, "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]+$"}
_NAMES = {
    "room": {**_NAME, "maxLength": 255},
    "user": {**_NAME, "maxLength": 128},
    "offset": {"type": "integer", "minimum": 0, "maximum": MAX_NUMBER},
}
"""What a name in a path may be (protocol/operations.py, is_clean)."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter."""

    name: str
    type: type[Any]
    description: str
    minimum: int = 0


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of the HTTP API."""

    method: str
    path: str
    handler: Callable[[Request], Awaitable[Response]]
    """Its docstring's first line is the summary."""
    body: Any = None
    """The type of the request's JSON body; None if it has none."""
    answer: Any = None
    """The type of the answer's JSON body; None for any object."""
    status: int = 200
    query: Sequence[Parameter] = ()
    is_open: bool = False
    """Whether it needs no service token."""
    media_type: str = JSON
    failures: Sequence[int] = ()
    """Statuses besides those every call has."""


def build_document(operations: Sequence[Operation], failure: type[Any]) -> dict[str, Any]:
    """Give the OpenAPI 3.1 document of *operations*; *failure* is the body of all refusals."""
    types = [failure, *(t for one in operations for t in (one.body, one.answer) if t is not None)]
    schemas, components = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    schema_of = {_key(kind): schema for kind, schema in zip(types, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for one in operations:
        paths.setdefault(one.path, {})[one.method.lower()] = _entry(one, schema_of, failure)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Roomful",
            "version": "1",
            "description": "What backends do with rooms and users. See docs/wire.md.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "service": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
            },
        },
    }


def _key(kind: Any) -> str:
    return repr(kind)


def _entry(one: Operation, schema_of: dict[str, Any], failure: type[Any]) -> dict[str, Any]:
    names = re.findall(r"\{(\w+)\}", one.path)
    answer = {"type": "object"} if one.answer is None else schema_of[_key(one.answer)]
    if one.media_type != JSON:
        answer = {"type": "string"}
    responses: dict[str, Any] = {
        str(one.status): {"description": "Done.", "content": {one.media_type: {"schema": answer}}}
    }
    statuses = {400, 401, 403, 413, 429, 503} if not one.is_open else set()
    for status in sorted(statuses | set(one.failures)):
        body = schema_of[_key(failure)] if not one.is_open else {"type": "object"}
        responses[str(status)] = {
            "description": "Refused.",
            "content": {JSON: {"schema": body}},
        }
    entry: dict[str, Any] = {
        "operationId": one.handler.__name__,
        "summary": (one.handler.__doc__ or "").strip().splitlines()[0],
        "parameters": [
            {
                "name": name,
                "in": "path",
                "required": True,
                "schema": _NAMES[name],
            }
            for name in names
        ]
        + [
            {
                "name": parameter.name,
                "in": "query",
                "description": parameter.description,
                "schema": {
                    "type": "integer",
                    "minimum": parameter.minimum,
                    "maximum": MAX_NUMBER,
                },
            }
            for parameter in one.query
        ],
        "responses": responses,
        "security": [] if one.is_open else [{"service": []}],
    }
    if one.body is not None:
        content = {JSON: {"schema": schema_of[_key(one.body)]}}
        entry["requestBody"] = {"required": True, "content": content}
    return entry

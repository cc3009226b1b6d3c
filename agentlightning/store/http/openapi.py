"""The OpenAPI description of the routes, made from the same table that serves them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter

from agentlightning.store.http.operation import (
    API_PREFIX,
    IDEMPOTENCY_HEADER,
    MAX_KEY_CHARACTERS,
    Operation,
)

__all__ = ["describe_api"]

_ERROR_SCHEMA: Final = {
    "type": "object",
    "title": "Error",
    "required": ["detail", "code"],
    "properties": {
        "detail": {"type": "string", "description": "What is wrong, and what to do."},
        "code": {"type": "string", "description": "Stable name of the error."},
        "request_id": {"type": "string", "description": "Also in the X-Request-Id header."},
        "error_id": {"type": "string", "description": "Where to look in the server's log."},
    },
}


_WRITE_HEADERS: Final[list[dict[str, Any]]] = [
    {
        "name": IDEMPOTENCY_HEADER,
        "in": "header",
        "required": False,
        "description": "The same for each repeat of one call, which then takes effect once.",
        "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARACTERS},
    }
]


def describe_api(operations: Sequence[Operation], *, title: str, version: str) -> dict[str, Any]:
    """Return an OpenAPI 3.1 document."""
    inputs: list[tuple[tuple[int, str], Any, TypeAdapter[Any]]] = []
    for index, operation in enumerate(operations):
        if operation.takes is not None and operation.method != "GET":
            inputs.append(((index, "in"), "validation", TypeAdapter(operation.takes)))
        inputs.append(((index, "out"), "serialization", TypeAdapter(operation.returns)))
    schemas, definitions = TypeAdapter.json_schemas(
        inputs, ref_template="#/components/schemas/{model}"
    )
    by_key = {key: schema for (key, _), schema in schemas.items()}
    paths: dict[str, dict[str, Any]] = {}
    for index, operation in enumerate(operations):
        path = paths.setdefault(API_PREFIX + operation.path, {})
        path[operation.method.lower()] = _describe(
            operation, by_key.get((index, "in")), by_key[index, "out"]
        )
    components = {**definitions.get("$defs", {}), "Error": _ERROR_SCHEMA}
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _describe(operation: Operation, takes: Any, returns: Any) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": f"{operation.method.lower()}_{re.sub(r'[^a-z]+', '_', operation.path)}",
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in re.findall(r"{(\w+)}", operation.path)
        ]
        + (_WRITE_HEADERS if operation.method != "GET" else []),
        "responses": {
            str(operation.status): {
                "description": "Done",
                "content": {operation.content_type: {"schema": returns}},
            },
            "4XX": {"description": "Refused", "content": error},
            "5XX": {"description": "Failed", "content": error},
        },
    }
    if operation.method == "GET" and operation.takes is not None:
        described["parameters"] += _query_parameters(operation.takes)
    if operation.query is not None:
        described["parameters"] += _query_parameters(operation.query)
    if operation.method != "GET" and takes is not None:
        described["requestBody"] = {"content": {"application/json": {"schema": takes}}}
    return described


def _query_parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    schema = model.model_json_schema()
    required = set(schema.get("required", ()))
    return [
        {
            "name": name,
            "in": "query",
            "required": name in required,
            # Objects travel as JSON text.
            "schema": {"type": "string", "title": field.get("title"), "default": None}
            if name == "metadata"
            else field,
        }
        for name, field in schema["properties"].items()
    ]

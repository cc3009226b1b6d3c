"""JSON on the wire: fast encoding of our models, and decoding that trusts nobody.

Shapes are those of the models themselves. Numbers that JSON cannot hold (NaN, infinities) are
written as null, except in span attributes: see `wire_span`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import orjson
from pydantic import BaseModel

from agentlightning.errors import InvalidRequestError
from agentlightning.store.http.errors import UnprocessableError
from agentlightning.types import (
    Attempt,
    AttemptedRollout,
    PaginatedResult,
    Rollout,
)

__all__ = [
    "MAX_INTEGER",
    "decode",
    "encode",
    "page_body",
    "plain_fields",
    "rollout_from_wire",
]

MAX_INTEGER: Final = 2**53
"""Largest magnitude that every JSON reader keeps exact."""


def encode(value: Any) -> bytes:
    """Return JSON; pydantic models, dataclasses, numpy arrays and tuples may be anywhere in it.

    Raises:
        InvalidRequestError: Something in it cannot be expressed in JSON.
    """
    try:
        # Perf: a captured call of 2,000 tokens takes 9 µs here, 290 µs in model_dump_json.
        return orjson.dumps(value, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:
        # Keys that are no strings, integers over 64 bits and lone surrogates are rare.
        return _encode_slowly(value)


def plain_fields(record: BaseModel) -> dict[str, Any]:
    """Return a record's fields, those that its class does not know included."""
    extra = record.__pydantic_extra__
    return {**vars(record), **extra} if extra else vars(record)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        if type(value) is Attempt and value.lease_seconds is None:
            # As in 0.3.0, whose attempts had no leases.
            return {name: kept for name, kept in value.__dict__.items() if name != "lease_seconds"}
        return plain_fields(value)
    if isinstance(value, Mapping):
        return dict(cast("Mapping[Any, Any]", value))
    if isinstance(value, Sequence):
        return list(cast("Sequence[Any]", value))
    raise TypeError(f"{type(value).__name__} is not JSON")


def _encode_slowly(value: Any) -> bytes:
    try:
        return json.dumps(_cleaned(value), separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(
            f"The value cannot be sent as JSON ({error}). Use dicts, lists, strings and numbers."
        ) from error


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        # Lone surrogates, which models do produce, have no place in UTF-8.
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        return {_cleaned(k if isinstance(k, str) else str(k)): _cleaned(v) for k, v in items}
    if isinstance(value, (list, tuple)):
        return [_cleaned(item) for item in cast("Sequence[Any]", value)]
    if isinstance(value, BaseModel):
        return _cleaned(_plain(value))
    return orjson.loads(orjson.dumps(value, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY))


def decode(body: bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        UnprocessableError: It is not JSON; NaN, infinities and lone surrogates are not either.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise UnprocessableError(f"The body is not valid JSON: {error}.") from error


def page_body(found: Sequence[Any], limit: int, offset: int) -> dict[str, Any]:
    """Return a page in its wire shape; a plain list, as foreign stores return, is one page."""
    if isinstance(found, PaginatedResult):
        page = found
        return {
            "items": page.items,
            "limit": page.limit,
            "offset": page.offset,
            "total": page.total,
        }
    return {"items": list(found), "limit": limit, "offset": offset, "total": len(found)}


def rollout_from_wire(raw: dict[str, Any]) -> Rollout | AttemptedRollout:
    """Return a rollout, with its attempt if the wire form has one."""
    if raw.get("attempt") is not None:
        return AttemptedRollout.model_validate(raw)
    return Rollout.model_validate(raw)

"""Values as JSON text in a database: fast where the fast library is exact, exact everywhere.

The text is ASCII or UTF-8 without NUL, so that every database takes it. What the fast library
cannot write without loss (NaN, infinities, large integers, broken Unicode, keys that are no text)
is written by the standard library and marked by a space in front, so that it is read back alike.
"""

from __future__ import annotations

import json
from typing import Any, Final

import orjson
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

from agentlightning.errors import InvalidRequestError

_OPTIONS: Final = (
    orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)
_EXACT_MARK: Final = " "


def plain(value: Any) -> Any:
    """Return what JSON has for a value that is no JSON value itself."""
    if isinstance(value, BaseModel):
        extra = value.__pydantic_extra__
        return {**vars(value), **extra} if extra else vars(value)
    return to_jsonable_python(value)


def to_text(value: Any, owner: str) -> str:
    """Return a value as JSON text.

    Args:
        value: What to write.
        owner: What it belongs to, for the error message.

    Raises:
        InvalidRequestError: A value in it has no JSON form.
    """
    try:
        text = orjson.dumps(value, default=plain, option=_OPTIONS)
    except (TypeError, ValueError):
        return _exact(value, owner)
    # The fast library writes null for NaN, and texts may hold the word.
    if b"null" in text and orjson.loads(text) != value:
        return _exact(value, owner)
    return text.decode()


def _exact(value: Any, owner: str) -> str:
    try:
        return _EXACT_MARK + json.dumps(value, default=plain, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError, PydanticSerializationError) as error:
        raise InvalidRequestError(
            f"{owner} cannot be stored: {error}; use JSON values only."
        ) from error


def from_text(text: str) -> Any:
    """Return the value that `to_text` wrote."""
    return json.loads(text) if text[0] == _EXACT_MARK else orjson.loads(text)


def is_clean(value: str) -> bool:
    """Return whether every database takes a text as it is: valid Unicode without NUL."""
    if "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True

"""Reading the members of a request's body: their types, their ranges, and how to sample.

A parameter that would change the answer and is not supported is refused rather than ignored;
parameters without influence on the answer (`user`, `metadata`, ...) pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from agentlightning.engine.sampling import SamplingParams
from agentlightning.errors import RequestError

__all__ = [
    "Neutral",
    "read_body",
    "read_member",
    "read_number",
    "read_sampling",
    "read_stop",
    "refuse_parameter",
]

_T = TypeVar("_T")

Neutral = Mapping[str, tuple[Any, ...]]
"""Parameters that the engine cannot honour, with the values that ask for nothing."""

_NEUTRAL: Neutral = {
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "repetition_penalty": (1, None),
    "min_p": (0, None),
    "logit_bias": ({}, None),
}


def read_body(body: Any, neutral: Neutral) -> Mapping[str, Any]:
    """Return a decoded JSON body that asks for nothing the engine cannot do.

    Args:
        body: The decoded JSON.
        neutral: What may not be asked for beyond changes to the distribution.

    Raises:
        RequestError: It is no object, or asks for such a thing.
    """
    if not isinstance(body, Mapping):
        raise RequestError("the body must be a JSON object")
    members = cast("Mapping[str, Any]", body)
    for name, values in {**_NEUTRAL, **neutral}.items():
        if members.get(name) not in values:
            refuse_parameter(name)
    return members


def refuse_parameter(name: str) -> None:
    """Raise that the engine does not support a parameter."""
    raise RequestError(
        f"{name} is not supported by the embedded engine; leave it out",
        error_code="unsupported_parameter",
        param=name,
    )


def read_sampling(
    body: Mapping[str, Any],
    *,
    limit: str = "max_tokens",
    default_limit: int | None = None,
    top_logprobs: int = 0,
) -> SamplingParams:
    """Return how to sample.

    Args:
        body: The request.
        limit: Name of the member that bounds the answer.
        default_limit: The bound where it names none; None: what the context allows.
        top_logprobs: Likeliest tokens to tell at each position.

    Raises:
        RequestError: A member is of the wrong type or out of range.
    """
    stop_ids = read_member(body, "stop_token_ids", list, [])
    if not all(isinstance(item, int) for item in stop_ids):
        raise RequestError("stop_token_ids must be a list of integers", param="stop_token_ids")
    return SamplingParams(
        max_tokens=read_number(body, limit, default_limit, low=1, high=2**31, whole=True),
        temperature=read_number(body, "temperature", 1.0, low=0, high=100),
        top_p=read_number(body, "top_p", 1.0, low=1e-9, high=1),
        top_k=read_number(body, "top_k", 0, low=-1, high=2**31, whole=True),
        seed=read_number(body, "seed", None, low=-(2**63), high=2**64, whole=True),
        stop_token_ids=tuple(stop_ids),
        ignore_eos=read_member(body, "ignore_eos", bool, default=False),
        top_logprobs=top_logprobs,
    )


def read_stop(body: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the strings that end an answer.

    Raises:
        RequestError: `stop` is something else.
    """
    stop = body.get("stop")
    if stop is None:
        return ()
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(item, str) and item for item in stops):
        raise RequestError("stop must be a non-empty string or a list of such", param="stop")
    return tuple(stops)


def read_member(body: Mapping[str, Any], name: str, kind: type[Any], default: _T) -> Any | _T:
    """Return a member of a type, or the default where it is null or not there.

    Raises:
        RequestError: It is of another type.
    """
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise RequestError(
            f"{name} must be of type {kind.__name__}, not {type(value).__name__}", param=name
        )
    return value


def read_number(
    body: Mapping[str, Any],
    name: str,
    default: float | None,
    *,
    low: float,
    high: float,
    whole: bool = False,
) -> Any:
    """Return a number within bounds, or the default where it is null or not there.

    Raises:
        RequestError: It is no number, or out of bounds.
    """
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        kind = "an integer" if whole else "a number"
        raise RequestError(f"{name} must be {kind}, not {value!r}", param=name)
    if not low <= value <= high:
        raise RequestError(f"{name} must be between {low:g} and {high:g}, not {value}", param=name)
    return value

"""AgentOps' spans of OpenAI calls: token ids and log-probabilities, and what 0.4.21 misses.

AgentOps 0.4.21 stops half-way when it instruments OpenAI's client of today (its beta module is
gone), so that calls of the Responses API are not recorded. And it sets an attribute of its spans
of tools to an enum, which today's OpenTelemetry refuses. Both are put right on its own hooks.
"""

import functools
import importlib
import json
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

from agentlightning.instrumentation.patches import Patch
from agentlightning.semconv import CallAttributes

__all__ = ["patches"]

_OPENAI = "agentops.instrumentation.providers.openai"
_MISSED = (
    ("openai.resources.responses", "Responses", "responses_stream_wrapper"),
    ("openai.resources.responses", "AsyncResponses", "async_responses_stream_wrapper"),
)
"""Modules and classes whose `create` AgentOps fails to wrap, and what it would wrap it with."""


def patches() -> Iterator[Patch]:
    """Return the replacements in AgentOps' modules."""
    streams = importlib.import_module(f"{_OPENAI}.stream_wrapper")
    yield streams, "handle_chat_attributes", _with_ids
    chat = importlib.import_module(f"{_OPENAI}.wrappers.chat")
    yield chat, "AgentOpsSpanKindValues", _plain
    for wrapper in (streams.OpenaiStreamWrapper, streams.OpenAIAsyncStreamWrapper):
        yield wrapper, "_process_chunk", _collecting
        yield wrapper, "_finalize_stream", _telling
    instrumentor = importlib.import_module(f"{_OPENAI}.instrumentor").OpenaiInstrumentor
    yield instrumentor, "_custom_wrap", _wrapping_the_rest


def _plain(kinds: Iterable[Any]) -> SimpleNamespace:
    """Return an enum's values under its names, as texts."""
    return SimpleNamespace(**{kind.name: kind.value for kind in kinds})


def _with_ids(original: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    @functools.wraps(original)
    def handle_chat_attributes(*args: Any, **kwargs: Any) -> dict[str, Any]:
        attributes = original(*args, **kwargs)
        answer = kwargs.get("return_value", args[2] if len(args) > 2 else None)
        if hasattr(answer, "choices"):
            collected = _Collected()
            collected.add(answer)
            attributes.update(collected.attributes())
        return attributes

    return handle_chat_attributes


def _collecting(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def process_chunk(self: Any, chunk: Any) -> None:
        vars(self).setdefault("_agentlightning", _Collected()).add(chunk)
        original(self, chunk)

    return process_chunk


def _telling(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def finalize_stream(self: Any) -> None:
        collected = vars(self).get("_agentlightning")
        if collected is not None:
            vars(self)["_span"].set_attributes(collected.attributes())
        original(self)

    return finalize_stream


class _Collected:
    """Token ids and log-probabilities of the first choice, from a whole answer or from chunks."""

    def __init__(self) -> None:
        self.prompt_ids: list[int] = []
        self.response_ids: list[int] = []
        self.logprobs: list[Any] = []
        self.refusals: list[Any] = []

    def add(self, answer: Any) -> None:
        """Take what a `ChatCompletion` or one of its chunks says."""
        self.prompt_ids = self.prompt_ids or _member(answer, "prompt_token_ids") or []
        listed = _member(answer, "response_token_ids")
        if listed:
            self.response_ids += listed[0] if isinstance(listed[0], list) else listed
        choice = next((c for c in answer.choices or [] if getattr(c, "index", 0) == 0), None)
        if choice is None:
            return
        specific = _member(choice, "provider_specific_fields") or {}
        if not listed:
            self.response_ids += _member(choice, "token_ids") or specific.get("token_ids") or []
        logprobs = getattr(choice, "logprobs", None)
        self.logprobs += getattr(logprobs, "content", None) or []
        self.refusals += getattr(logprobs, "refusal", None) or []

    def attributes(self) -> dict[str, Any]:
        """Return the span attributes, without those that would be empty."""
        found = {
            CallAttributes.PROMPT_TOKEN_IDS.value: self.prompt_ids,
            CallAttributes.RESPONSE_TOKEN_IDS.value: self.response_ids,
            "logprobs.content": _dumped(self.logprobs),
            "logprobs.refusal": _dumped(self.refusals),
        }
        return {key: value for key, value in found.items() if value}


def _member(model: Any, name: str) -> Any:
    """Return a member that the client library does not know by name."""
    return (getattr(model, "model_extra", None) or {}).get(name) or getattr(model, name, None)


def _dumped(entries: list[Any]) -> str:
    return json.dumps([entry.model_dump() for entry in entries]) if entries else ""


def _wrapping_the_rest(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def custom_wrap(self: Any, **kwargs: Any) -> None:
        original(self, **kwargs)
        wrapt = importlib.import_module("wrapt")
        streams = importlib.import_module(f"{_OPENAI}.stream_wrapper")
        for module, name, wrapper in _MISSED:
            owner = getattr(importlib.import_module(module), name)
            if not isinstance(owner.create, wrapt.ObjectProxy):
                wrapt.wrap_function_wrapper(
                    owner, "create", getattr(streams, wrapper)(vars(self)["_tracer"])
                )

    return custom_wrap

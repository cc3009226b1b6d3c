"""Hand-made spans for tests of readers and adapters."""

from typing import Any

from agentlightning.types import CallChoice, CallRecord, Span


def make_span(
    span_id: str,
    parent_id: str | None = None,
    *,
    name: str = "step",
    start: float | None = 0.0,
    end: float | None = 1.0,
    sequence_id: int = 0,
    **attributes: Any,
) -> Span:
    """Return a span; double underscores in attribute names stand for dots."""
    return Span.from_attributes(
        attributes={key.replace("__", "."): value for key, value in attributes.items()},
        rollout_id="ro-1",
        attempt_id="at-1",
        sequence_id=sequence_id,
        name=name,
        trace_id="a" * 32,
        span_id=span_id,
        parent_id=parent_id,
        start_time=start,
        end_time=end,
    )


def make_llm_span(span_id: str, parent_id: str | None = None, **given: Any) -> Span:
    """Return a chat completion as an instrumented client writes it."""
    attributes: dict[str, Any] = {
        "gen_ai__prompt__0__role": "user",
        "gen_ai__prompt__0__content": "question",
        "gen_ai__completion__0__role": "assistant",
        "gen_ai__completion__0__content": f"answer of {span_id}",
        "gen_ai__request__model": "m",
        "gen_ai__response__id": f"resp-{span_id}",
        "gen_ai__response__model": "m-1",
        "prompt_token_ids": [1, 2],
        "response_token_ids": [3],
    }
    attributes.update(given)
    name = attributes.pop("name", "openai.chat.completion")
    kept = {key: value for key, value in attributes.items() if value is not None}
    return make_span(span_id, parent_id, name=name, **kept)


def make_reward_span(
    span_id: str, value: float, at: float, parent_id: str | None = None, **given: Any
) -> Span:
    """Return an emitted reward."""
    attributes = {
        "agentlightning__reward__0__name": "primary",
        "agentlightning__reward__0__value": value,
    }
    return make_span(
        span_id,
        parent_id,
        name="agentlightning.annotation",
        start=at,
        end=at,
        **attributes,
        **given,
    )


def make_call(call_id: str, *, start: float = 0.0, end: float = 1.0, **given: Any) -> CallRecord:
    """Return a captured call."""
    fields: dict[str, Any] = {
        "call_id": call_id,
        "rollout_id": "ro-1",
        "attempt_id": "at-1",
        "model": "policy",
        "request": {
            "model": "policy",
            "temperature": 0.5,
            "messages": [{"role": "user", "content": "question"}],
        },
        "response_id": f"resp-{call_id}",
        "prompt_token_ids": [10, 11],
        "choices": [
            CallChoice(
                message={"role": "assistant", "content": "answer"},
                token_ids=[12, 13],
                logprobs=[-0.5, -0.25],
                finish_reason="stop",
            )
        ],
        "start_time": start,
        "end_time": end,
    }
    return CallRecord(**{**fields, **given})

"""Triplets from the spans of a model proxy, told apart by token ids and ordered by sequence id."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentlightning.adapter.attribute_values import integer_list, literal, nested
from agentlightning.adapter.base import TraceAdapter, own_spans
from agentlightning.adapter.call_triplet import prompt_ids
from agentlightning.adapter.calls import read_call
from agentlightning.adapter.llm_span import is_record
from agentlightning.adapter.rewards import get_reward_value
from agentlightning.adapter.targets import explicit_rewards
from agentlightning.types.rollout import Triplet
from agentlightning.types.tracer import Span, SpanLike

__all__ = ["LlmProxyTraceToTriplet", "TraceToTripletBase"]

_RAW = "raw_gen_ai_request"
_LITELLM = "litellm_request"
_VLLM = "llm.hosted_vllm."


class TraceToTripletBase(TraceAdapter[list[Triplet]]):
    """Base of the adapters that make triplets."""


@dataclass(frozen=True, slots=True)
class _ProxyCall:
    prompt_ids: list[int]
    response_ids: list[int]
    response_id: str | None


class LlmProxyTraceToTriplet(TraceToTripletBase):
    """Builds triplets of token ids from the calls that went through a proxy (experimental).

    It reads our gateway's calls, and those of LiteLLM's OpenTelemetry spans in front of vLLM.
    A reward with links goes to the call it names, see `targets.explicit_rewards`; another one to
    the latest call before it, by sequence id, that has none yet.
    """

    def adapt(self, source: Sequence[SpanLike], /) -> list[Triplet]:
        """Return the triplets of one attempt, in order; calls without ids are left out."""
        spans = sorted(own_spans(source), key=lambda s: (s.sequence_id, s.start_time or 0.0))
        triplets: dict[str, tuple[Span, Triplet]] = {}
        seen: dict[str | None, bool] = {}
        for span in spans:
            call = _proxy_call(span)
            # Our gateway tells each call once, even where a server repeats its ids.
            is_new = call is not None and (is_record(span) and seen.get(call.response_id, True))
            if call is not None and (is_new or call.response_id not in seen):
                if call.response_id is not None:
                    seen[call.response_id] = is_record(span)
                triplets[span.span_id] = (span, _triplet(call))
        _assign(spans, triplets)
        return [triplet for _, triplet in triplets.values()]


def _assign(spans: Sequence[Span], triplets: dict[str, tuple[Span, Triplet]]) -> None:
    ends = {span.span_id: span.end_time or 0.0 for span, _ in triplets.values()}
    explicit = explicit_rewards(spans, ends)
    for call_id, reward in explicit.by_call.items():
        triplets[call_id][1].reward = reward
    for span in spans:
        reward = None if span.span_id in triplets else get_reward_value(span)
        if reward is not None and span.span_id not in explicit.used:
            _give(reward, span.sequence_id, triplets)


def _give(reward: float, sequence_id: int, triplets: dict[str, tuple[Span, Triplet]]) -> None:
    for span, triplet in reversed(triplets.values()):
        if triplet.reward is None and span.sequence_id < sequence_id:
            triplet.reward = reward
            return


def _triplet(call: _ProxyCall) -> Triplet:
    return Triplet(
        prompt={"token_ids": call.prompt_ids},
        response={"token_ids": call.response_ids},
        metadata={"response_id": call.response_id},
    )


def _proxy_call(span: Span) -> _ProxyCall | None:
    """Return the call of a span when it has ids for both prompt and response."""
    record = read_call(span)
    if record is not None:
        usable = record.trained and record.outcome == "ok" and record.choices
        found = _ProxyCall(
            prompt_ids(record),
            record.choices[0].token_ids if usable else [],
            record.response_id,
        )
    elif span.name == _RAW:
        found = _ProxyCall(
            _ids(span.attributes.get(f"{_VLLM}prompt_token_ids")),
            _vllm_response_ids(span),
            _response_id(span),
        )
    elif span.name == _LITELLM:
        found = _ProxyCall(
            _ids(span.attributes.get("prompt_token_ids")),
            _ids(span.attributes.get("response_token_ids")),
            _response_id(span),
        )
    else:
        return None
    return found if found.prompt_ids and found.response_ids else None


def _response_id(span: Span) -> str | None:
    value = span.attributes.get("gen_ai.response.id") or span.attributes.get(f"{_VLLM}id")
    return value if isinstance(value, str) else None


def _vllm_response_ids(span: Span) -> list[int]:
    listed = literal(nested(span.attributes, f"{_VLLM}response_token_ids"))
    if isinstance(listed, list) and listed:
        return _ids(listed[0]) or _ids(listed)
    choices = literal(nested(span.attributes, f"{_VLLM}choices"))
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return _ids(choices[0].get("token_ids"))
    return []


def _ids(value: Any) -> list[int]:
    """Return ids, which LiteLLM writes as Python spells them."""
    return integer_list(literal(value))

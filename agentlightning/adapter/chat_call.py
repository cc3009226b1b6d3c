"""Model calls as transcripts: one for each answer, whoever recorded it, ready to be learnt from."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from agentlightning.adapter.agents import agents_of
from agentlightning.adapter.attribute_values import as_mapping
from agentlightning.adapter.call_spans import one_per_call
from agentlightning.adapter.call_triplet import chat_prompt
from agentlightning.adapter.calls import named_calls
from agentlightning.adapter.content import Members
from agentlightning.adapter.conventions import genai_events, genai_indexed
from agentlightning.adapter.llm_call import LlmCall
from agentlightning.adapter.llm_span import is_record, read_llm_call
from agentlightning.adapter.transcript import normal_messages, normal_tools
from agentlightning.types.call import CallChoice, CallRecord
from agentlightning.types.tracer import Span

__all__ = ["ChatCall", "find_chat_calls"]

_NOBODY = "*"
"""The label of spans that are no agent's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatCall:
    """One answer to a call."""

    span_id: str
    """Of the call, which all its answers share."""
    messages: list[Members]
    """Valid chat messages; the last is the answer."""
    tools: list[Members] | None
    agent: str | None
    """The agent that made the call, if anybody said so."""
    model: str | None
    weight_versions: tuple[int, ...]
    """Versions of the weights that sampled the answer, where they are known."""
    is_exact: bool
    """Whether our gateway recorded the call, and not a client that says what it sent."""


def find_chat_calls(spans: Sequence[Span], *, reasoning: bool = False) -> list[ChatCall]:
    """Return the answers to calls among spans, in the order of the spans and of the choices.

    A call with several choices (`n > 1`) that our gateway recorded gives each of them; of a
    client's own span the first choice is read, since most clients keep no other.

    Calls that the gateway marked as failed, cancelled or untrained are left out, and so are
    repetitions: of several spans of one call the gateway's counts.

    Args:
        spans: The spans of one attempt, of any kind.
        reasoning: See `normal_messages`.
    """
    records = {span.span_id: call for span, call in named_calls(spans)}
    agents = agents_of(spans)
    tools_below = _tool_spans(spans)
    # A record that is unreadable tells nothing, and does not stand in for its client's span.
    tellers = [
        (span, agents.get(span.span_id, _NOBODY))
        for span in spans
        if (span.span_id in records if is_record(span) else _read(span) is not None)
    ]
    found: list[ChatCall] = []
    for span, label in one_per_call(tellers):
        agent = None if label == _NOBODY else label
        call = records.get(span.span_id)
        if call is None:
            chat = _from_span(span, tools_below.get(span.span_id, []), agent, reasoning)
            found += [chat] if chat is not None else []
        else:
            found += _from_record(call, span, call.role or agent, reasoning)
    return found


def _from_record(
    call: CallRecord, span: Span, role: str | None, reasoning: bool
) -> Iterator[ChatCall]:
    if not call.trained or call.outcome != "ok":
        return
    tools = normal_tools(call.chat_request or call.request)
    for choice in call.choices:
        prompt = chat_prompt(call, choice.index)
        if not choice.message or prompt is None:
            continue
        yield ChatCall(
            span_id=span.span_id,
            messages=normal_messages(prompt, choice.message, reasoning=reasoning),
            tools=tools,
            agent=role,
            model=call.model or None,
            weight_versions=_versions(choice),
            is_exact=True,
        )


def _versions(choice: CallChoice) -> tuple[int, ...]:
    return tuple(sorted({run.version for run in choice.versions}))


def _from_span(
    span: Span, tools_below: Iterable[Span], agent: str | None, reasoning: bool
) -> ChatCall | None:
    call = _read(span)
    if call is None:
        return None
    answer = {"role": "assistant", **_answer(call)}
    calls = [_tool_call(tool) for tool in tools_below]
    if calls and not answer.get("tool_calls"):
        answer["tool_calls"] = calls
    return ChatCall(
        span_id=span.span_id,
        messages=normal_messages(call.messages, answer, reasoning=reasoning),
        tools=normal_tools(call.request),
        agent=agent,
        model=call.model,
        weight_versions=(),
        is_exact=False,
    )


def _read(span: Span) -> LlmCall | None:
    """Return what a client's span says of a call, if that has an answer."""
    for read in (read_llm_call, genai_indexed.read_any, genai_events.read):
        call = read(span)
        if call is not None and _answer(call):
            return call
    return None


def _answer(call: LlmCall) -> Members:
    """Return the first answer; choices of chat completions have it inside."""
    answers = call.answers
    first: Any = answers[0] if isinstance(answers, list) and answers else answers
    return as_mapping(as_mapping(first).get("message")) or as_mapping(first)


def _tool_spans(spans: Sequence[Span]) -> dict[str, list[Span]]:
    """Return the spans of tools by the span right above, which then called them."""
    below: dict[str, list[Span]] = {}
    for span in spans:
        if span.parent_id and isinstance(span.attributes.get("tool.name"), str):
            below.setdefault(span.parent_id, []).append(span)
    return below


def _tool_call(span: Span) -> Members:
    read: Any = span.attributes.get
    function = {"name": read("tool.name"), "arguments": read("tool.parameters", "{}")}
    return {"id": read("tool.call.id"), "type": "function", "function": function}

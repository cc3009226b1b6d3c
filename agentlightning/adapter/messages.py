"""Spans to chat transcripts, in the shape that OpenAI's fine-tuning takes. Total: any spans go."""

from collections.abc import Iterable, Sequence
from typing import Any, TypedDict

from agentlightning.adapter.attribute_values import as_mapping, nested
from agentlightning.adapter.base import TraceAdapter, own_spans
from agentlightning.adapter.chat_call import find_chat_calls
from agentlightning.adapter.conversation import last_calls
from agentlightning.adapter.transcript import normal_messages, normal_tools
from agentlightning.types.tracer import SpanLike

__all__ = [
    "OpenAIMessages",
    "TraceToMessages",
    "convert_to_openai_messages",
    "group_genai_dict",
]


class OpenAIMessages(TypedDict):
    """One transcript that ends with the answer to be learnt."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None


class TraceToMessages(TraceAdapter[list[OpenAIMessages]]):
    """Makes a transcript of every answer to a model call: the prompt, then the answer.

    A call with several choices (`n > 1`) has a transcript for each. Calls without an answer, and those that the gateway marked as untrained or failed, are left
    out; of several spans of one call the gateway's counts. Rewards play no part. Whatever the
    spans hold, the messages are valid for OpenAI's chat completions (see `normal_messages`).

    Args:
        per_conversation: Only the last call of each conversation, whose transcript holds the
            earlier ones and, of calls with several choices, the one that the agent went on from;
            without it there is one transcript per answer, as in 0.3.0.
    """

    def __init__(self, *, per_conversation: bool = False) -> None:
        self.per_conversation = per_conversation

    def adapt(self, source: Sequence[SpanLike], /) -> list[OpenAIMessages]:
        """Return the transcripts in the order of the spans."""
        calls = find_chat_calls(own_spans(source))
        if self.per_conversation:
            calls = last_calls(calls)
        return [OpenAIMessages(messages=call.messages, tools=call.tools) for call in calls]


def group_genai_dict(data: dict[str, Any], prefix: str) -> Any:
    """Return what flat attributes hold under `prefix`, nested; an empty dict if nothing.

    Example:
        >>> group_genai_dict({"gen_ai.prompt.0.role": "user"}, "gen_ai.prompt")
        [{'role': 'user'}]
    """
    return nested(data, prefix)


def convert_to_openai_messages(calls: Iterable[dict[str, Any]]) -> list[OpenAIMessages]:
    """Return transcripts of calls that were read from spans.

    Args:
        calls: For each call what its attributes say: `prompt` and `completion` (messages),
            `request` (with `functions`, or `tools`), `tools` (the calls of the answer).
    """
    transcripts: list[OpenAIMessages] = []
    for call in calls:
        answers = call.get("completion")
        if isinstance(answers, dict) and answers:
            answers = [answers]
        if not isinstance(answers, list) or not answers:
            continue
        answer = {"role": "assistant", **as_mapping(answers[0])}
        if call.get("tools") and not answer.get("tool_calls"):
            answer["tool_calls"] = call["tools"]
        tools = normal_tools(call.get("request"))
        transcripts.append(
            OpenAIMessages(messages=normal_messages(call.get("prompt"), answer), tools=tools)
        )
    return transcripts

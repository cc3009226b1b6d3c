"""Records in the formats of fine-tuning tools, made of samples and preferences. Pure functions.

OpenAI: chat format with `weight` for supervised, `preferred_output` for preference fine-tuning.
TRL: conversational data sets of the types language modeling, prompt-completion, preference and
unpaired preference.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from agentlightning.adapter.content import Members
from agentlightning.adapter.export.sample import Sample
from agentlightning.adapter.export.selection import Preference

__all__ = [
    "openai_dpo",
    "openai_sft",
    "pair_provenance",
    "trl_dpo",
    "trl_kto",
    "trl_prompt_completion",
    "trl_sft",
]

Record = dict[str, Any]


def openai_sft(sample: Sample) -> Record:
    """Return a line for supervised fine-tuning.

    Assistant messages that the model did not say in this rollout get `weight` 0.
    """
    messages = _openai_messages(sample.messages)
    for place, message in enumerate(messages):
        if message["role"] == "assistant" and place not in sample.sampled:
            message["weight"] = 0
    return {"messages": messages, **_openai_tools(sample)}


def openai_dpo(pair: Preference) -> Record:
    """Return a line for preference fine-tuning: the first answers that differ, one each."""
    messages = _openai_messages(pair.prompt)
    return {
        "input": {"messages": messages, **_openai_tools(pair.chosen_from)},
        "preferred_output": _openai_messages(pair.chosen[:1]),
        "non_preferred_output": _openai_messages(pair.rejected[:1]),
    }


def _openai_messages(messages: Iterable[Members]) -> list[Members]:
    return [
        {key: value for key, value in message.items() if key != "reasoning_content"}
        for message in messages
    ]


def _openai_tools(sample: Sample) -> Record:
    return {"tools": sample.tools, "parallel_tool_calls": True} if sample.tools else {}


def trl_sft(sample: Sample) -> Record:
    """Return a conversation; train with `assistant_only_loss`."""
    return {
        "messages": _trl_messages(sample.messages),
        **_trl_tools(sample),
        **sample.provenance(),
    }


def trl_prompt_completion(sample: Sample) -> Record:
    """Return prompt and completion, which begins with the first thing that the model said."""
    return {
        "prompt": _trl_messages(sample.prompt),
        "completion": _trl_messages(sample.completion),
        **_trl_tools(sample),
        **sample.provenance(),
    }


def trl_dpo(pair: Preference) -> Record:
    """Return a preference with the whole rest of both conversations."""
    return {
        "prompt": _trl_messages(pair.prompt),
        "chosen": _trl_messages(pair.chosen),
        "rejected": _trl_messages(pair.rejected),
        **_trl_tools(pair.chosen_from),
        **pair_provenance(pair),
    }


def trl_kto(sample: Sample, label: bool) -> Record:
    """Return an unpaired preference: one completion that is good or bad."""
    return {
        "prompt": _trl_messages(sample.prompt),
        "completion": _trl_messages(sample.completion),
        "label": label,
        **_trl_tools(sample),
        **sample.provenance(),
    }


def pair_provenance(pair: Preference) -> Record:
    """Return the columns that say where both sides of a pair come from."""
    columns: Record = {"group_id": pair.chosen_from.group_id}
    for side, sample in (("chosen", pair.chosen_from), ("rejected", pair.rejected_from)):
        own = {k: v for k, v in sample.provenance().items() if k != "group_id"}
        columns.update({f"{side}_{key}": value for key, value in own.items()})
    return columns


def _trl_messages(messages: Iterable[Members]) -> list[Members]:
    """Return messages as chat templates read them: arguments as objects, no content as a text."""
    return [_trl_message(message) for message in messages]


def _trl_message(message: Members) -> Members:
    made = {**message, "content": message["content"] or ""}
    if "tool_calls" in message:
        made["tool_calls"] = [
            {
                **call,
                "function": {
                    **call["function"],
                    "arguments": _arguments(call["function"]["arguments"]),
                },
            }
            for call in message["tool_calls"]
        ]
    return made


def _arguments(text: str) -> Any:
    """Return arguments as an object; a text that is none, as models write at times, stays one."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


def _trl_tools(sample: Sample) -> Record:
    return {"tools": sample.tools} if sample.tools else {}

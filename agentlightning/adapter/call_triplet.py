"""Triplets of captured calls, whatever wire format the client spoke. Pure functions."""

from typing import Any, cast

from agentlightning.adapter.llm_span import image_urls
from agentlightning.types.call import CallRecord
from agentlightning.types.rollout import Triplet

__all__ = ["call_to_triplet", "chat_prompt", "prompt_ids", "prompt_of"]

_COMPLETIONS = "openai.completions"
_PROMPT_KEYS = ("messages", "prompt", "input")
"""Where chat completions, completions and responses say what they ask."""


def prompt_of(call: CallRecord) -> Any:
    """Return what a call asked: its messages, in the shape of chat completions where it has one.

    A client of plain completions asked with a text; that comes back as it is.
    """
    for request in (call.chat_request, call.request):
        for key in _PROMPT_KEYS:
            if request and request.get(key) is not None:
                return request[key]
    return []


def call_to_triplet(call: CallRecord, agent_name: str) -> Triplet:
    """Return a captured call as prompt and response, with no reward yet.

    Args:
        call: The call.
        agent_name: Label of the agent around it; a role that the call itself has comes first.
    """
    prompt = prompt_of(call)
    first = call.choices[0] if call.choices else None
    response: dict[str, Any] = {
        "token_ids": first.token_ids if first else [],
        "raw_content": [choice.message for choice in call.choices if choice.message is not None],
    }
    if first and first.logprobs:
        response["logprobs"] = [{"logprob": value} for value in first.logprobs]
    return Triplet(
        prompt={
            "token_ids": prompt_ids(call),
            "raw_content": prompt,
            "image_urls": image_urls(prompt),
        },
        response=response,
        metadata={
            "request": _without_prompt(call),
            "response": {
                "model": call.model,
                "usage": call.usage,
                "finish_reason": first.finish_reason if first else None,
            },
            "response_id": call.response_id,
            "agent_name": call.role or agent_name,
        },
    )


def prompt_ids(call: CallRecord) -> list[int]:
    """Return the prompt that the first choice answers, which may be one of several."""
    own = call.choices[0].prompt_token_ids if call.choices else None
    return call.prompt_token_ids if own is None else own


def chat_prompt(call: CallRecord, choice: int = 0) -> Any:
    """Return what a call asked, as messages or as the text of a plain completion.

    None when there is no text: the client sent token ids, or said nothing.

    Args:
        call: The call.
        choice: Index of the choice that answers; a completions request may have several prompts.
    """
    prompt = prompt_of(call)
    if call.chat_request is None and call.dialect == _COMPLETIONS and isinstance(prompt, list):
        # Each of several prompts is answered by `n` choices in a row.
        wanted = call.request.get("n")
        at = choice // wanted if isinstance(wanted, int) and wanted > 0 else choice
        prompts = cast("list[Any]", prompt)
        prompt = prompts[at] if at < len(prompts) else None
        return prompt if isinstance(prompt, str) else None
    return prompt


def _without_prompt(call: CallRecord) -> dict[str, Any]:
    request = call.chat_request or call.request
    return {key: value for key, value in request.items() if key not in _PROMPT_KEYS}

"""Chat answers in one shape, streamed or whole, so that they can be compared."""

from typing import Any


def joined(chunks: list[dict[str, Any]], index: int = 0) -> dict[str, Any]:
    """Put the chunks of a choice together, in the shape of a whole answer's choice."""
    parts = [c for chunk in chunks for c in chunk["choices"] if c["index"] == index]
    content = "".join(part["delta"].get("content") or "" for part in parts)
    thoughts = [part["delta"].get("reasoning_content") for part in parts]
    known = [thought for thought in thoughts if thought is not None]
    logprobs = [e for part in parts if part["logprobs"] for e in part["logprobs"]["content"]]
    return {
        "reasoning": "".join(known) if known else None,
        "content": content,
        "token_ids": [i for part in parts for i in part.get("token_ids", [])],
        "logprobs": logprobs,
        "finish_reason": parts[-1]["finish_reason"],
        "stop_reason": parts[-1]["stop_reason"],
        "calls": [call for part in parts for call in part["delta"].get("tool_calls", [])],
    }


def whole(answer: dict[str, Any], index: int = 0) -> dict[str, Any]:
    choice = answer["choices"][index]
    return {
        "reasoning": choice["message"].get("reasoning_content"),
        "content": choice["message"]["content"] or "",
        "token_ids": choice["token_ids"],
        "logprobs": choice["logprobs"]["content"],
        "finish_reason": choice["finish_reason"],
        "stop_reason": choice["stop_reason"],
        "calls": choice["message"].get("tool_calls", []),
    }


def comparable(choice: dict[str, Any]) -> dict[str, Any]:
    """Drop what differs by design (ids of calls) and round what arithmetic may change."""
    calls = [call["function"] for call in choice["calls"]]
    logprobs = [(entry["token"], round(entry["logprob"], 3)) for entry in choice["logprobs"]]
    return {**choice, "calls": calls, "logprobs": logprobs}

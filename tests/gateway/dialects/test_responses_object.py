"""The response object: what is said back of a request, and counts of tokens."""

from agentlightning.gateway.dialects.responses_object import (
    chat_usage,
    new_response,
    response_usage,
)


def test_what_was_asked_is_said_back() -> None:
    """Parameters stand in the response as they were sent, and defaults where none were."""
    request = {
        "instructions": "i",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "low"},
        "store": False,
        "text": {"verbosity": "low"},
        "tools": [{"type": "function", "name": "f"}],
        "truncation": "auto",
        "metadata": {"a": "b"},
    }
    told = new_response("resp_1", request, "m")
    assert (told["id"], told["model"], told["status"]) == ("resp_1", "m", "in_progress")
    assert (told["instructions"], told["parallel_tool_calls"], told["store"]) == ("i", False, False)
    assert told["reasoning"] == {"effort": "low", "summary": None}
    assert told["text"] == {"format": {"type": "text"}, "verbosity": "low"}
    assert (told["tools"], told["tool_choice"]) == (request["tools"], "auto")
    assert told["truncation"] == "disabled"
    plain = new_response("resp_1", {}, "m")
    assert (plain["parallel_tool_calls"], plain["store"], plain["tools"]) == (True, True, [])
    assert plain["temperature"] is None


def test_counts() -> None:
    """Counts go both ways; a server that gives none has no usage."""
    usage = {
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }
    told = response_usage(usage)
    assert told is not None
    assert (told["total_tokens"], told["output_tokens_details"]) == (8, {"reasoning_tokens": 1})
    back = chat_usage(told)
    assert {key: back[key] for key in ("prompt_tokens", "completion_tokens")} == {
        "prompt_tokens": 5,
        "completion_tokens": 3,
    }
    assert back["prompt_tokens_details"] == {"cached_tokens": 2}
    assert response_usage({}) is None

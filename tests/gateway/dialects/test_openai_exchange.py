"""Prompts of choices, and what the upstream is asked beyond what the client asked."""

import json
from typing import Any

import pytest

from agentlightning.gateway.dialects.base import Exchange, ModelCall
from agentlightning.gateway.dialects.completions import CompletionsDialect
from agentlightning.gateway.dialects.openai_chat import OpenAIChatDialect
from agentlightning.gateway.http_upstream import HttpUpstream
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.upstream import UpstreamCapabilities


def exchange(request: dict[str, Any], **route: Any) -> Exchange:
    dialect = CompletionsDialect() if "prompt" in request else OpenAIChatDialect()
    capabilities = UpstreamCapabilities(token_ids=True, logprobs=True)
    upstream = HttpUpstream("http://server/v1", capabilities=capabilities)
    body = json.dumps(request).encode()
    to = ModelRoute(upstream=upstream, model="real", **route)
    return dialect.begin(ModelCall(request=request, body=body, route=to))


def answer(*choices: dict[str, Any], **members: Any) -> bytes:
    return json.dumps({"choices": list(choices), **members}).encode()


def test_a_prompt_that_each_choice_repeats_is_the_calls() -> None:
    """Servers that say the prompt in each choice of a chat answer say it once."""
    call = exchange({"messages": [], "n": 2})
    choice = {"message": {"role": "assistant"}, "prompt_token_ids": [1, 2], "token_ids": [3]}
    call.take_whole(answer(choice, {**choice, "index": 1}))
    captured = call.answer()
    assert captured.prompt_token_ids == [1, 2]
    assert [it.prompt_token_ids for it in captured.choices] == [None, None]
    assert call.answer() == captured


def test_choices_keep_their_own_prompts() -> None:
    """The call's prompt is the first choice's; the others say theirs, or that it is unknown."""
    call = exchange({"prompt": ["a", "b", "c"]})
    choices = [{"index": at, "text": "", "token_ids": [9]} for at in range(3)]
    choices[0]["prompt_token_ids"], choices[2]["prompt_token_ids"] = [1], [2]
    call.take_whole(answer(*choices, prompt_token_ids=[7]))
    captured = call.answer()
    assert captured.prompt_token_ids == [1]
    assert [it.prompt_token_ids for it in captured.choices] == [None, [], [2]]
    assert call.answer() == captured


@pytest.mark.parametrize("prompt", ["a", [1, 2]])
def test_one_prompt_may_stand_at_the_top(prompt: Any) -> None:
    """A list of numbers is one prompt, whose ids may be told once for all choices."""
    call = exchange({"prompt": prompt, "n": 2})
    choices = [{"index": at, "text": "", "token_ids": [9]} for at in range(2)]
    call.take_whole(answer(*choices, prompt_token_ids=[7]))
    assert call.answer().prompt_token_ids == [7]
    assert [it.prompt_token_ids for it in call.answer().choices] == [None, None]


def test_defaults_and_overrides() -> None:
    """Overrides replace the client's members, defaults only what is not said under any name."""
    request = {"prompt": "a", "max_completion_tokens": 5, "temperature": 0.5}
    call = exchange(
        request,
        sampling_defaults={"max_tokens": 9, "top_p": 0.9},
        sampling_overrides={"temperature": 1.0, "max_completion_tokens": None},
    )
    asked = json.loads(call.upstream_body)
    assert {key: asked[key] for key in ("temperature", "top_p")} == {
        "temperature": 1.0,
        "top_p": 0.9,
    }
    assert "max_tokens" not in asked
    assert "max_completion_tokens" not in asked

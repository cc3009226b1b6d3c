"""Chat completions of models that think."""

import asyncio
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentlightning.engine.chat import ChatService
from agentlightning.engine.engine import Engine
from agentlightning.engine.loading import LoadedModel, load_model
from tests.support.chat_answer import comparable, joined, whole
from tests.support.scripted_model import teach
from tests.support.tiny_model import make_tiny_model

USER = [{"role": "user", "content": "héllo"}]
BASE = {"messages": USER, "max_tokens": 24, "seed": 1, "return_token_ids": True, "logprobs": True}
TOOLS = [{"type": "function", "function": {"name": "red", "parameters": {"type": "object"}}}]
CALL = '<tool_call>\n{"name": "red", "arguments": {"x":  1}}\n</tool_call>'

THINKING = (
    "{% for m in messages %}{{ m.content.split('</think>')[-1] }}<|im_end|>{% endfor %}"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% elif opens %}<think>\n{% endif %}"
    "{# <tool_call> #}"
)
"""Opens the reasoning where `opens` is asked for, and closes it under `enable_thinking: false`."""


async def collect(chat: ChatService, body: dict[str, Any]) -> list[dict[str, Any]]:
    return [chunk async for chunk in chat.stream({**body, "stream": True})]


@pytest.fixture
def make_thinker(
    tiny: LoadedModel, make_engine: Callable[..., Engine]
) -> Callable[[str], ChatService]:
    def make(text: str) -> ChatService:
        engine = make_engine(teach(tiny, text))
        engine.tokenizer = copy.deepcopy(tiny.tokenizer)
        engine.tokenizer.chat_template = THINKING
        return ChatService(engine, model="m")

    return make


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("text", "asked", "reasoning", "content"),
    [
        ("<think>\nHm.\n</think>\n\nYes", {}, "\nHm.\n", "\n\nYes"),
        (
            "Hm.</think>Yes",
            {"chat_template_kwargs": {"opens": True}},
            "Hm.",
            "Yes",
        ),
        ("Yes", {"chat_template_kwargs": {"enable_thinking": False}}, None, "Yes"),
        ("<think>Hm.</think>Yes", {"include_reasoning": False}, None, "Yes"),
        ("<think>Hm.</think>Yes", {"separate_reasoning": False}, None, "<think>Hm.</think>Yes"),
        ("<think>Hm. Yes?", {"max_tokens": 13}, "Hm. Ye", ""),
    ],
)
async def test_reasoning_is_told_apart(
    make_thinker: Callable[[str], ChatService],
    stream: bool,
    text: str,
    asked: dict[str, Any],
    reasoning: str | None,
    content: str,
) -> None:
    """What stands between the markers is the reasoning, unfinished or not; all tokens are told."""
    chat = make_thinker(text)
    body = {**BASE, "max_tokens": 60, **asked}
    choice = joined(await collect(chat, body)) if stream else whole(await chat.complete(body))
    tokenizer = chat.engine.tokenizer
    tokens = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    assert choice["token_ids"] == tokens[: body["max_tokens"]]
    assert choice["finish_reason"] == ("stop" if len(tokens) <= body["max_tokens"] else "length")
    assert (choice["reasoning"], choice["content"]) == (reasoning, content)
    assert len(choice["logprobs"]) == len(choice["token_ids"])


@pytest.mark.parametrize("stream", [False, True])
async def test_special_markers_part_the_text(
    tmp_path: Path, make_engine: Callable[..., Engine], stream: bool
) -> None:
    """Markers that are special tokens are found, though decoding would drop them."""
    markers = ["[THINK]", "[/THINK]"]
    loaded = load_model(make_tiny_model(tmp_path, words=markers))
    engine = make_engine(teach(loaded, "[THINK]Hm.[/THINK]Yes"))
    engine.tokenizer = loaded.tokenizer
    engine.tokenizer.add_special_tokens({"additional_special_tokens": markers})
    engine.tokenizer.chat_template = "{# [/THINK] #}{{ messages[0].content }}"
    chat = ChatService(engine, model="m")
    choice = joined(await collect(chat, BASE)) if stream else whole(await chat.complete(BASE))
    assert (choice["reasoning"], choice["content"]) == ("Hm.", "Yes")
    assert len(choice["token_ids"]) == 9


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.sampled_from(["<think>", "</think>", "</th", "k>", CALL, "é", " ", "A"]), max_size=5
    ),
    st.booleans(),
    st.integers(1, 60),
)
def test_streamed_reasoning_equals_the_whole_one(
    tiny: LoadedModel, words: list[str], opens: bool, limit: int
) -> None:
    """With markers and calls anywhere and an end at any token, both say the same."""
    engine = Engine(teach(tiny, "".join(words)), copy.deepcopy(tiny.tokenizer))
    engine.tokenizer.chat_template = THINKING
    engine.start()
    chat = ChatService(engine, model="m")
    kwargs = {"opens": opens}
    body = {**BASE, "max_tokens": limit, "tools": TOOLS, "chat_template_kwargs": kwargs}

    async def both() -> tuple[Any, Any]:
        # The scripted model counts its tokens, so each text is brought to its end.
        rest = {**body, "max_tokens": 400}
        answer = await chat.complete(body)
        if answer["choices"][0]["finish_reason"] == "length":
            await chat.complete(rest)
        return answer, await collect(chat, body)

    try:
        answer, chunks = asyncio.run(both())
    finally:
        engine.stop()
    assert comparable(joined(chunks)) == comparable(whole(answer))


async def test_counting_repeats_the_exact_history(
    make_thinker: Callable[[str], ChatService],
) -> None:
    """Tokens of a known conversation are counted as a call would be given them, and only looked at."""
    chat = make_thinker("<think>Hm.</think>A")
    first = await chat.complete({**BASE, "max_tokens": 60}, conversation="c")
    said = first["choices"][0]["message"]
    turn = {"messages": [*USER, {**said, "reasoning_content": None}, *USER]}
    before = chat.history.stats()
    counted = chat.tokenize(turn, conversation="c")
    alone = chat.tokenize(turn)
    assert chat.history.stats() == before
    then = await chat.complete({**BASE, **turn}, conversation="c")
    assert counted["tokens"] == then["prompt_token_ids"]
    assert counted["count"] == len(then["prompt_token_ids"]) > alone["count"]

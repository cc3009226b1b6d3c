"""Whole answers, by what templates teach; gpt-oss end to end."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from agentlightning.engine.answer_format import AnswerOpening, detect_answer_format
from agentlightning.engine.chat import ChatService
from agentlightning.engine.engine import Engine
from agentlightning.engine.loading import LoadedModel, load_model
from agentlightning.engine.reasoning import detect_reasoning
from tests.support.chat_answer import joined, whole
from tests.support.scripted_model import teach
from tests.support.tiny_model import make_tiny_model, make_tiny_tokenizer

MARKERS = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>"]
HARMONY = """\
{%- for m in messages %}
{%- if m.role == 'assistant' and m.tool_calls %}
{{- '<|start|>assistant to=functions.' + m.tool_calls[0].function.name }}
{{- '<|channel|>commentary json<|message|>' + (m.tool_calls[0].function.arguments | tojson) }}
{{- '<|call|>' }}
{%- elif m.role == 'assistant' %}
{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' }}
{%- elif m.role == 'tool' %}
{{- '<|start|>functions to=assistant<|channel|>commentary<|message|>' + m.content + '<|end|>' }}
{%- else %}
{{- '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}
"""
USER: list[Any] = [{"role": "user", "content": "héllo"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
BASE = {"tools": [TOOL], "max_tokens": 200, "return_token_ids": True, "logprobs": True}
THOUGHT = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
CALL = '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"x":  1}'


@pytest.fixture(scope="module")
def oss(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    loaded = load_model(make_tiny_model(tmp_path_factory.mktemp("oss"), words=MARKERS))
    loaded.tokenizer.add_special_tokens({"additional_special_tokens": MARKERS})
    loaded.tokenizer.chat_template = HARMONY
    return loaded


def scripted(oss: LoadedModel, make_engine: Callable[..., Engine], *texts: str) -> ChatService:
    """Serve a model that says these texts, each ending with the marker that it should."""
    tokenizer = copy.deepcopy(oss.tokenizer)
    engine = make_engine(teach(oss, *texts, tokenizer=tokenizer))
    engine.tokenizer = tokenizer
    engine.eos_ids = frozenset(
        [tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(["<|call|>", "<|return|>"])]
    )
    return ChatService(engine, model="m")


async def ask(chat: ChatService, stream: bool, messages: Any = USER, **more: Any):
    body = {**BASE, "messages": messages, **more}
    if not stream:
        answer = await chat.complete(body, conversation="c")
        return whole(answer), answer["prompt_token_ids"]
    chunks = [chunk async for chunk in chat.stream(body, conversation="c")]
    return joined(chunks), chunks[0]["prompt_token_ids"]


@pytest.mark.parametrize("stream", [False, True])
async def test_harmony_conversations(
    oss: LoadedModel, make_engine: Callable[..., Engine], stream: bool
) -> None:
    """Thoughts, calls and answers arrive apart, and later prompts repeat what was sampled."""
    final = THOUGHT + "<|channel|>final<|message|>Yés"
    chat = scripted(oss, make_engine, THOUGHT + CALL, final, "Plain.")
    first, prompt = await ask(chat, stream)
    assert (first["reasoning"], first["content"]) == ("Hm.", "")
    assert first["calls"][0]["function"] == {"name": "f", "arguments": '{"x":  1}'}
    assert first["finish_reason"] == "tool_calls"
    called = {"role": "assistant", "content": None, "tool_calls": first["calls"]}
    messages = [*USER, called, {"role": "tool", "tool_call_id": "1", "content": "ok"}]
    second, then = await ask(chat, stream, messages)
    assert (second["reasoning"], second["content"], second["calls"]) == ("Hm.", "Yés", [])
    sampled = [*prompt, *first["token_ids"]]
    assert then[: len(sampled)] == sampled
    messages = [*messages, {"role": "assistant", "content": "Yés"}, *USER]
    third, last = await ask(chat, stream, messages)
    sampled = [*then, *second["token_ids"]]
    assert last[: len(sampled)] == sampled
    assert (third["reasoning"], third["content"]) == (None, "Plain.")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["required", "auto"])
async def test_harmony_calls_can_be_required(
    oss: LoadedModel, make_engine: Callable[..., Engine], stream: bool, choice: str
) -> None:
    """The prompt begins the call; a model left to itself writes the arguments as text."""
    chat = scripted(oss, make_engine, '{"x":  1}')
    told, prompt = await ask(chat, stream, tool_choice=choice)
    text = chat.engine.tokenizer.decode(prompt)
    if choice == "auto":
        assert (told["content"], told["calls"]) == ('{"x":  1}', [])
        assert text.endswith("<|start|>assistant")
        return
    assert text.endswith("<|start|>assistant" + CALL.removesuffix('{"x":  1}'))
    assert told["calls"][0]["function"] == {"name": "f", "arguments": '{"x":  1}'}


@pytest.mark.parametrize("special", [False, True])
def test_special_markers_of_calls_are_kept(special: bool) -> None:
    """Decoding keeps special tokens where they mark calls that are looked for."""
    tokenizer = make_tiny_tokenizer(["[TOOL_CALLS]"])
    if special:
        tokenizer.add_special_tokens({"additional_special_tokens": ["[TOOL_CALLS]"]})
    tokenizer.chat_template = "[TOOL_CALLS]"
    answers = detect_answer_format(tokenizer)
    assert answers.parser([], tools=[]).keep_special == special
    assert not answers.parser([], tools=None).keep_special


def test_an_opening_closes_what_the_prompt_opened() -> None:
    """Only thinking that is open is closed, on a line of its own where it began on one."""
    opening = AnswerOpening("<call>", detect_reasoning("<think>"))
    assert opening.behind("assistant\n") == "<call>"
    assert opening.behind("<think>") == "</think>\n\n<call>"
    assert opening.behind("<think>\n") == "\n</think>\n\n<call>"
    assert opening.behind("<think>\n\n</think>\n\n") == "<call>"
    assert AnswerOpening("<call>").behind("<think>") == "<call>"


def test_templates_without_tools_have_no_opening() -> None:
    """Where a template knows no tools, or none that we know, nothing is begun."""
    tokenizer = make_tiny_tokenizer()
    for template in (None, "{{ messages }}", "{% if tools %}"):
        tokenizer.chat_template = template
        assert detect_answer_format(tokenizer).opening("f") is None

"""Chat completions that must call a tool."""

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest

from agentlightning.adapter.token_tree import build_token_rows
from agentlightning.engine.chat import ChatService
from agentlightning.engine.engine import Engine
from agentlightning.engine.loading import LoadedModel
from agentlightning.errors import ContextLengthError
from agentlightning.types.call import CallChoice, CallRecord
from tests.support.chat_answer import comparable, joined, whole
from tests.support.scripted_model import teach

USER = [{"role": "user", "content": "héllo"}]
BASE = {"messages": USER, "max_tokens": 60, "seed": 1, "return_token_ids": True, "logprobs": True}


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}


RED, GREEN = tool("red"), tool("green")
NAMED = {"type": "function", "function": {"name": "red"}}
ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}
FREE, FIXED = '<tool_call>\n{"name": "', '<tool_call>\n{"name": "red", "arguments":'
ARGUMENTS = ' {"x":  1}}\n</tool_call>'


async def ask(chat: ChatService, stream: bool, *, conversation: str | None = None, **more: Any):
    """Return a choice in one shape, and the ids of its prompt."""
    body = {**BASE, "tools": [RED, GREEN], **more}
    if not stream:
        answer = await chat.complete(body, conversation=conversation)
        return whole(answer), answer["prompt_token_ids"]
    chunks = [chunk async for chunk in chat.stream(body, conversation=conversation)]
    return joined(chunks), chunks[0]["prompt_token_ids"]


@pytest.fixture
def make_chat(tiny: LoadedModel, make_engine: Callable[..., Engine]) -> Callable[..., ChatService]:
    def make(*texts: str, template: str | None = None) -> ChatService:
        engine = make_engine(teach(tiny, *texts))
        engine.tokenizer = copy.deepcopy(tiny.tokenizer)
        engine.tokenizer.chat_template = template or tiny.tokenizer.chat_template
        return ChatService(engine, model="m")

    return make


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("asked", "opening", "said"),
    [
        ({"tool_choice": "required"}, FREE, 'red", "arguments":' + ARGUMENTS),
        ({"tool_choice": "required", "tools": [RED]}, FIXED, ARGUMENTS),
        ({"tool_choice": NAMED}, FIXED, ARGUMENTS),
        ({"tool_choice": ALLOWED}, FIXED, ARGUMENTS),
    ],
)
async def test_the_prompt_begins_the_call(
    make_chat: Callable[..., ChatService],
    stream: bool,
    asked: dict[str, Any],
    opening: str,
    said: str,
) -> None:
    """The prompt ends with the call's beginning, the tokens are what was sampled behind it, and
    the message holds the whole call.
    """
    chat = make_chat(said)
    free = chat.tokenize({"messages": USER, "tools": asked.get("tools", [RED, GREEN])})["tokens"]
    choice, prompt = await ask(chat, stream, **asked)
    tokenizer = chat.engine.tokenizer
    assert choice["calls"][0]["function"] == {"name": "red", "arguments": '{"x":  1}'}
    assert (choice["content"], choice["finish_reason"]) == ("", "tool_calls")
    assert choice["token_ids"] == [*tokenizer(said)["input_ids"], tokenizer.eos_token_id]
    assert len(choice["logprobs"]) == len(choice["token_ids"])
    if asked["tool_choice"] != ALLOWED:  # which shows the model other tools
        assert prompt == [*free, *tokenizer(opening)["input_ids"]]
    assert tokenizer.decode(prompt).endswith(f"assistant\n{opening}")
    assert chat.tokenize({"messages": USER, "tools": [RED, GREEN], **asked})["tokens"] == prompt


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_no_call_stays_content(
    make_chat: Callable[..., ChatService], stream: bool
) -> None:
    """Where the model does not go on as it was begun, all of it is content and nothing is lost."""
    chat = make_chat(' none"}')
    choice, _ = await ask(chat, stream, tool_choice=NAMED)
    assert (choice["content"], choice["calls"]) == (f'{FIXED} none"}}', [])
    assert choice["finish_reason"] == "stop"
    short, _ = await ask(make_chat(ARGUMENTS), stream, tool_choice=NAMED, max_tokens=4)
    assert (short["content"], short["finish_reason"]) == (f"{FIXED}{ARGUMENTS[:4]}", "length")


@pytest.mark.parametrize("choice", ["required", NAMED])
async def test_several_choices_streamed_equal_the_whole(engine: Engine, choice: Any) -> None:
    """Every choice goes on behind the same beginning, and both ways say the same."""
    chat = ChatService(engine, model="tiny")
    body = {**BASE, "n": 3, "tools": [RED, GREEN], "tool_choice": choice, "stop": ["zq", "é"]}
    answer = await chat.complete(body)
    chunks = [chunk async for chunk in chat.stream(body)]
    for index in range(3):
        one = whole(answer, index)
        assert comparable(joined(chunks, index)) == comparable(one)
        assert one["content"].startswith(FREE)
    assert len({tuple(choice["token_ids"]) for choice in answer["choices"]}) == 3


@pytest.mark.parametrize("first", ["required", NAMED])
async def test_a_conversation_is_one_row_and_its_beginnings_are_not_learnt(
    make_chat: Callable[..., ChatService], first: Any
) -> None:
    """Forced, free and forced again: each prompt repeats what was begun and what was sampled, and
    exactly the sampled tokens are trained.
    """
    said = 'red", "arguments":' + ARGUMENTS
    texts = [said if first == "required" else ARGUMENTS, "Hm." + FREE + said, said, "Done."]
    chat = make_chat(*texts)
    messages: list[Any] = list(USER)
    records: list[CallRecord] = []
    for at, choice in enumerate([first, "auto", "required", "none"]):
        body = {**BASE, "messages": messages, "tools": [RED, GREEN], "tool_choice": choice}
        answer = await chat.complete({**body, "max_tokens": 120}, conversation="c")
        (told,) = answer["choices"]
        records.append(
            CallRecord(
                call_id=str(at),
                rollout_id="r",
                attempt_id="a",
                request=body,
                prompt_token_ids=answer["prompt_token_ids"],
                choices=[CallChoice(message=told["message"], token_ids=told["token_ids"])],
                start_time=at,
                end_time=at,
            )
        )
        messages = [*messages, told["message"]]
        calls = told["message"].get("tool_calls", [])
        messages += [{"role": "tool", "tool_call_id": c["id"], "content": "ok"} for c in calls]
        assert len(calls) == (at < 3)
    rows, report = build_token_rows(records)
    assert len(rows) == 1
    assert not report.forks
    trained = [int(token) for token, on in zip(rows[0].ids, rows[0].mask, strict=True) if on]
    tokenizer = chat.engine.tokenizer
    end = tokenizer.eos_token_id
    assert trained == [token for text in texts for token in [*tokenizer(text)["input_ids"], end]]
    assert chat.history.stats().prompts == {"first": 1, "spliced": 3}


async def test_prompts_with_and_without_a_beginning_are_not_mixed_up(
    make_chat: Callable[..., ChatService],
) -> None:
    """The same messages asked both ways in one conversation have each their own prompt."""
    chat = make_chat("A")
    _, free = await ask(chat, False, conversation="c")
    _, forced = await ask(chat, False, conversation="c", tool_choice=NAMED)
    _, other = await ask(chat, False, conversation="c", tool_choice="required")
    prompts = [free, forced, other]
    assert sorted(map(len, prompts)) == [len(free), len(other), len(forced)]
    again = [
        (await ask(chat, False, conversation="c", tool_choice=choice))[1]
        for choice in (None, NAMED, "required")
    ]
    assert again == prompts
    assert chat.history.stats().prompts == {"first": 3, "repeated": 3}


THINKING = (
    "{{ messages[0].content }}{{ '<think>' }}{% if line %}{{ '\n' }}{% endif %}{# <tool_call> #}"
)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("line", [False, True])
async def test_open_reasoning_is_closed_first(
    make_chat: Callable[..., ChatService], stream: bool, line: bool
) -> None:
    """A template that has the model think first has it think nothing, and then call."""
    chat = make_chat(ARGUMENTS, template=THINKING)
    options = {"chat_template_kwargs": {"line": line}}
    choice, prompt = await ask(chat, stream, tool_choice=NAMED, **options)
    head = "<think>\n\n</think>\n\n" if line else "<think></think>\n\n"
    assert chat.engine.tokenizer.decode(prompt) == "héllo" + head + FIXED
    assert choice["reasoning"] is None
    assert choice["calls"][0]["function"]["arguments"] == '{"x":  1}'


UNKNOWN = "{% for t in tools or [] %}{{ t.function.name }} {% endfor %}{{ messages[0].content }}"


async def test_an_unknown_format_is_taken_as_auto_and_said_once(
    make_chat: Callable[..., ChatService], caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is put into the model's mouth, only the named tool is shown, and the log says so."""
    chat = make_chat("A", template=UNKNOWN)
    with caplog.at_level(logging.WARNING, logger="agentlightning.engine.chat"):
        choice, required = await ask(chat, False, tool_choice="required")
        _, named = await ask(chat, True, tool_choice=NAMED)
    assert (choice["content"], choice["finish_reason"]) == ("A", "stop")
    tokenizer = chat.engine.tokenizer
    assert tokenizer.decode(required) == "red green héllo"
    assert tokenizer.decode(named) == "red héllo"
    warned = [it.message for it in caplog.records if "tool_choice" in it.message]
    assert len(warned) == 1


async def test_templates_that_ask_for_the_choice_are_told(
    make_chat: Callable[..., ChatService],
) -> None:
    """A template that says to the model what it must do is told; the client may say otherwise."""
    chat = make_chat("A", template="{{ messages[0].content }}:{{ tool_choice }}{# <tool_call> #}")
    decode = chat.engine.tokenizer.decode
    _, told = await ask(chat, False, tool_choice="required")
    assert decode(told) == "héllo:required" + FREE
    own = {"chat_template_kwargs": {"tool_choice": "mine"}}
    _, other = await ask(chat, False, tool_choice="auto", **own)
    assert decode(other) == "héllo:mine"


async def test_the_beginning_counts_for_the_context(
    tiny: LoadedModel, make_engine: Callable[..., Engine]
) -> None:
    """A prompt that fits only without the beginning is too long with it."""
    free = ChatService(make_engine(), model="m")
    length = free.tokenize({"messages": USER, "tools": [RED]})["count"]
    chat = ChatService(make_engine(max_context=length + 3), model="m")
    await ask(chat, False, tools=[RED], max_tokens=1)
    with pytest.raises(ContextLengthError):
        await ask(chat, False, tools=[RED], tool_choice=NAMED)

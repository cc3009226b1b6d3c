"""Chunks of one token, read without a parser: what is said is what a parser would have read."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.gateway.dialects.openai_chat import ChatExchange
from agentlightning.gateway.dialects.token_chunk import TokenReader
from agentlightning.gateway.http_upstream import HttpUpstream
from agentlightning.gateway.jsontext import Cut, cut_members
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.stream import EventSplitter
from agentlightning.gateway.upstream import UpstreamCapabilities

HEAD = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
REQUEST: dict[str, Any] = {"model": "m", "messages": [], "stream": True}
CUT = Cut(
    drop=frozenset({"prompt_token_ids"}),
    items={"choices": Cut(drop=frozenset({"token_ids"}), blank=frozenset({"logprobs"}))},
)

texts = st.text(max_size=6) | st.sampled_from(['"', "\\", "}]}", '"}]},"logprobs":{', "é🎈", "\n"])
numbers = (
    st.floats(allow_nan=False, allow_infinity=False, max_value=0)
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([-0.0, -9999.0, -1e-7])
)
Body = dict[str, Any]


def said(text: str) -> Body:
    return {"content": text}


def choice_of(index: int, delta: Any, text: str, number: Any, ids: list[int]) -> Body:
    entry = {"token": text, "logprob": number, "bytes": list(text.encode()), "top_logprobs": []}
    told = {"index": index, "delta": delta, "logprobs": {"content": [entry] * len(ids)}}
    return {**told, "finish_reason": None}


def build_choice(
    index: int, delta: Any, text: str, number: Any, ids: list[int], more: Body
) -> Body:
    return {**choice_of(index, delta, text, number, ids), **more, "token_ids": ids}


def build_chunk(head: Body, choices: list[Body], rest: Body) -> Body:
    return {**HEAD, **head, "choices": choices, **rest}


def one_of(*items: Body) -> st.SearchStrategy[Body]:
    return st.sampled_from(items)


deltas = texts.map(said) | one_of(
    {}, {"content": None}, {"content": "a", "reasoning_content": "b"}, {"reasoning": "c"}
)
choices = st.builds(
    build_choice,
    index=st.integers(0, 1),
    delta=deltas,
    text=texts,
    number=numbers,
    ids=st.just([7]) | st.lists(st.integers(0, 2**40), max_size=2),
    more=one_of({}, {"stop_reason": None}, {"stop_reason": "x"}, {"matched": {"a": 1}}),
)
chunks = st.builds(
    build_chunk,
    head=one_of({}, {}, {"id": "d"}, {"usage": {"total_tokens": 2}}),
    choices=st.lists(choices, min_size=1, max_size=1) | st.lists(choices, max_size=2),
    rest=one_of({}, {}, {"usage": None}, {"weight_version": 3}),
)
layouts = st.sampled_from([(",", ":"), (",", ":"), (", ", ": ")])


def begin() -> ChatExchange:
    capabilities = UpstreamCapabilities(token_ids=True, logprobs=True)
    upstream = HttpUpstream("http://server/v1", capabilities=capabilities)
    route = ModelRoute(upstream=upstream, model="m")
    return ChatExchange(REQUEST, json.dumps(REQUEST).encode(), route)


@settings(max_examples=150, deadline=None)
@given(stream=st.lists(chunks, min_size=1, max_size=6), layout=layouts, ascii_only=st.booleans())
def test_the_pattern_reads_what_the_parser_reads(
    stream: list[dict[str, Any]], layout: tuple[str, str], ascii_only: bool
) -> None:
    """Client and record get the same, whether a chunk was matched or parsed."""
    data = b"".join(
        b"data: " + json.dumps(chunk, separators=layout, ensure_ascii=ascii_only).encode() + b"\n\n"
        for chunk in stream
    )
    matching, parsing = begin(), begin()
    events = EventSplitter().feed(data)
    shown = [matching.take_event(event) for event in events]
    assert [json.loads(each[6:]) for each in shown] == [
        json.loads(super(ChatExchange, parsing).take_event(event)[6:]) for event in events
    ]
    assert matching.answer() == parsing.answer()
    assert matching.is_complete == parsing.is_complete


def event_of(choice: Body) -> bytes:
    data = json.dumps({**HEAD, "choices": [choice]}, separators=(",", ":"))
    return b"data: " + data.encode() + b"\n\n"


@pytest.mark.parametrize("more", [{}, {"stop_reason": None}])
@pytest.mark.parametrize("text", ["word ", "", '"}]}\\', "é🎈\n"])
def test_a_servers_chunks_are_matched(text: str, more: Body) -> None:
    """The chunks of an answer need no parser, and lose no other byte."""
    event = event_of(build_choice(0, said(text), text, -0.25, [7], more))
    reader = TokenReader()
    assert reader.read(event) is None
    reader.learn(event)
    data = event.removeprefix(b"data: ").removesuffix(b"\n\n")
    assert reader.read(event) == (
        (0, text, -0.25, 7),
        b"data: " + cut_members(data, CUT) + b"\n\n",
    )


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (b'"content":"a"', b'"content":"\\ud83c"'),
        (b'"content":"a"', b'"content":"\\x"'),
        (b'"content":"a"', b'"content":"\xff"'),
        (b'"content":"a"', b'"content":"a\x01"'),
        (b"[7]", b"[07]"),
        (b"-0.25", b"-00.25"),
        (b"-0.25", b"-.25"),
        (b"]}\n", b"]} \n"),
        (b"]}\n\n", b"]}\n\n: more\n\n"),
    ],
)
def test_what_is_not_json_is_not_matched(right: bytes, wrong: bytes) -> None:
    """What a parser would refuse is refused; half characters are read as U+FFFD."""
    event = event_of(build_choice(0, said("a"), "t", -0.25, [7], {}))
    reader = TokenReader()
    reader.learn(event)
    token = reader.read(event.replace(right, wrong))
    if b"ud83c" in wrong:
        assert token is not None and token[0].text == "\ufffd"
    else:
        assert token is None


@pytest.mark.parametrize(
    "head",
    [
        b'data: {"id":"c","error":{"message":"x"},"choices":[',
        b'data: {"id":"c","prompt_token_ids":[1],"choices":[',
        b'data: {"id":"c","x":{"choices":[',
        b'data: {"id":\n"c","choices":[',
        b'event: x\ndata: {"id":"c","choices":[',
        b'data: {"id":"c"',
        b"",
    ],
)
def test_heads_that_say_something_are_parsed(head: bytes) -> None:
    """A chunk is matched only where nothing before its choices has to be read."""
    choice = build_choice(0, said("a"), "t", -0.25, [7], {})
    event = head + json.dumps(choice, separators=(",", ":")).encode() + b"]}\n\n"
    reader = TokenReader()
    reader.learn(event)
    assert reader.read(event) is None

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


@pytest.mark.parametrize("more", [{}, {"stop_reason": None}])
@pytest.mark.parametrize("text", ["word ", "", '"}]}\\', "é🎈\n"])
def test_a_servers_chunks_are_matched(text: str, more: dict[str, Any]) -> None:
    """The chunks of an answer need no parser, and lose no other byte."""
    choice = build_choice(0, said(text), text, -0.25, [7], more)
    data = json.dumps({**HEAD, "choices": [choice]}, separators=(",", ":")).encode()
    reader = TokenReader()
    assert reader.read(data) is None
    reader.learn(data)
    token = reader.read(data)
    assert token is not None
    assert token[:4] == (0, text, 7, -0.25)
    assert token.shortened == cut_members(data, CUT)


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
        (b"]}", b"]} "),
    ],
)
def test_what_is_not_json_is_not_matched(right: bytes, wrong: bytes) -> None:
    """What a parser would refuse is refused; half characters are read as U+FFFD."""
    choice = build_choice(0, said("a"), "t", -0.25, [7], {})
    data = json.dumps({**HEAD, "choices": [choice]}, separators=(",", ":")).encode()
    reader = TokenReader()
    reader.learn(data)
    token = reader.read(data.replace(right, wrong))
    assert token is None or token.text == "\ufffd"
    assert (token is None) == (b"ud83c" not in wrong)


@pytest.mark.parametrize(
    "head",
    [
        b'{"id":"c","error":{"message":"x"},"choices":[',
        b'{"id":"c","prompt_token_ids":[1],"choices":[',
        b'{"id":"c","x":{"choices":[',
        b'{"id":"c"',
        b"",
    ],
)
def test_heads_that_say_something_are_parsed(head: bytes) -> None:
    """A chunk is matched only where nothing before its choices has to be read."""
    choice = build_choice(0, said("a"), "t", -0.25, [7], {})
    data = head + json.dumps(choice, separators=(",", ":")).encode() + b"]}"
    reader = TokenReader()
    reader.learn(data)
    assert reader.read(data) is None

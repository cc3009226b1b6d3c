"""Tool calls in text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.engine.tools import (
    TOOL_FORMATS,
    ParsedText,
    ToolCall,
    ToolFilter,
    detect_format,
)

HERMES, MISTRAL, LLAMA, PLAIN = TOOL_FORMATS
CALL = ToolCall("add", '{"b":1,  "a": "é"}')
BODY = '{"name": "add", "arguments": {"b":1,  "a": "é"}}'

TEXTS = [
    (HERMES, f"Let me see.\n<tool_call>\n{BODY}\n</tool_call>", "Let me see.\n", (CALL,)),
    (HERMES, f"<tool_call>{BODY}</tool_call>\n<tool_call>{BODY}</tool_call>", "", (CALL, CALL)),
    (MISTRAL, f"[TOOL_CALLS] [{BODY}, {BODY}]", "", (CALL, CALL)),
    (LLAMA, BODY.replace("arguments", "parameters"), "", (CALL,)),
    (LLAMA, f"<|python_tag|>{BODY}; {BODY}", "", (CALL, CALL)),
    (PLAIN, f" [{BODY}]", "", (CALL,)),
]


@pytest.mark.parametrize(("tool_format", "text", "content", "calls"), TEXTS)
def test_formats_give_calls_with_the_exact_arguments(
    tool_format, text: str, content: str, calls: tuple[ToolCall, ...]
) -> None:
    """Each format's calls are found, arguments character for character as written."""
    assert tool_format.parse(text) == ParsedText(content, calls)


@pytest.mark.parametrize(
    ("tool_format", "text"),
    [
        (HERMES, "<tool_call>{broken</tool_call>"),
        (HERMES, f"<tool_call>{BODY}"),
        (HERMES, '<tool_call>{"arguments": {}}</tool_call>'),
        (HERMES, "no call"),
        (MISTRAL, "[TOOL_CALLS] maybe"),
        (PLAIN, '{"name": "f", "arguments": 3}'),
        (PLAIN, f"{BODY} and more"),
        (LLAMA, "{}"),
    ],
)
def test_what_does_not_parse_stays_content(tool_format, text: str) -> None:
    """Malformed calls are text, nothing of which is lost."""
    assert tool_format.parse(text) is None
    growing = ToolFilter(tool_format)
    assert growing.push(text) + growing.end().content == text


@given(
    st.sampled_from(TEXTS),
    st.lists(st.integers(1, 9), max_size=30),
    st.text("<tol_ca>é ", max_size=5),
)
def test_filter_shows_no_part_of_a_call(case, cuts: list[int], tail: str) -> None:
    """Cut anyhow, the content shown plus the rest is the parsed content."""
    tool_format, text, _, _ = case
    text += tail
    growing = ToolFilter(tool_format)
    shown, at = "", 0
    for size in [*cuts, len(text)]:
        shown += growing.push(text[at : at + size])
        at += size
    rest = growing.end()
    expected = tool_format.parse(text) or ParsedText(text)
    assert ParsedText(shown + rest.content, rest.calls) == expected


@given(st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=5), max_size=3))
def test_arguments_survive_json(arguments: dict[str, object]) -> None:
    """Whatever object the model writes comes back equal."""
    body = json.dumps({"name": "f", "arguments": arguments})
    parsed = HERMES.parse(f"<tool_call>{body}</tool_call>")
    assert parsed is not None
    assert json.loads(parsed.calls[0].arguments) == arguments


def test_the_template_decides_the_format() -> None:
    """Each family's template names its own marker; a template without tools has no format."""
    assert detect_format("... <tool_call> ...") is HERMES
    assert detect_format("{{ '[TOOL_CALLS]' }}") is MISTRAL
    assert detect_format("<|python_tag|>") is LLAMA
    assert detect_format("{% if tools %}") is PLAIN
    assert detect_format("{{ messages }}") is None
    assert detect_format(None) is None

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

QWEN, GLM, HERMES, ARGS, MISTRAL, LLAMA, PLAIN = TOOL_FORMATS
CALL = ToolCall("add", '{"b":1,  "a": "é"}')
BODY = '{"name": "add", "arguments": {"b":1,  "a": "é"}}'

TEXTS = [
    (HERMES, f"Let me see.\n<tool_call>\n{BODY}\n</tool_call>", "Let me see.\n", (CALL,)),
    (HERMES, f"<tool_call>{BODY}</tool_call>\n<tool_call>{BODY}</tool_call>", "", (CALL, CALL)),
    (MISTRAL, f"[TOOL_CALLS] [{BODY}, {BODY}]", "", (CALL, CALL)),
    (LLAMA, BODY.replace("arguments", "parameters"), "", (CALL,)),
    (LLAMA, f"<|python_tag|>{BODY}; {BODY}", "", (CALL, CALL)),
    (PLAIN, f" [{BODY}]", "", (CALL,)),
    (
        QWEN,
        "Hm.\n\n<tool_call>\n<function=add>\n<parameter=a>\né\n</parameter>\n</function>\n</tool_call>",
        "Hm.\n\n",
        (ToolCall("add", '{"a": "é"}'),),
    ),
    (
        QWEN,
        "<function=f></function>\n<tool_call><function=g><parameter=x>1</parameter></function>",
        "",
        (ToolCall("f", "{}"), ToolCall("g", '{"x": 1}')),
    ),
    (
        GLM,
        "Hm.<tool_call>add\n<arg_key>a</arg_key>\n<arg_value> é</arg_value>\n</tool_call>\n"
        "<tool_call>f</tool_call>",
        "Hm.",
        (ToolCall("add", '{"a": " é"}'), ToolCall("f", "{}")),
    ),
    (
        GLM,
        "<tool_call>f<arg_key>a</arg_key><arg_value>1</arg_value>"
        "<arg_key>b</arg_key><arg_value></arg_value></tool_call> Done",
        " Done",
        (ToolCall("f", '{"a": 1, "b": ""}'),),
    ),
    (ARGS, '[TOOL_CALLS]add[ARGS]{"a":  1}', "", (ToolCall("add", '{"a":  1}'),)),
    (
        ARGS,
        'Hm.[TOOL_CALLS]f[CALL_ID]abc[ARGS]{} [TOOL_CALLS]g[ARGS]{"x": 1}',
        "Hm.",
        (ToolCall("f", "{}"), ToolCall("g", '{"x": 1}')),
    ),
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
        (LLAMA, "[" * 20_000),
        (HERMES, f"<tool_call>{'[' * 20_000}</tool_call>"),
        (QWEN, "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n"),
        (QWEN, "<tool_call>\n<function=add>\n<parameter=a>\n1\n</function>\n</tool_call>"),
        (QWEN, "<function=></function>"),
        (QWEN, f"<tool_call>{BODY}</tool_call>"),
        (GLM, "<tool_call>f<arg_key>a</arg_key></tool_call>"),
        (GLM, "<tool_call>f<arg_key>a</arg_key><arg_value>1</arg_value>"),
        (GLM, "<tool_call>two words</tool_call>"),
        (ARGS, "[TOOL_CALLS]f[ARGS]{"),
        (ARGS, "[TOOL_CALLS]f{}"),
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
    st.text("<tol_ca>é ", max_size=5) | st.sampled_from(["<tool_call>", "<function=", "</tool"]),
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
    assert detect_format("<tool_call>\n<function=example>") is QWEN
    assert detect_format("<tool_call>{name}\n<arg_key>") is GLM
    assert detect_format("[TOOL_CALLS] [ARGS]") is ARGS
    assert detect_format("... <tool_call> ...") is HERMES
    assert detect_format("{{ '[TOOL_CALLS]' }}") is MISTRAL
    assert detect_format("<|python_tag|>") is LLAMA
    assert detect_format("{% if tools %}") is PLAIN
    assert detect_format("{{ messages }}") is None
    assert detect_format(None) is None


BODIES = {
    QWEN: ("<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>", "</function>"),
    GLM: ("\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n</tool_call>", "</tool_call>"),
    HERMES: (' {"a": 1}}\n</tool_call>', "{}}</tool_call>"),
    ARGS: ('{"a": 1}', "{}"),
    MISTRAL: (' {"a": 1}}]', "{}}]"),
    LLAMA: (' {"a": 1}}', "{}}"),
}


@pytest.mark.parametrize("tool_format", BODIES, ids=lambda it: it.name)
def test_an_opening_is_the_beginning_of_a_call(tool_format) -> None:
    """Behind the opening a model only has to go on; without a name it begins with that."""
    full, empty = BODIES[tool_format]
    opening, free = tool_format.opening("add"), tool_format.opening(None)
    assert tool_format.parse(opening + full) == ParsedText("", (ToolCall("add", '{"a": 1}'),))
    assert tool_format.parse(opening + empty) == ParsedText("", (ToolCall("add", "{}"),))
    assert opening.startswith(free)
    assert not opening.endswith(" ")
    assert tool_format.begins(opening) == tool_format.begins(free) == 0
    assert PLAIN.opening("add") is None


WORDS = (
    *(
        "<tool_call>",
        "</tool_call>",
        "<function=f>",
        "</function>",
        "<parameter=x>",
        "</parameter>",
    ),
    *(
        "<arg_key>",
        "</arg_key>",
        "<arg_value>",
        "</arg_value>",
        "[TOOL_CALLS]",
        "[ARGS]",
        "f",
        "{}",
    ),
    *('{"name": "f", "arguments": {"a": 1}}', "\n", " ", "é", "<", "</", "1"),
)


@given(
    st.sampled_from(TOOL_FORMATS),
    st.lists(st.sampled_from(WORDS), max_size=14).map("".join),
    st.lists(st.integers(1, 9), max_size=30),
)
def test_any_text_is_the_same_however_it_is_cut(tool_format, text: str, cuts: list[int]) -> None:
    """Malformed or not: pieces give what the whole gives, and without calls all is content."""
    growing = ToolFilter(tool_format)
    shown, at = "", 0
    for size in [*cuts, len(text)]:
        shown += growing.push(text[at : at + size])
        at += size
    rest = growing.end()
    assert ParsedText(shown + rest.content, rest.calls) == (
        tool_format.parse(text) or ParsedText(text)
    )
    assert all(isinstance(json.loads(call.arguments), dict) for call in rest.calls)

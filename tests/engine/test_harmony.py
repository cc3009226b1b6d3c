"""The messages and channels of gpt-oss."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.engine.harmony import HarmonyFilter, harmony_matches, harmony_opening
from agentlightning.engine.reasoning import Split
from agentlightning.engine.tool_formats.calls import ToolCall

THOUGHT = "<|channel|>analysis<|message|>Hm.<|end|>"
FINAL = "<|start|>assistant<|channel|>final<|message|>Yés"
PREAMBLE = "<|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
CALL = '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a":  1}'
BEFORE = "<|start|>assistant to=functions.g<|channel|>commentary json<|message|>{}<|call|>"


def parted(text: str, *, calls: bool = True, separate: bool = True, cuts: list[int] | None = None):
    """Return reasoning, content and calls of a text that came in pieces."""
    growing = HarmonyFilter(calls=calls, separate=separate)
    said, at = [], 0
    for size in [*(cuts or []), len(text)]:
        said.append(growing.push(text[at : at + size]))
        at += size
    joined = Split.join([*said, growing.end()])
    return joined.reasoning, joined.content, growing.calls


@pytest.mark.parametrize(
    ("text", "reasoning", "content", "calls"),
    [
        (THOUGHT + FINAL, "Hm.", "Yés", []),
        (THOUGHT + FINAL + "<|return|>", "Hm.", "Yés", []),
        ("<|channel|>final<|message|>", None, "", []),
        ("<|channel|>analysis<|message|>Hm", "Hm", "", []),
        ("<|channel|>analysis<|message|>", "", "", []),
        (CALL, None, "", [ToolCall("f", '{"a":  1}')]),
        (f"{THOUGHT}{PREAMBLE}<|start|>assistant{CALL}<|call|>", "Hm.", "I look.", [ToolCall("f", '{"a":  1}')]),
        (THOUGHT + BEFORE + "<|start|>assistant" + CALL, "Hm.", "", [ToolCall("g", "{}"), ToolCall("f", '{"a":  1}')]),
        (CALL[:-1], None, CALL[:-1], []),
        (CALL[:-1] + "<|call|>" + FINAL, None, CALL[:-1] + "<|call|>Yés", []),
        ("plain <|channel|>final<|message|>x", None, "plain <|channel|>final<|message|>x", []),
        ("<|channel|>secret<|message|>x", None, "<|channel|>secret<|message|>x", []),
        ("<|channel|>final", None, "<|channel|>final", []),
        (THOUGHT + "x" + FINAL, "Hm.", "x" + FINAL, []),
        ("<|channel|>" + "a" * 300, None, "<|channel|>" + "a" * 300, []),
    ],
)  # fmt: skip
def test_messages_are_told_apart(
    text: str, reasoning: str | None, content: str, calls: list[ToolCall]
) -> None:
    """Reasoning, content and calls; what is none of the format's is content as written."""
    assert parted(text) == (reasoning, content, calls)


def test_what_is_not_asked_for_stays_content() -> None:
    """Without tools calls, and without parting thoughts, are content, markers and all."""
    text = f"{THOUGHT}<|start|>assistant{CALL}<|call|>"
    assert parted(text, calls=False) == ("Hm.", f"<|start|>assistant{CALL}<|call|>", [])
    assert parted(THOUGHT + FINAL, separate=False) == (None, THOUGHT + "Yés", [])


WORDS = (
    *("<|start|>assistant", "<|channel|>", "analysis", "final", "commentary", " to=functions.f"),
    *("<|message|>", "<|end|>", "<|call|>", "<|constrain|>json", '{"a": 1}', "é", " ", "\n", "<|", "x" * 90),
    *(THOUGHT, FINAL, PREAMBLE, CALL, BEFORE),
)  # fmt: skip


@given(
    st.lists(st.sampled_from(WORDS), max_size=10).map("".join),
    st.lists(st.integers(1, 40), max_size=30),
    st.booleans(),
    st.booleans(),
)
def test_any_text_is_the_same_however_it_is_cut(
    text: str, cuts: list[int], calls: bool, separate: bool
) -> None:
    """Malformed or not, pieces give what the whole gives, and every call has an object."""
    whole = parted(text, calls=calls, separate=separate)
    assert parted(text, calls=calls, separate=separate, cuts=cuts) == whole
    assert parted(text, calls=calls, separate=separate, cuts=[1] * len(text)) == whole
    assert all(isinstance(json.loads(call.arguments), dict) for call in whole[2])


@given(st.text(max_size=20))
def test_text_without_heads_is_content(text: str) -> None:
    """Nothing that a model writes outside the format is lost."""
    assert parted(text, cuts=[1] * len(text)) == (None, text, [])


def test_an_opening_is_the_beginning_of_a_call() -> None:
    """Behind it a model only has to write arguments, or first the name."""
    opening = harmony_opening("f")
    assert parted(opening + "{}") == (None, "", [ToolCall("f", "{}")])
    assert opening.startswith(harmony_opening(None))


def test_the_template_tells_the_format() -> None:
    """Its markers name it."""
    assert harmony_matches("<|start|>assistant<|channel|>final<|message|>")
    assert not harmony_matches("<|message|> <think>")

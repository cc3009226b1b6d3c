"""Reasoning in text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.engine.reasoning import (
    REASONING_FORMATS,
    ReasoningFilter,
    ReasoningFormat,
    Split,
    detect_reasoning,
)
from tests.support.chat_tokenizer import TEMPLATES, ids_of, make_chat_tokenizer

THINK, MISTRAL, *_ = REASONING_FORMATS
FORMATS = st.sampled_from(REASONING_FORMATS)


def split(text: str, *, marked: ReasoningFormat = THINK, is_open: bool = False) -> Split:
    growing = ReasoningFilter(marked, is_open=is_open)
    return Split.join([growing.push(text), growing.end()])


@st.composite
def texts(draw: st.DrawFn, marked: ReasoningFormat) -> list[str]:
    """Return texts with markers, halves of markers and blanks, cut anywhere."""
    halves = [marked.opening[:-1], marked.opening[1:], marked.closing[:3], marked.closing[3:]]
    words = [marked.opening, marked.closing, *halves, *[" ", "\n", "\u2003"], "é", "Yes", "<"]
    text = "".join(draw(st.lists(st.sampled_from(words), max_size=10)))
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def expected(text: str, marked: ReasoningFormat, *, is_open: bool) -> Split:
    """Say the rule once more, as an expression over the whole text."""
    opening, closing = re.escape(marked.opening), re.escape(marked.closing)
    head = "" if is_open else rf"\s{{0,4}}{opening}"
    found = re.fullmatch(rf"{head}(.*?)(?:{closing}(.*))?", text, re.DOTALL)
    return Split(found[1], found[2] or "") if found else Split(None, text)


@given(st.data(), FORMATS, st.booleans())
def test_streamed_is_whole_and_hardly_anything_is_held_back(
    data: st.DataObject, marked: ReasoningFormat, is_open: bool
) -> None:
    """Cut anyhow, the pieces join to the split of the whole; only half a marker may be late."""
    pieces = data.draw(texts(marked))
    growing = ReasoningFilter(marked, is_open=is_open)
    shown: list[Split] = []
    for at, piece in enumerate(pieces, start=1):
        shown.append(growing.push(piece))
        so_far, due = Split.join(shown), expected("".join(pieces[:at]), marked, is_open=is_open)
        late = len((due.reasoning or "") + due.content)
        late -= len((so_far.reasoning or "") + so_far.content)
        assert 0 <= late < 4 + max(len(marked.opening), len(marked.closing))
    text = "".join(pieces)
    whole = expected(text, marked, is_open=is_open)
    assert Split.join([*shown, growing.end()]) == whole
    assert split(text, marked=marked, is_open=is_open) == whole


@given(FORMATS, st.text(max_size=9), st.text(max_size=9), st.booleans())
def test_nothing_is_lost(marked: ReasoningFormat, thought: str, answer: str, is_open: bool) -> None:
    """Reasoning, markers and answer are the text again, blanks included."""
    opening = "" if is_open else marked.opening
    parted = split(f"{opening}{thought}{marked.closing}{answer}", marked=marked, is_open=is_open)
    assert parted == Split(thought, answer)
    assert split(opening + thought, marked=marked, is_open=is_open) == Split(thought, "")


@pytest.mark.parametrize(
    ("text", "reasoning", "content"),
    [
        ("<think>\nso\n</think>\n\nYes", "\nso\n", "\n\nYes"),
        ("\n\n<think>so</think>Yes", "so", "Yes"),
        ("<think></think>Yes", "", "Yes"),
        ("<think>so <tool_call>", "so <tool_call>", ""),
        ("<think>so</thin", "so</thin", ""),
        ("<think>a</think>b<think>c</think>", "a", "b<think>c</think>"),
        ("Yes <think>so</think>", None, "Yes <think>so</think>"),
        ("so</think>Yes", None, "so</think>Yes"),
        ("<thi", None, "<thi"),
        ("     <think>so", None, "     <think>so"),
        ("", None, ""),
    ],
)
def test_thoughts_stand_at_the_beginning(text: str, reasoning: str | None, content: str) -> None:
    """Only an answer that begins with the marker has reasoning; unfinished, it is all of it."""
    assert split(text) == Split(reasoning, content)


def test_the_template_decides_the_format() -> None:
    """Each family's template names its own marker; others have no reasoning."""
    assert detect_reasoning("content.split('</think>')[-1]") is THINK
    assert detect_reasoning("'<|im_start|>assistant\\n<think>'") is THINK
    assert detect_reasoning("'[THINK]' + thought + '[/THINK]'") is MISTRAL
    assert detect_reasoning("{{ messages }}") is None
    assert detect_reasoning(None) is None


@pytest.mark.parametrize(
    ("prompt", "is_open"),
    [
        ("<|im_start|>assistant\n<think>\n", True),
        ("<|im_start|>assistant\n<think>", True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("<|im_start|>user\nWrite <think><|im_end|>\n<|im_start|>assistant\n", False),
    ],
)
def test_the_prompt_tells_whether_the_model_is_thinking(prompt: str, is_open: bool) -> None:
    """A head that opens the reasoning counts, one that closes it and what users write do not."""
    tokenizer = make_chat_tokenizer()
    assert THINK.is_open_after(tokenizer, ids_of(tokenizer, prompt)) == is_open


def test_special_markers_are_known() -> None:
    """Markers that decoding would drop are told from those that are plain tokens."""
    tokenizer = make_chat_tokenizer(TEMPLATES["mistral"])
    assert not THINK.is_special(tokenizer)
    assert not MISTRAL.is_special(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    assert MISTRAL.is_special(tokenizer)

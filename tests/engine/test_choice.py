"""One completion as text."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agentlightning.engine.answer_format import MarkedParser
from agentlightning.engine.choice import ChoiceWriter, Piece
from agentlightning.engine.reasoning import ReasoningFilter, detect_reasoning
from agentlightning.engine.request import TokenEvent
from agentlightning.engine.tools import ToolFilter, detect_format
from tests.support.tiny_model import make_tiny_tokenizer

TOKENIZER = make_tiny_tokenizer()
CALL = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'


THINK = detect_reasoning("</think>")
HERMES = detect_format("<tool_call>")
assert THINK
assert HERMES


def make_writer(
    stop: tuple[str, ...] = (),
    *,
    tools: bool = False,
    thinks: bool = False,
    is_open: bool = False,
    opening: str = "",
) -> ChoiceWriter:
    parser = MarkedParser(
        tools=ToolFilter(HERMES) if tools else None,
        reasoning=ReasoningFilter(THINK, is_open=is_open) if thinks else None,
    )
    return ChoiceWriter(
        TOKENIZER,
        stop=stop,
        end_ids=frozenset({TOKENIZER.eos_token_id}),
        parser=parser,
        opening=opening,
    )


def ids_of(text: str) -> list[int]:
    return [*TOKENIZER(text)["input_ids"], TOKENIZER.eos_token_id]


def write(text: str, stop: tuple[str, ...] = (), **how: Any) -> list[Piece]:
    writer = make_writer(stop, **how)
    pieces: list[Piece] = []
    for index, token in enumerate(ids_of(text)):
        piece = writer.add(0, TokenEvent(token, -float(index), 3))
        if piece:
            pieces.append(piece)
        if writer.stopped:
            break
    return [*pieces, writer.last(0, "stop")]


def test_every_token_is_in_exactly_one_piece() -> None:
    """Held-back tokens travel with the text that follows them, the end token with the last."""
    pieces = write("aé🙂b")
    ids = [token for piece in pieces for token in piece.token_ids]
    assert ids == [*TOKENIZER("aé🙂b")["input_ids"], TOKENIZER.eos_token_id]
    assert [piece.text for piece in pieces] == ["a", "é", "🙂", "b", ""]
    assert [len(piece.token_ids) for piece in pieces] == [1, 2, 4, 1, 1]
    assert [value for piece in pieces for value in piece.logprobs] == [-float(i) for i in range(9)]
    assert {version for piece in pieces for version in piece.versions} == {3}
    assert pieces[-1].finish_reason == "stop"


def test_a_stop_string_keeps_its_tokens_and_hides_its_text() -> None:
    """Tokens of the stop string are told although their text is not shown."""
    pieces = write("abENDcd", stop=("END",))
    assert "".join(piece.text for piece in pieces) == "ab"
    assert sum(len(piece.token_ids) for piece in pieces) == 5


def test_a_stop_string_that_never_completes_is_shown() -> None:
    """A beginning of a stop string at the very end is content."""
    assert "".join(piece.text for piece in write("abEN", stop=("END",))) == "abEN"


def test_calls_come_in_the_last_piece() -> None:
    """A tool call is withheld from the content and ends with `tool_calls`."""
    pieces = write(f"x{CALL}", tools=True)
    assert "".join(piece.text for piece in pieces) == "x"
    assert pieces[-1].calls[0]["function"] == {"name": "f", "arguments": "{}"}
    assert pieces[-1].finish_reason == "tool_calls"
    assert write(f"x{CALL}")[-1].calls == ()


def test_an_opening_is_part_of_the_text_but_none_of_the_tokens() -> None:
    """What the prompt holds of the answer is parsed with it, or is content where that fails."""
    for cut in range(1, len(CALL)):
        pieces = write(CALL[cut:], tools=True, opening=CALL[:cut])
        assert [piece.text for piece in pieces] == [""]
        assert pieces[0].calls[0]["function"] == {"name": "f", "arguments": "{}"}
        assert list(pieces[0].token_ids) == ids_of(CALL[cut:])
    broken = write("no", tools=True, opening=CALL[:20])
    assert "".join(piece.text for piece in broken) == CALL[:20] + "no"
    assert broken[-1].finish_reason == "stop"


def test_reasoning_comes_first_and_apart() -> None:
    """Thoughts are told as they come, calls behind them are found, calls among them are none."""
    pieces = write(f"<think>{CALL}é</think>\n\n{CALL}", tools=True, thinks=True)
    assert "".join(piece.reasoning or "" for piece in pieces) == f"{CALL}é"
    assert "".join(piece.text for piece in pieces) == "\n\n"
    assert [len(piece.calls) for piece in pieces if piece.calls] == [1]
    assert pieces[-1].finish_reason == "tool_calls"
    kinds = [("r" if piece.reasoning else "") + ("c" if piece.text else "") for piece in pieces]
    assert "".join(kinds).rstrip("c").count("c") == 0
    assert kinds.count("r") > 5


def test_an_empty_thought_is_told() -> None:
    """Where thinking began and nothing was thought, the reasoning is empty and not absent."""
    assert [piece.reasoning for piece in write("<think></think>A", thinks=True)] == ["", None]
    assert [piece.reasoning for piece in write("", thinks=True, is_open=True)] == [""]
    assert [piece.reasoning for piece in write("A", thinks=True)] == [None, None]


WORDS = (
    "<think>",
    "</think>",
    "<thi",
    "</",
    "k>",
    CALL,
    CALL[:20],
    "END",
    "EN",
    "é",
    "🙂",
    " ",
    "A",
)


@given(st.lists(st.sampled_from(WORDS), max_size=8), st.booleans(), st.booleans())
def test_streamed_and_whole_say_the_same(words: list[str], is_open: bool, tools: bool) -> None:
    """Token by token or all at once: the same reasoning, content and calls, each token once."""
    text = "".join(words)
    pieces = write(text, ("END",), tools=tools, thinks=True, is_open=is_open)
    ids = [token for piece in pieces for token in piece.token_ids]
    assert ids == ids_of(text)[: len(ids)]
    writer = make_writer(("END",), tools=tools, thinks=True, is_open=is_open)
    writer.push(ids)
    last = writer.last(0, "stop")
    thoughts = [piece.reasoning for piece in pieces if piece.reasoning is not None]
    assert writer.said.reasoning == ("".join(thoughts) if thoughts else None)
    assert writer.said.content == "".join(piece.text for piece in pieces)
    assert [c["function"] for c in last.calls] == [c["function"] for c in pieces[-1].calls]
    assert (last.finish_reason, last.stop) == (pieces[-1].finish_reason, pieces[-1].stop)

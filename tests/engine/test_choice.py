"""One completion as text."""

from agentlightning.engine.choice import ChoiceWriter, Piece
from agentlightning.engine.request import TokenEvent
from agentlightning.engine.tools import detect_format
from tests.support.tiny_model import make_tiny_tokenizer

TOKENIZER = make_tiny_tokenizer()
CALL = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'


def write(text: str, *, stop: tuple[str, ...] = (), tools: bool = False) -> list[Piece]:
    writer = ChoiceWriter(
        TOKENIZER,
        stop=stop,
        end_ids=frozenset({TOKENIZER.eos_token_id}),
        tool_format=detect_format("<tool_call>") if tools else None,
    )
    pieces: list[Piece] = []
    for index, token in enumerate([*TOKENIZER(text)["input_ids"], TOKENIZER.eos_token_id]):
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

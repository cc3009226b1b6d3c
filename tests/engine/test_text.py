"""Text from tokens, piece by piece."""

from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.engine.text import Detokenizer, StopFilter, held_suffix
from tests.support.tiny_model import make_tiny_tokenizer

TOKENIZER = make_tiny_tokenizer()


@settings(max_examples=150, deadline=None)
@given(
    text=st.text(max_size=12),
    noise=st.lists(st.integers(0, 265), max_size=12),
    cuts=st.lists(st.integers(1, 5), max_size=30),
)
def test_pieces_join_to_the_decoded_text(text: str, noise: list[int], cuts: list[int]) -> None:
    """However ids arrive, valid UTF-8 or not, the pieces join to what decoding all gives."""
    ids = [*TOKENIZER(text)["input_ids"], *noise]
    detokenizer = Detokenizer(TOKENIZER)
    pieces: list[str] = []
    at = 0
    for cut in [*cuts, *([1] * len(ids))]:
        pieces.append(detokenizer.push(ids[at : at + cut]))
        at += cut
    pieces.append(detokenizer.end())
    assert "".join(pieces) == TOKENIZER.decode(ids, skip_special_tokens=True)


def test_incomplete_characters_are_held_back() -> None:
    """A character shows once its last byte is there, and never as a replacement before."""
    detokenizer = Detokenizer(TOKENIZER)
    assert [detokenizer.push([i]) for i in TOKENIZER("é🙂")["input_ids"]] == [
        "",
        "é",
        "",
        "",
        "",
        "🙂",
    ]


@settings(max_examples=150, deadline=None)
@given(
    text=st.text("abc", max_size=20),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(1, 4), max_size=20),
)
def test_stop_filter_does_not_depend_on_the_cuts(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    """Cut anyhow, a text ends before the stop string that is complete first."""
    whole = StopFilter(stops)
    one_by_one = "".join(map(whole.push, text)) + whole.end()
    cut = StopFilter(stops)
    at, pieces = 0, []
    for size in [*cuts, len(text)]:
        pieces.append(cut.push(text[at : at + size]))
        at += size
    joined = "".join(pieces) + cut.end()
    assert whole.hit == cut.hit == any(stop in text for stop in stops)
    if not whole.hit:
        assert joined == one_by_one == text
    else:
        assert text.startswith(joined)
        assert not any(stop in joined for stop in stops)


def test_held_suffix_never_holds_a_complete_marker() -> None:
    """Only a proper beginning of the marker at the end of the text is held."""
    assert held_suffix("x<tool", "<tool_call>") == 5
    assert held_suffix("x<tool_call>", "<tool_call>") == 0
    assert held_suffix("", "ab") == 0

"""Server-sent events: bytes in, the same bytes out, in whole events."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from agentlightning.gateway.stream import EventSplitter, ServerEvent

payloads = st.text(st.characters(blacklist_characters="\r\n", codec="utf-8"), max_size=12).map(
    str.encode
)


def split(data: bytes, cuts: list[int]) -> list[ServerEvent]:
    """Feed the bytes in pieces that end at the given places."""
    splitter = EventSplitter()
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    events = [event for start, end in pairwise(places) for event in splitter.feed(data[start:end])]
    return events + splitter.finish()


@given(
    datas=st.lists(payloads, max_size=5),
    end=st.sampled_from([b"\n", b"\r\n"]),
    cuts=st.lists(st.integers(0, 500), max_size=8),
)
def test_events_are_the_same_however_they_arrive(
    datas: list[bytes], end: bytes, cuts: list[int]
) -> None:
    """Where the network cuts the stream changes neither the events nor a byte of them."""
    stream = b"".join(b"data: " + data + 2 * end for data in datas)
    events = split(stream, cuts)
    assert [event.data for event in events] == datas
    assert b"".join(event.raw for event in events) == stream


@given(raw=st.binary(max_size=60), cuts=st.lists(st.integers(0, 500), max_size=6))
def test_no_byte_is_lost(raw: bytes, cuts: list[int]) -> None:
    """Whatever comes is passed on, events or not, save blank space at the very end."""
    joined = b"".join(event.raw for event in split(raw, cuts))
    assert raw.startswith(joined)
    assert not raw[len(joined) :].strip()


def test_comments_and_fields_are_kept() -> None:
    """Comments have no data; other fields stay when the data changes."""
    comment, event = split(b": ping\n\nevent: x\ndata: {1}\nid: 7\n\n", [])
    assert (comment.data, comment.raw) == (None, b": ping\n\n")
    assert event.with_data(b"{2}") == b"event: x\ndata: {2}\nid: 7\n\n"


def test_data_over_several_lines_is_one_text() -> None:
    """Data lines are joined, and become one when they change."""
    (event,) = split(b"data: a\ndata: b\nid: 7\n\n", [])
    assert event.data == b"a\nb"
    assert event.with_data(b"c") == b"id: 7\ndata: c\n\n"


def test_data_that_stands_elsewhere_too_is_changed_once() -> None:
    """A payload that also occurs in another field changes only as data."""
    (event,) = split(b"id: 7\ndata: 7\n\n", [])
    assert event.with_data(b"8") == b"id: 7\ndata: 8\n\n"


def test_a_last_event_without_its_end_counts() -> None:
    """Servers that omit the last blank line lose nothing."""
    (event,) = split(b"data: [DONE]", [3])
    assert event.data == b"[DONE]"

"""Pages of results behave as sequences."""

from hypothesis import given
from hypothesis import strategies as st

from agentlightning.types import PaginatedResult


def page(items: list[int], *, limit: int = -1, offset: int = 0) -> PaginatedResult[int]:
    return PaginatedResult(items=items, limit=limit, offset=offset, total=len(items))


@given(st.lists(st.integers()))
def test_page_is_the_sequence_of_its_items(items: list[int]):
    """Length, order, membership and slices are those of the items."""
    result = page(items)
    assert list(result) == items
    assert len(result) == len(items)
    assert list(reversed(result)) == items[::-1]
    assert list(result[1:]) == items[1:]
    assert all(item in result for item in items)


def test_text_shows_the_window_and_the_first_item():
    """The text is short, whatever the page holds."""
    assert repr(page([])) == "<PaginatedResult empty>"
    assert repr(page([7])) == "<PaginatedResult (0: of 1) [7]>"
    assert repr(page([7, 8], limit=2, offset=4)) == "<PaginatedResult (4:6 of 2) [7, ...]>"


def test_json_is_the_page_and_not_the_list():
    """A page crosses the wire with its window."""
    assert page([1]).model_dump() == {"items": [1], "limit": -1, "offset": 0, "total": 1}

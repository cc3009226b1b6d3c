"""The layout of prefix-tree packing."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.learning.packing import pack_rows
from tests.learning.tiny import row, visible


def test_shared_prefixes_take_one_slot_each():
    """Two answers to one prompt share its slots; last tokens take none."""
    (pack,) = pack_rows([row([1, 2, 3, 4], [2, 3]), row([1, 2, 5, 6], [2, 3])], max_slots=99)
    assert pack.ids.tolist() == [1, 2, 3, 5]
    assert pack.position.tolist() == [0, 1, 2, 2]
    assert pack.parent.tolist() == [-1, 0, 1, 1]
    assert pack.head_slot.tolist() == [1, 2, 1, 3]
    assert pack.head_target.tolist() == [3, 4, 5, 6]
    assert visible(pack).astype(int).tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 1, 0],
        [1, 1, 0, 1],
    ]


def test_equal_answers_are_computed_once_and_counted_twice():
    """Two rollouts with the same answer keep two trained tokens over one pair."""
    (pack,) = pack_rows([row([1, 2], [1]), row([1, 2], [1])], max_slots=99)
    assert len(pack.head_slot) == 1
    assert pack.token_pair.tolist() == [0, 0]
    assert pack.token_row.tolist() == [0, 1]


def test_rows_are_never_cut_and_untrained_rows_left_out():
    """A row beyond the budget is alone in its pass; a row without trained tokens in none."""
    rows = [row(range(1, 9), [7]), row([9, 8], [1]), row([9, 7], [])]
    packs = pack_rows(rows, max_slots=4)
    assert sorted(len(pack.ids) for pack in packs) == [1, 7]
    assert pack_rows([row([1, 2], [])], max_slots=4) == []


lists = st.lists(
    st.tuples(st.lists(st.integers(1, 2), min_size=2, max_size=7), st.sets(st.integers(1, 6))),
    min_size=1,
    max_size=8,
)


@given(lists, st.integers(1, 12), st.booleans())
def test_every_trained_token_is_predicted_from_exactly_its_prefix(rows, max_slots, share):
    """Walking up from a token's slot spells the row's prefix, for every trained token."""
    made = [row(ids, [t for t in trained if t < len(ids)]) for ids, trained in rows]
    packs = pack_rows(made, max_slots=max_slots, share=share)
    assert sum(len(p.rows) for p in packs) == sum(one.mask.any() for one in made)
    for pack in packs:
        assert len(pack.ids) <= max_slots or len(pack.rows) == 1
        k = 0
        for number, one in enumerate(pack.rows):
            for t in np.flatnonzero(one.mask):
                assert pack.token_row[k] == number
                pair = pack.token_pair[k]
                assert pack.head_target[pair] == one.ids[t]
                slot, prefix = pack.head_slot[pair], []
                assert visible(pack)[slot].sum() == t
                while slot >= 0:
                    prefix.append(pack.ids[slot])
                    slot = pack.parent[slot]
                assert prefix[::-1] == one.ids[:t].tolist()
                k += 1
        assert k == len(pack.token_pair)


def test_scatter_undoes_gather():
    """Values of trained tokens come back at their positions, NaN elsewhere."""
    rows = [row([1, 2, 3], [1, 2], adv=2.0), row([1, 3], [1], adv=3.0)]
    (pack,) = pack_rows(rows, max_slots=9)
    streams = pack.scatter(pack.gather("adv"))
    for one, stream in zip(pack.rows, streams, strict=True):
        assert np.array_equal(stream[one.mask], one.adv[one.mask])
        assert np.isnan(stream[~one.mask]).all()

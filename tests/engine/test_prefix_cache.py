"""The cache of prompts seen before."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig

from agentlightning.engine.kv_cache import KVCache, KVShape
from agentlightning.engine.prefix_cache import BLOCK, PrefixCache

CONFIG = LlamaConfig(
    hidden_size=8, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=2
)
SHAPE = KVShape(CONFIG, torch.float32, torch.device("cpu"))
COLUMNS = 8 * BLOCK


def make(blocks: int) -> tuple[PrefixCache, KVCache]:
    cache = KVCache(SHAPE)
    cache.reserve(2, COLUMNS)
    return PrefixCache(SHAPE, max_bytes=blocks * BLOCK * SHAPE.token_bytes), cache


def write(cache: KVCache, ids: list[int]) -> None:
    """Fill row 0 with columns that depend on all ids before, as real keys do."""
    running = torch.tensor([hash(tuple(ids[: i + 1])) % 10_000 for i in range(len(ids))]).float()
    cache.keys[:, 0, :, : len(ids)] = running[:, None]
    cache.values[:, 0, :, : len(ids)] = -running[:, None]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), min_size=1, max_size=12),
    st.integers(0, 9),
)
def test_whatever_is_found_is_right(sequences: list[list[int]], capacity: int) -> None:
    """Under any eviction, loaded columns are those of exactly the matched beginning."""
    prefixes, cache = make(capacity)
    for pattern in sequences:
        ids = [token for bit in pattern for token in [bit] * BLOCK]
        slots = prefixes.match(ids)
        cache.keys[:, 1] = 0
        prefixes.load(slots, cache, 1)
        write(cache, ids)
        length = len(slots) * BLOCK
        assert torch.equal(cache.keys[:, 1, :, :length], cache.keys[:, 0, :, :length])
        assert torch.equal(cache.values[:, 1, :, :length], cache.values[:, 0, :, :length])
        prefixes.store(ids, cache, 0)
        assert len(prefixes) <= capacity * BLOCK
        assert len(prefixes.match(ids)) == min(len(pattern), capacity)


@pytest.mark.parametrize("length", [0, 15, 16, 33])
def test_only_whole_blocks_are_kept(length: int) -> None:
    """The tail that fills no block is computed again."""
    prefixes, cache = make(8)
    ids = list(range(length))
    prefixes.store(ids, cache, 0)
    assert len(prefixes.match(ids)) == length // BLOCK
    assert len(prefixes.match([*ids, 7, 7])) == length // BLOCK


def test_shared_beginnings_are_held_once() -> None:
    """Two prompts with one system prompt share its blocks."""
    prefixes, cache = make(8)
    system = list(range(2 * BLOCK))
    prefixes.store([*system, *[1] * BLOCK], cache, 0)
    prefixes.store([*system, *[2] * BLOCK], cache, 0)
    assert len(prefixes) == 4 * BLOCK


def test_the_least_recently_used_end_goes_first() -> None:
    """Under pressure the oldest sequence loses its end, one just used stays whole."""
    prefixes, cache = make(4)
    old, used = [1] * 2 * BLOCK, [2] * 2 * BLOCK
    prefixes.store(old, cache, 0)
    prefixes.store(used, cache, 0)
    prefixes.match(used)
    prefixes.store([3] * BLOCK, cache, 0)
    assert len(prefixes.match(used)) == 2
    assert len(prefixes.match(old)) == 1


def test_clear_forgets_everything_and_frees_the_room() -> None:
    """After `clear` nothing is found and everything fits again."""
    prefixes, cache = make(2)
    ids = [1] * 2 * BLOCK
    prefixes.store(ids, cache, 0)
    prefixes.clear()
    assert (len(prefixes), prefixes.match(ids)) == (0, [])
    prefixes.store(ids, cache, 0)
    assert len(prefixes.match(ids)) == 2


def test_owners_share_nothing_and_are_forgotten_one_by_one() -> None:
    """Equal tokens of two adapters are two sequences; forgetting one leaves the other."""
    prefixes, cache = make(8)
    ids = [1] * (2 * BLOCK)
    write(cache, ids)
    prefixes.store(ids, cache, 0, "a")
    assert [len(prefixes.match(ids, owner)) for owner in ("a", "b", None)] == [2, 0, 0]
    prefixes.store(ids, cache, 0, "b")
    assert len(prefixes) == 4 * BLOCK
    assert not set(prefixes.match(ids, "a")) & set(prefixes.match(ids, "b"))
    prefixes.forget("a")
    assert [len(prefixes.match(ids, owner)) for owner in ("a", "b")] == [0, 2]
    prefixes.store(ids, cache, 0, "a")
    assert len(prefixes.match(ids, "a")) == 2

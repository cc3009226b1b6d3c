"""The cache of running rows."""

import pytest
import torch
from transformers import LlamaConfig, MistralConfig

from agentlightning.engine.kv_cache import KVCache, KVShape
from agentlightning.errors import ConfigurationError

CONFIG = LlamaConfig(
    hidden_size=32, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=3
)


@pytest.fixture
def cache() -> KVCache:
    return KVCache(KVShape(CONFIG, torch.float32, torch.device("cpu")))


def fill(cache: KVCache, rows: slice, positions: torch.Tensor) -> torch.Tensor:
    """Write keys that say (row, position) and return the mask."""
    mask = cache.aim(rows, positions, int(positions.max()) + 1)
    row = torch.arange(rows.start, rows.stop)[:, None].expand_as(positions)
    values = (100 * row + positions)[:, None, :, None].float()
    states = values.expand(-1, 2, -1, 8).contiguous()
    for layer in range(3):
        cache.update(states, -states, layer)
    return mask


def test_the_cost_of_a_token_is_counted() -> None:
    """Bytes per token are keys and values of all layers and key/value heads."""
    shape = KVShape(CONFIG, torch.bfloat16, torch.device("cpu"))
    assert shape.token_bytes == 2 * 3 * 2 * 8 * 2


def test_ragged_writes_land_at_their_positions(cache: KVCache) -> None:
    """Rows of different lengths are written in place and read back as one window."""
    cache.reserve(3, 5)
    mask = fill(cache, slice(1, 3), torch.tensor([[0, 1], [3, 4]]))
    keys, values = cache.update(torch.zeros(2, 2, 2, 8), torch.zeros(2, 2, 2, 8), 0)
    assert keys.shape == values.shape == (2, 2, 5, 8)
    assert cache.keys[2, 1, 0, :2, 0].tolist() == [100.0, 101.0]
    assert cache.values[2, 2, 1, 3:5, 7].tolist() == [-203.0, -204.0]
    assert (mask[:, 0] == 0).int().tolist() == [
        [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0]],
        [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]],
    ]


def test_growing_keeps_what_is_there_and_clears_the_rest(cache: KVCache) -> None:
    """Room for more rows and columns changes nothing that was written, and holds no garbage."""
    cache.reserve(1, 3)
    fill(cache, slice(0, 1), torch.tensor([[0, 1, 2]]))
    cache.reserve(4, 500)
    assert cache.keys.shape[1] >= 4
    assert cache.keys.shape[3] >= 500
    assert cache.keys[1, 0, 0, :3, 0].tolist() == [0.0, 1.0, 2.0]
    assert cache.keys[:, :, :, 64:].abs().sum() == 0
    assert cache.keys[:, 1:].abs().sum() == 0


def test_rows_are_copied_with_their_length(cache: KVCache) -> None:
    """Copies reach the target rows only as far as asked."""
    cache.reserve(3, 4)
    fill(cache, slice(0, 1), torch.tensor([[0, 1, 2]]))
    cache.copy_row(0, slice(1, 3), 2)
    assert cache.keys[0, 1:3, 0, :3, 0].tolist() == [[0.0, 1.0, 0.0]] * 2


def test_models_with_other_layers_are_refused() -> None:
    """A sliding window needs another cache, so the message points to vLLM."""
    config = MistralConfig(
        hidden_size=32, num_attention_heads=4, num_hidden_layers=2, sliding_window=8
    )
    config.layer_types = ["sliding_attention", "full_attention"]
    with pytest.raises(ConfigurationError, match="vLLM"):
        KVShape(config, torch.float32, torch.device("cpu"))


def test_rows_start_short_again_in_the_same_memory(cache: KVCache) -> None:
    """After a long row, the next ones are laid out for their own length, without new memory."""
    cache.reserve(2, 400)
    fill(cache, slice(0, 1), torch.tensor([[399]]))
    memory = cache.keys.data_ptr()
    cache.restart()
    cache.reserve(2, 40)
    assert cache.keys.shape[3] < 100
    assert cache.keys.data_ptr() == memory
    fill(cache, slice(0, 2), torch.tensor([[0, 1], [38, 39]]))
    assert cache.keys[2, 1, 0, 39, 0] == 139
    assert cache.keys.isfinite().all()


def test_rows_picked_one_by_one_are_read_and_written(cache: KVCache) -> None:
    """Rows of one adapter among others: only theirs are touched, in the order they were picked."""
    cache.reserve(4, 3)
    fill(cache, slice(0, 4), torch.tensor([[0, 1, 2]] * 4))
    cache.aim(torch.tensor([3, 1]), torch.tensor([[1], [2]]), 3)
    states = torch.tensor([7.0, 8.0])[:, None, None, None].expand(2, 2, 1, 8).contiguous()
    keys, _ = cache.update(states, states, 0)
    assert keys[:, 0, :3, 0].tolist() == [[300, 7, 302], [100, 101, 8]]
    assert cache.keys[0, 0, 0, :3, 0].tolist() == [0, 1, 2]

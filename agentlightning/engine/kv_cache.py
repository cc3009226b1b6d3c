"""The keys and values of running rows: preallocated, written in place, read without copying.

Rows lie side by side at the front, each with its own length; which request a row belongs to is
the sampler's business. Shapes: L layer, R row, H key/value head, T column, D head width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache, PretrainedConfig

from agentlightning.errors import ConfigurationError

__all__ = ["KVCache", "KVShape", "TokenBatch"]

_COLUMN_STEP = 64


class KVShape:
    """What one token costs in a model's cache."""

    def __init__(self, config: PretrainedConfig, dtype: torch.dtype, device: torch.device) -> None:
        """Read the shape from a decoder's configuration.

        Raises:
            ConfigurationError: The model has layers other than full attention.
        """
        text: Any = config.get_text_config(decoder=True)
        kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"}:
            raise ConfigurationError(
                f"the embedded engine runs models with full attention only, not {sorted(kinds)}; "
                "serve this model with vLLM instead",
            )
        self.layers: int = text.num_hidden_layers
        self.heads: int = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self.width: int = width
        self.dtype = dtype
        self.device = device

    @property
    def token_bytes(self) -> int:
        """Return the bytes that one token's keys and values take."""
        return 2 * self.layers * self.heads * self.width * self.dtype.itemsize

    def empty(self, *lead: int, columns: int) -> torch.Tensor:
        """Return uninitialised memory of shape [*lead, H, columns, D]."""
        shape = (*lead, self.heads, columns, self.width)
        return torch.empty(shape, dtype=self.dtype, device=self.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatch:
    """New tokens of some rows. B row, S new token, K kept."""

    rows: slice
    """Of the cache, B of them."""
    ids: torch.Tensor
    """int64[B, S]."""
    positions: torch.Tensor
    """Column of every new token, int64[B, S]; each row's are consecutive."""
    columns: int
    """The last of these columns and one more. It is known where the positions are made; asking a
    GPU for it would wait for all work under way."""
    keep: torch.Tensor
    """Indices of new tokens whose logits are wanted, int64[K]."""
    adapters: Sequence[str | None]
    """Adapter of each row; None is the base."""


class KVCache(Cache):
    """A cache for `model(past_key_values=...)` that holds ragged rows.

    Before each forward call `aim` says which rows and columns it is for. Not thread-safe.
    """

    def __init__(self, shape: KVShape) -> None:
        super().__init__(layers=[])
        self.shape = shape
        self.keys = shape.empty(shape.layers, 0, columns=0)
        self.values = shape.empty(shape.layers, 0, columns=0)
        self._spare_keys: torch.Tensor | None = None
        self._spare_values: torch.Tensor | None = None
        self._rows: slice | torch.Tensor = slice(0, 0)
        self._columns = 0
        self._slots = torch.empty(0, dtype=torch.long)

    def reserve(self, rows: int, columns: int) -> None:
        """Make room for at least so many rows and columns, keeping what is there.

        Growth is geometric, so the copying amounts to a constant per token; in small steps, so
        that little of a row lies idle. On a CPU memory that was never written costs nothing.
        """
        have_rows, have_columns = self.keys.shape[1], self.keys.shape[3]
        if rows <= have_rows and columns <= have_columns:
            return
        if rows > have_rows:
            rows = max(rows, min(2 * have_rows, have_rows + 32))
        rows = max(rows, have_rows)
        if columns > have_columns:
            columns += columns // 4
        columns = -(-max(columns, have_columns) // _COLUMN_STEP) * _COLUMN_STEP
        self.keys = self._moved(self.keys, self._spare_keys, rows, columns)
        self.values = self._moved(self.values, self._spare_values, rows, columns)
        self._spare_keys = self._spare_values = None

    def restart(self) -> None:
        """Forget all rows, so that the next ones are only as long as they need; keeps memory."""
        if self.keys.shape[3]:
            self._spare_keys, self._spare_values = self.keys.flatten(), self.values.flatten()
            self.keys, self.values = self.keys[:, :0, :, :0], self.values[:, :0, :, :0]

    def _moved(
        self, old: torch.Tensor, spare: torch.Tensor | None, rows: int, columns: int
    ) -> torch.Tensor:
        """Return memory for so many rows and columns with what `old` holds."""
        shape = (self.shape.layers, rows, self.shape.heads, columns, self.shape.width)
        if spare is not None and spare.numel() >= math.prod(shape):
            return spare[: math.prod(shape)].view(shape)
        _, have_rows, _, have_columns, _ = old.shape
        new = self.shape.empty(self.shape.layers, rows, columns=columns)
        # Zeros, since a masked NaN among left-over bytes would still spoil a weighted sum.
        new[:, :have_rows, :, have_columns:].zero_()
        new[:, have_rows:].zero_()
        new[:, :have_rows, :, :have_columns] = old
        return new

    def aim(
        self, rows: slice | torch.Tensor, positions: torch.Tensor, columns: int
    ) -> torch.Tensor:
        """Direct the next forward call at some rows and give its attention mask.

        Args:
            rows: Rows of the batch. A slice is read in place; rows picked one by one, int64[B],
                are copied for each layer.
            positions: Column of every new token, int64[B, S]; each row's are consecutive.
            columns: The last of these columns and one more.

        Returns:
            The additive mask, [B, 1, S, T]: a token sees its row up to itself. T is `columns`, or
            the cache's capacity.
        """
        heads, capacity = self.keys.shape[2], self.keys.shape[3]
        self._rows = rows
        # Perf: see `attention`; a whole row is read rather than a part of it if they differ little.
        whole = positions.shape[1] == 1 and capacity <= columns + columns // 4 + _COLUMN_STEP
        self._columns = capacity if whole else columns
        row = (
            torch.arange(rows.start, rows.stop, device=positions.device)
            if isinstance(rows, slice)
            else rows
        )
        head = torch.arange(heads, device=positions.device)
        lane = (row[:, None] * heads + head) * capacity
        self._slots = (lane[:, :, None] + positions[:, None, :]).flatten()
        column = torch.arange(self._columns, device=positions.device)
        hidden = column > positions[:, :, None]
        mask = torch.zeros(hidden.shape, dtype=self.shape.dtype, device=positions.device)
        return mask.masked_fill_(hidden, torch.finfo(mask.dtype).min).unsqueeze(1)

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a layer's new keys and values; return views of all that the rows hold."""
        width = self.shape.width
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        keys.view(-1, width).index_copy_(0, self._slots, key_states.reshape(-1, width))
        values.view(-1, width).index_copy_(0, self._slots, value_states.reshape(-1, width))
        return keys[self._rows, :, : self._columns], values[self._rows, :, : self._columns]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._columns

    def copy_row(self, source: int, targets: slice, length: int) -> None:
        """Copy the first `length` columns of a row to other rows."""
        for tensor in (self.keys, self.values):
            tensor[:, targets, :, :length] = tensor[:, source : source + 1, :, :length]

"""Keys and values of prompts seen before, so that a follow-up prefills only what is new.

Token sequences are cut into blocks of 16; a block is found by its tokens and the block before it,
hence equal beginnings are held once, for each set of weights (`owner`) that computed them. Nothing
here knows of weight versions: whoever changes the weights calls `clear` or `forget`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from agentlightning.engine.kv_cache import KVCache, KVShape

__all__ = ["BLOCK", "PrefixCache"]

BLOCK = 16
"""Tokens per block; the tail of a sequence that fills no block is not kept."""

_Key = tuple[int, bytes]


class PrefixCache:
    """A bounded pool of blocks, the least recently used evicted first. Not thread-safe."""

    def __init__(self, shape: KVShape, *, max_bytes: int) -> None:
        self._shape = shape
        self._capacity = max_bytes // (shape.token_bytes * BLOCK)
        self._pool = shape.empty(0, 2, shape.layers, columns=BLOCK)
        # From (slot of the block before, own tokens) to slot, least recently used first. A
        # block is never older than those that follow it, so the oldest one ends its sequence.
        self._slots: OrderedDict[_Key, int] = OrderedDict()
        self._free: list[int] = []
        self._roots: dict[str | None, int] = {}
        """What stands for the block before an owner's first ones; below 0, never used twice."""
        self._next_root = -1

    def __len__(self) -> int:
        """Return the number of tokens held."""
        return len(self._slots) * BLOCK

    def match(self, ids: Sequence[int], owner: str | None = None) -> list[int]:
        """Return the slots of the longest beginning of `ids` that is held for `owner`."""
        path = self._walk(_blocks(ids), self._root(owner))
        self._touch(path)
        return [self._slots[key] for key in path]

    def load(self, slots: Sequence[int], cache: KVCache, row: int) -> None:
        """Write the blocks in `slots` to the front of a row of `cache`."""
        if not slots:
            return
        blocks = self._pool[torch.tensor(slots, device=self._pool.device)]
        # [N, 2, L, H, BLOCK, D] -> [2, L, H, N * BLOCK, D]
        joined = blocks.permute(1, 2, 3, 0, 4, 5).flatten(3, 4)
        length = len(slots) * BLOCK
        cache.keys[:, row, :, :length] = joined[0]
        cache.values[:, row, :, :length] = joined[1]

    def store(self, ids: Sequence[int], cache: KVCache, row: int, owner: str | None = None) -> None:
        """Keep the blocks of `ids` that `owner` has not yet; their columns are those of `row`."""
        made: list[tuple[int, int]] = []
        path: list[_Key] = []
        parent = self._root(owner)
        for index, tokens in enumerate(_blocks(ids)):
            key = (parent, tokens)
            slot = self._slots.get(key)
            if slot is None:
                slot = self._take(path)
                if slot is None:
                    break
                self._slots[key] = slot
                made.append((index, slot))
            path.append(key)
            parent = slot
        self._touch(path)
        self._write(made, cache, row)

    def clear(self) -> None:
        """Forget everything, as after a change of the weights."""
        self._slots.clear()
        self._free = list(range(len(self._pool)))

    def forget(self, owner: str | None) -> None:
        """Find nothing of `owner` any more; its blocks are evicted in time."""
        self._roots.pop(owner, None)

    def _root(self, owner: str | None) -> int:
        if owner not in self._roots:
            self._roots[owner] = self._next_root
            self._next_root -= 1
        return self._roots[owner]

    def _write(self, made: list[tuple[int, int]], cache: KVCache, row: int) -> None:
        if not made:
            return
        # New blocks are consecutive: once a block is missing, so is all that follows it.
        start, stop = made[0][0] * BLOCK, (made[-1][0] + 1) * BLOCK
        slots = torch.tensor([slot for _, slot in made], device=self._pool.device)
        for side, tensor in enumerate((cache.keys, cache.values)):
            part = tensor[:, row, :, start:stop].unflatten(2, (-1, BLOCK))
            self._pool[slots, side] = part.permute(2, 0, 1, 3, 4)

    def _walk(self, blocks: list[bytes], parent: int) -> list[_Key]:
        path: list[_Key] = []
        for tokens in blocks:
            slot = self._slots.get((parent, tokens))
            if slot is None:
                break
            path.append((parent, tokens))
            parent = slot
        return path

    def _touch(self, path: list[_Key]) -> None:
        for key in reversed(path):
            self._slots.move_to_end(key)

    def _take(self, path: list[_Key]) -> int | None:
        """Return a free slot, evicting if need be; None if only `path` itself could go."""
        if not self._free and len(self._pool) < self._capacity:
            self._grow()
        if self._free:
            return self._free.pop()
        self._touch(path)
        oldest = next(iter(self._slots), None)
        if oldest is None or oldest in path:
            return None
        return self._slots.pop(oldest)

    def _grow(self) -> None:
        have = len(self._pool)
        size = min(self._capacity, max(64, 2 * have))
        pool = self._shape.empty(size, 2, self._shape.layers, columns=BLOCK)
        pool[:have] = self._pool
        self._pool = pool
        self._free.extend(range(have, size))


def _blocks(ids: Sequence[int]) -> list[bytes]:
    flat = np.asarray(ids[: len(ids) // BLOCK * BLOCK], dtype=np.int32)
    return [block.tobytes() for block in flat.reshape(-1, BLOCK)]

"""Prefix-tree packing: token prefixes that rows share are computed once.

The rows of a group repeat their prompt, and groups repeat a system prompt. Laid out as a trie,
each distinct prefix takes one slot of the forward pass; a slot attends to its ancestors, and its
position is its depth, so hidden states are those of the row computed alone. What is trained
twice from different rows (equal answers) is computed once and counted twice.

Layout only, in numpy: ids, positions and an attention mask go to the model; which hidden state
predicts which token comes back out. Tokens that no trained token depends on take no slot: what
follows a row's last trained token, and that token itself, whose log-probability needs only its
parent's hidden state.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agentlightning.learning.rows import TrainRow

__all__ = ["PackedBatch", "pack_rows"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBatch:
    """One forward pass over `N` slots, giving the log-probabilities of `M` (slot, token) pairs.

    The trained tokens of the rows, row after row, are indexed `_K`; `K >= M`.
    """

    ids: Ints
    """Token id of each slot, `[N]`; parents come before children."""

    position: Ints
    """Depth of each slot, `[N]`: its index in any row through it."""

    parent: Ints
    """Slot of the preceding token, `[N]`; -1 at the start of a row."""

    head_slot: Ints
    """Slots whose hidden state predicts a trained token, `[M]`."""

    head_target: Ints
    """The token predicted, `[M]`."""

    token_pair: Ints
    """Pair of each trained token, `[K]`."""

    token_row: Ints
    """Row number of each trained token, `[K]`, counted within this batch."""

    rows: tuple[TrainRow, ...]

    def gather(self, stream: str) -> NDArray[np.float32]:
        """Collect a stream of the rows at their trained tokens, `[K]`."""
        return np.concatenate([getattr(row, stream)[row.mask] for row in self.rows])

    def scatter(self, values_K: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Spread values of the trained tokens over streams as long as the rows, NaN elsewhere."""
        streams = [np.full(len(row.ids), np.nan, dtype=np.float32) for row in self.rows]
        ends = np.cumsum([row.n_trained for row in self.rows])
        for row, stream, part in zip(
            self.rows, streams, np.split(values_K, ends[:-1]), strict=True
        ):
            stream[row.mask] = part
        return streams


class _Trie:
    """Slots of one forward pass, filled row by row."""

    def __init__(self) -> None:
        self.children: dict[tuple[int, int], int] = {}
        self.ids: list[int] = []
        self.position: list[int] = []
        self.parent: list[int] = []
        self.pairs: dict[tuple[int, int], int] = {}
        self.token_pair: list[int] = []
        self.token_row: list[int] = []

    def missing(self, row: TrainRow) -> int:
        """Count the slots that `row` would add."""
        ids = row.ids[: _needed(row)].tolist()
        slot = -1
        for depth, token in enumerate(ids):
            following = self.children.get((slot, token))
            if following is None:
                return len(ids) - depth
            slot = following
        return 0

    def add(self, row: TrainRow, number: int) -> None:
        """Insert a row and note where its trained tokens are predicted."""
        path: list[int] = []
        slot = -1
        for depth, token in enumerate(row.ids[: _needed(row)].tolist()):
            following = self.children.get((slot, token))
            if following is None:
                following = len(self.ids)
                self.children[slot, token] = following
                self.ids.append(token)
                self.position.append(depth)
                self.parent.append(slot)
            slot = following
            path.append(slot)
        for t in np.flatnonzero(row.mask).tolist():
            pair = (path[t - 1], int(row.ids[t]))
            self.token_pair.append(self.pairs.setdefault(pair, len(self.pairs)))
            self.token_row.append(number)


def _needed(row: TrainRow) -> int:
    """Number of leading tokens whose hidden states matter: up to before the last trained one."""
    trained = np.flatnonzero(row.mask)
    return int(trained[-1]) if len(trained) else 0


def pack_rows(rows: Sequence[TrainRow], *, max_slots: int, share: bool = True) -> list[PackedBatch]:
    """Pack rows into as few forward passes as a greedy pass in order of their ids finds.

    A row is never cut: one that is longer than `max_slots` gets a pass of its own. Rows without
    trained tokens are left out.

    Args:
        rows: The rows of a step, in any order.
        max_slots: Budget of one forward pass, in slots.
        share: Whether equal prefixes share slots. Without it each row has slots of its own,
            which is only useful to check that sharing changes nothing.
    """
    # Why: sorted by ids, rows with a long common prefix are neighbours.
    ordered = sorted((row for row in rows if row.mask.any()), key=lambda row: row.ids.tolist())
    packs: list[PackedBatch] = []
    trie, members = _Trie(), list[TrainRow]()
    for row in ordered:
        if members and len(trie.ids) + trie.missing(row) > max_slots:
            packs.append(_seal(trie, members))
            trie, members = _Trie(), []
        trie.add(row, len(members))
        members.append(row)
        if not share:
            trie.children.clear()
    if members:
        packs.append(_seal(trie, members))
    return packs


def _seal(trie: _Trie, rows: list[TrainRow]) -> PackedBatch:
    def ints(values: list[int]) -> Ints:
        return np.array(values, dtype=np.int64)

    return PackedBatch(
        ids=ints(trie.ids),
        position=ints(trie.position),
        parent=ints(trie.parent),
        head_slot=ints([slot for slot, _ in trie.pairs]),
        head_target=ints([target for _, target in trie.pairs]),
        token_pair=ints(trie.token_pair),
        token_row=ints(trie.token_row),
        rows=tuple(rows),
    )

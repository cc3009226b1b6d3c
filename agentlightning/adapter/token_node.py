"""Nodes of the token tree: runs of ids, and finding one's way among them.

Nothing here knows about rows; `token_tree` builds the tree and lays rows out.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agentlightning.adapter.token_row import MaskCause
from agentlightning.types.call import CallChoice, CallRecord

__all__ = ["CHUNK", "Ids", "Node", "Sample", "common_length", "walk"]

Ids = NDArray[np.int32]

CHUNK = 4096
"""Tokens compared at once: long enough for numpy, short enough to stop soon after a difference."""


@dataclass(slots=True, eq=False)
class Sample:
    """One answer: the ids and streams of one choice."""

    call: CallRecord
    choice: CallChoice
    ids: Ids
    masked: MaskCause | None
    order: int
    row: int | None = None
    """Number of the leaf whose row holds it whole."""

    @property
    def has_logp(self) -> bool:
        """Whether each token has a log-probability."""
        return len(self.choice.logprobs) == len(self.ids)

    def logp(self) -> NDArray[np.float32]:
        """Return the log-probabilities; NaN where there are none."""
        if not self.has_logp:
            return np.full(len(self.ids), np.nan, dtype=np.float32)
        return np.array(self.choice.logprobs, dtype=np.float32)

    def versions(self) -> Ids:
        """Return the version of the weights of each token; -1 where unknown."""
        versions = np.full(len(self.ids), -1, dtype=np.int32)
        for run in self.choice.versions:
            versions[run.start : run.start + run.length] = run.version
        return versions


@dataclass(slots=True, eq=False)
class Node:
    """A run of tokens, all context or all of one sample (from `offset` on)."""

    ids: Ids
    call: CallRecord | None = None
    """The call that brought the tokens first."""
    parent: "Node | None" = None
    sample: Sample | None = None
    offset: int = 0
    children: dict[int, list["Node"]] = field(default_factory=dict[int, list["Node"]])
    raw: bytes = b""
    """The bytes of `ids`."""

    def __post_init__(self) -> None:
        """Keep the bytes of the ids."""
        self.raw = self.ids.tobytes()

    def add(self, child: "Node") -> "Node":
        """Put a node below this one and return it."""
        child.parent = self
        self.children.setdefault(int(child.ids[0]), []).append(child)
        return child

    def split(self, at: int) -> "Node":
        """Cut this node in two and return the upper part; this object stays the lower one."""
        upper = Node(self.ids[:at], self.call, self.parent, self.sample, self.offset)
        assert self.parent is not None
        siblings = self.parent.children[int(self.ids[0])]
        siblings[siblings.index(self)] = upper
        self.ids, self.offset = self.ids[at:], self.offset + at
        self.raw = self.ids.tobytes()
        upper.add(self)
        return upper

    def remove(self) -> None:
        """Take this node out of its parent."""
        assert self.parent is not None
        siblings = self.parent.children[int(self.ids[0])]
        siblings.remove(self)
        if not siblings:
            del self.parent.children[int(self.ids[0])]

    def heads(self) -> Iterator["Node"]:
        """Yield the nodes directly below."""
        for family in self.children.values():
            yield from family

    @property
    def only_child(self) -> "Node | None":
        """The child, where there is exactly one."""
        children = list(self.heads())
        return children[0] if len(children) == 1 else None

    @property
    def ends_sample(self) -> bool:
        """Whether the last token of an answer is the last one here."""
        return self.sample is not None and self.offset + len(self.ids) == len(self.sample.ids)

    def path(self) -> list["Node"]:
        """Return the nodes from below the root to this one."""
        nodes: list[Node] = []
        node = self
        while node.parent is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]


def common_length(left: Ids, right: Ids) -> int:
    """Return the length of the common prefix."""
    size = min(len(left), len(right))
    for start in range(0, size, CHUNK):
        stop = min(start + CHUNK, size)
        differs = left[start:stop] != right[start:stop]
        if differs.any():
            return start + int(differs.argmax())
    return size


def walk(start: Node, ids: Ids, *, context_only: bool = False) -> tuple[Node, int, int]:
    """Find the deepest match of `ids` below `start`.

    Samples with equal beginnings are siblings, so more than one child may have to be tried; among
    equal matches the first inserted wins.

    Returns:
        The last node matched, the tokens matched within it, and the tokens of `ids` matched.
    """
    raw = ids.tobytes()
    best = (start, len(start.ids), 0)
    queue = [(start, 0)]
    for node, done in queue:
        if done == len(ids):
            continue
        for child in node.children.get(int(ids[done]), ()):
            if context_only and child.sample is not None:
                continue
            # Perf: comparing bytes takes 0.2 us a node; numpy takes 2 us.
            whole = raw.startswith(child.raw, done * ids.itemsize)
            matched = len(child.ids) if whole else common_length(child.ids, ids[done:])
            if whole:
                queue.append((child, done + matched))
            if done + matched > best[2]:
                best = (child, matched, done + matched)
    return best

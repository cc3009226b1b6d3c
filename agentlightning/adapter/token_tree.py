"""The token tree: the calls of one attempt in, rows of tokens out, each sampled token trained once.

Every call's prompt and answer is inserted into a radix tree whose edges are runs of token ids. A
prompt that repeats an earlier prompt and answer exactly lands on the same nodes, so turns merge
into one row in any order and with any number of interleaved agents. Identity is by token ids
alone; messages and text play no part. Numpy only.

Samples never merge with one another: two answers with the same ids are two samples. A sample
merges with context of the same ids (a later prompt that was seen first).
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agentlightning.adapter.token_row import ForkCause, MaskCause, RowSpan, TokenRow, TreeReport
from agentlightning.errors import TrainingError
from agentlightning.types.call import CallChoice, CallRecord

__all__ = ["TreeOptions", "build_token_rows"]

Ids = NDArray[np.int32]
Decode = Callable[[Sequence[int]], str]

CHUNK = 4096
"""Tokens compared at once: long enough for numpy, short enough to stop soon after a difference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeOptions:
    """Choices of the row builder."""

    max_tokens: int | None = None
    """Longest row. A row ends after the last answer that fits; prompts are never cut."""

    roles: str | None = None
    """Regular expression searched in the call's role; calls that do not match are context."""

    mask_truncated: bool = False
    """Do not train answers that hit their length limit."""

    realign_tokens: int = 0
    """Where a prompt departs from the path only within its last answer, and by fewer tokens than
    this, demote that answer to context and go on in the same row instead of forking."""


@dataclass(slots=True, eq=False)
class _Sample:
    """One answer: the ids and streams of one choice."""

    call: CallRecord
    choice: CallChoice
    ids: Ids
    masked: MaskCause | None
    order: int
    row: int | None = None
    """Number of the leaf whose row holds it whole."""

    def logp(self) -> NDArray[np.float32]:
        if not self.has_logp:
            return np.full(len(self.ids), np.nan, dtype=np.float32)
        return np.array(self.choice.logprobs, dtype=np.float32)

    @property
    def has_logp(self) -> bool:
        return len(self.choice.logprobs) == len(self.ids)

    def versions(self) -> Ids:
        versions = np.full(len(self.ids), -1, dtype=np.int32)
        for run in self.choice.versions:
            versions[run.start : run.start + run.length] = run.version
        return versions


@dataclass(slots=True, eq=False)
class _Node:
    """A run of tokens, all context or all of one sample (from `offset` on)."""

    ids: Ids
    parent: "_Node | None" = None
    sample: _Sample | None = None
    offset: int = 0
    children: dict[int, list["_Node"]] = field(default_factory=dict[int, list["_Node"]])

    def add(self, child: "_Node") -> "_Node":
        child.parent = self
        self.children.setdefault(int(child.ids[0]), []).append(child)
        return child

    def split(self, at: int) -> "_Node":
        """Cut this node in two and return the upper part; this object stays the lower one."""
        upper = _Node(self.ids[:at], self.parent, self.sample, self.offset)
        assert self.parent is not None
        siblings = self.parent.children[int(self.ids[0])]
        siblings[siblings.index(self)] = upper
        self.ids, self.offset = self.ids[at:], self.offset + at
        upper.add(self)
        return upper

    def remove(self) -> None:
        """Take this node out of its parent."""
        assert self.parent is not None
        siblings = self.parent.children[int(self.ids[0])]
        siblings.remove(self)
        if not siblings:
            del self.parent.children[int(self.ids[0])]

    @property
    def only_child(self) -> "_Node | None":
        """The child, where there is exactly one."""
        children = [child for family in self.children.values() for child in family]
        return children[0] if len(children) == 1 else None

    @property
    def ends_sample(self) -> bool:
        return self.sample is not None and self.offset + len(self.ids) == len(self.sample.ids)

    def path(self) -> list["_Node"]:
        """Nodes from below the root to this one."""
        nodes: list[_Node] = []
        node = self
        while node.parent is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]


def _common(left: Ids, right: Ids) -> int:
    """Length of the common prefix."""
    size = min(len(left), len(right))
    for start in range(0, size, CHUNK):
        stop = min(start + CHUNK, size)
        differs = left[start:stop] != right[start:stop]
        if differs.any():
            return start + int(differs.argmax())
    return size


class _Tree:
    """The tree of one attempt, under construction."""

    def __init__(self, options: TreeOptions, decode: Decode | None, report: TreeReport) -> None:
        self.root = _Node(np.empty(0, dtype=np.int32))
        self.options, self.decode, self.report = options, decode, report

    def insert_prompt(self, ids: Ids) -> _Node:
        """Insert a prompt and return the node it ends in."""
        node, matched, done = _walk(self.root, ids)
        inside = matched < len(node.ids)
        if done == len(ids):
            return node.split(matched) if inside else node
        if inside or node.children:
            lost = self._lost_answer(node, matched)
            if lost is None:
                self.report.forks[ForkCause.CONTEXT] += 1
            else:
                node = self._drift(node, matched, ids, done, lost)
        inside = matched < len(node.ids)
        node = node.split(matched) if inside else node
        return node.add(_Node(ids[done:]))

    @staticmethod
    def _lost_answer(node: _Node, matched: int) -> _Node | None:
        """Return the node of the answer that a prompt departs from, if it departs from one."""
        if matched < len(node.ids):
            return node if node.sample else None
        heads = (child for family in node.children.values() for child in family)
        return next((child for child in heads if child.sample), None)

    def _drift(self, node: _Node, matched: int, ids: Ids, done: int, lost: _Node) -> _Node:
        """Account for a history that departs from a sampled answer, or realign it."""
        sample, inside = lost.sample, lost is node
        assert sample is not None
        kept = lost.offset + matched if inside else 0
        n_lost = len(sample.ids) - kept
        self.report.drift_tokens += n_lost
        last = lost.ends_sample and not lost.children and (inside or node.only_child is lost)
        if not (last and n_lost < self.options.realign_tokens):
            self.report.forks[self._drift_cause(sample, ids[done - kept :])] += 1
            return node
        sample.masked = sample.masked or MaskCause.REALIGNED
        if inside:
            node = node.split(matched)
        lost.remove()
        return node

    def _drift_cause(self, sample: _Sample, shown: Ids) -> ForkCause:
        """Compare the answer's text with what the later prompt shows in its place."""
        if self.decode is None:
            return ForkCause.DRIFT
        answer = self.decode(sample.ids.tolist())
        # Why: as text the same answer may take more tokens, at most one a byte.
        reach = 4 * len(sample.ids) + len(answer.encode())
        same = self.decode(shown[:reach].tolist()).startswith(answer)
        return ForkCause.RETOKEN if same else ForkCause.TEMPLATE

    def insert_sample(self, end: _Node, sample: _Sample) -> None:
        """Insert an answer below the node its prompt ends in."""
        node, matched, done = _walk(end, sample.ids, context_only=True)
        if done < len(sample.ids):
            if end.children:
                self.report.forks[ForkCause.SAMPLE] += 1
            end.add(_Node(sample.ids, sample=sample))
            return
        node = node.split(matched) if matched < len(node.ids) else node
        while node is not end:
            done -= len(node.ids)
            node.sample, node.offset = sample, done
            assert node.parent is not None
            node = node.parent

    def leaves(self) -> list[_Node]:
        """Return the ends of all paths, in the order in which their last answers came."""
        found: list[_Node] = []
        open_nodes = [self.root]
        while open_nodes:
            node = open_nodes.pop()
            children = [child for family in node.children.values() for child in family]
            open_nodes.extend(children)
            if not children and node.parent is not None:
                found.append(node)
        return sorted(found, key=_last_answer)


def _last_answer(leaf: _Node) -> int:
    return max((node.sample.order for node in leaf.path() if node.sample), default=-1)


def _walk(start: _Node, ids: Ids, *, context_only: bool = False) -> tuple[_Node, int, int]:
    """Find the deepest match of `ids` below `start`.

    Samples with equal beginnings are siblings, so more than one child may have to be tried; among
    equal matches the first inserted wins.

    Returns:
        The last node matched, the tokens matched within it, and the tokens of `ids` matched.
    """
    best = (start, len(start.ids), 0)
    queue = [(start, 0)]
    for node, done in queue:
        if done == len(ids):
            continue
        for child in node.children.get(int(ids[done]), ()):
            if context_only and child.sample is not None:
                continue
            matched = _common(child.ids, ids[done:])
            if matched == len(child.ids):
                queue.append((child, done + matched))
            if done + matched > best[2]:
                best = (child, matched, done + matched)
    return best


def build_token_rows(
    calls: Sequence[CallRecord],
    options: TreeOptions | None = None,
    *,
    decode: Decode | None = None,
) -> tuple[list[TokenRow], TreeReport]:
    """Turn the calls of one attempt into rows that train each sampled token exactly once.

    Pure: the same calls in any order of the list give the same rows. Time grows with the number
    of tokens in all prompts and answers.

    Args:
        calls: The attempt's calls, of every role, failed ones included.
        options: Limits and choices.
        decode: Ids to text, special tokens kept; only used to tell apart causes of forks.

    Returns:
        Rows in the order in which their last answers came, and an account of the merge. Rows
        without anything to train are left out.

    Raises:
        TrainingError: A sampled token would be trained twice or lost; a fault of this module.
    """
    options = options or TreeOptions()
    report = TreeReport(calls=len(calls))
    tree = _Tree(options, decode, report)
    samples: list[_Sample] = []
    for call in sorted(calls, key=lambda call: (call.end_time, call.start_time, call.call_id)):
        fresh = _samples_of(call, options, first=len(samples))
        if not fresh:
            report.calls_without_tokens += 1
            continue
        end = tree.insert_prompt(np.array(call.prompt_token_ids, dtype=np.int32))
        for sample in fresh:
            tree.insert_sample(end, sample)
        samples += fresh
    paths = [leaf.path() for leaf in tree.leaves()]
    for number, path in enumerate(paths):
        _claim(path, number, options.max_tokens)
    rows = [row for number, path in enumerate(paths) if (row := _row(path, number)) is not None]
    _account(report, samples, rows)
    return rows, report


def _samples_of(call: CallRecord, options: TreeOptions, *, first: int) -> list[_Sample]:
    if not call.prompt_token_ids:
        return []
    selected = options.roles is None or re.search(options.roles, call.role or "") is not None

    def masked(choice: CallChoice) -> MaskCause | None:
        if not call.trained or not selected:
            return MaskCause.ROLE
        if call.outcome != "ok":
            return MaskCause.FAILED
        if options.mask_truncated and choice.finish_reason == "length":
            return MaskCause.TRUNCATED
        return None

    choices = [choice for choice in call.choices if choice.token_ids]
    return [
        _Sample(call, c, np.array(c.token_ids, dtype=np.int32), masked(c), first + i)
        for i, c in enumerate(choices)
    ]


def _claim(path: list[_Node], number: int, max_tokens: int | None) -> None:
    """Give each answer to the first row that holds it whole, unless it ends past the limit."""
    stop = 0
    for node in path:
        stop += len(node.ids)
        sample = node.sample
        if sample is None or not node.ends_sample or sample.row is not None:
            continue
        sample.row = number
        if max_tokens is not None and stop > max_tokens:
            sample.masked = sample.masked or MaskCause.OVERLONG


def _spans(path: list[_Node], number: int) -> Iterator[RowSpan]:
    """Yield the spans of a path; the pieces of a split answer are joined."""
    stop = 0
    for node, after in zip(path, [*path[1:], None], strict=True):
        stop += len(node.ids)
        sample = node.sample
        if sample is None or (after is not None and after.sample is sample):
            continue
        yield RowSpan(
            start=stop - node.offset - len(node.ids),
            stop=stop,
            call_id=sample.call.call_id,
            choice=sample.choice.index,
            role=sample.call.role or "",
            trained=sample.row == number and sample.masked is None,
        )


def _row(path: list[_Node], number: int) -> TokenRow | None:
    """Lay out one path up to the last token it trains, or None when it trains none."""
    spans = list(_spans(path, number))
    size = max((span.stop for span in spans if span.trained), default=0)
    if size == 0:
        return None
    ids = np.concatenate([node.ids for node in path])[:size]
    mask = np.zeros(size, dtype=np.bool_)
    logp = np.zeros(size, dtype=np.float32)
    versions = np.full(size, -1, dtype=np.int32)
    for span in spans:
        mask[span.start : span.stop] = span.trained
    stop = 0
    for node in path:
        start, stop = stop, stop + len(node.ids)
        if node.sample is None or start >= size:
            continue
        piece = slice(node.offset, node.offset + min(stop, size) - start)
        logp[start:stop] = node.sample.logp()[piece]
        versions[start:stop] = node.sample.versions()[piece]
    kept = tuple(span for span in spans if span.stop <= size)
    return TokenRow(ids=ids, mask=mask, logp=logp, versions=versions, spans=kept)


def _account(report: TreeReport, samples: list[_Sample], rows: list[TokenRow]) -> None:
    """Fill in the totals and check that each token is trained once."""
    report.rows = len(rows)
    report.row_tokens = sum(len(row.ids) for row in rows)
    report.trained_tokens = sum(int(row.mask.sum()) for row in rows)
    report.samples = len(samples)
    for sample in samples:
        size = len(sample.ids)
        report.sampled_tokens += size
        report.call_tokens += size + len(sample.call.prompt_token_ids)
        report.samples_without_logprobs += not sample.has_logp
        if sample.masked is not None:
            report.masked_tokens[sample.masked] += size
    expected = report.sampled_tokens - report.masked_tokens.total()
    if report.trained_tokens != expected:
        raise TrainingError(
            f"{report.trained_tokens} tokens would be trained where {expected} were sampled for "
            "it: a fault of the row builder; report it with the attempt's calls"
        )

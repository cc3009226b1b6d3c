"""The token tree: the calls of one attempt in, rows of tokens out, each sampled token trained once.

Every call's prompt and answer is inserted into a radix tree whose edges are runs of token ids. A
prompt that repeats an earlier prompt and answer exactly lands on the same nodes, so turns merge
into one row in any order and with any number of interleaved agents. Identity is by token ids
alone; messages and text play no part. Numpy only.

Samples never merge with one another: two answers with the same ids are two samples. A sample
merges with context of the same ids (a later prompt that was seen first).
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from agentlightning.adapter.drift import drift_cause, has_other_tools
from agentlightning.adapter.prompt_ids import PromptReader
from agentlightning.adapter.token_node import Ids, Node, Sample, walk
from agentlightning.adapter.token_row import (
    Departure,
    ForkCause,
    MaskCause,
    RowSpan,
    TokenRow,
    TreeReport,
)
from agentlightning.errors import TrainingError
from agentlightning.types.call import CallChoice, CallRecord

__all__ = ["Decode", "TreeOptions", "build_token_rows"]

Decode = Callable[[Sequence[int]], str]
"""Ids to text, special tokens kept."""

_MOST_DEPARTURES = 20
"""Departures of one attempt that a report describes; all are counted."""

_SHOWN_TOKENS = 16
"""Tokens of each side that a departure shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeOptions:
    """Choices of the row builder."""

    max_tokens: int | None = None
    """Longest row. A row ends after the last answer that fits; prompts are never cut."""

    roles: str | None = None
    """Regular expression searched in the call's role, or in the name it calls the model by where
    it has no role; calls that do not match are context."""

    mask_truncated: bool = False
    """Do not train answers that hit their length limit."""

    realign_tokens: int = 0
    """Where a prompt departs from the path only within its last answer, and by fewer tokens than
    this, demote that answer to context and go on in the same row instead of forking."""

    image_tokens: frozenset[int] = frozenset()
    """Ids that stand for a part of an image. Prompts that show different images are then different
    though their ids are the same, and rows name the images in them."""


class _Tree:
    """The tree of one attempt, under construction."""

    def __init__(
        self,
        options: TreeOptions,
        reader: PromptReader,
        decode: Decode | None,
        report: TreeReport,
    ) -> None:
        self.root = Node(np.empty(0, dtype=np.int32))
        self.options, self.reader, self.report = options, reader, report
        self.decode = decode

    def insert_prompt(self, call: CallRecord) -> Node:
        """Insert a call's prompt and return the node it ends in."""
        ids = self.reader.read(call)
        node, matched, done = walk(self.root, ids)
        inside = matched < len(node.ids)
        if done == len(ids):
            return node.split(matched) if inside else node
        if inside or node.children:
            lost = self._lost_answer(node, matched)
            if lost is None:
                self._leave_context(node, matched, call, ids, done)
            else:
                node = self._drift(node, matched, call, ids, done, lost)
        inside = matched < len(node.ids)
        node = node.split(matched) if inside else node
        return node.add(Node(ids[done:], call))

    @staticmethod
    def _lost_answer(node: Node, matched: int) -> Node | None:
        """Return the node of the answer that a prompt departs from, if it departs from one."""
        if matched < len(node.ids):
            return node if node.sample else None
        return next((child for child in node.heads() if child.sample), None)

    def _leave_context(
        self, node: Node, matched: int, call: CallRecord, ids: Ids, done: int
    ) -> None:
        """Account for prompts that differ in tokens that nobody sampled."""
        inside = matched < len(node.ids)
        other = node if inside else next(node.heads())
        changed = other.call is not None and has_other_tools(other.call, call)
        expected = other.ids[matched:] if inside else other.ids
        cause = ForkCause.TOOLS if changed else ForkCause.CONTEXT
        self._depart(call, cause, done, expected, ids)

    def _drift(
        self, node: Node, matched: int, call: CallRecord, ids: Ids, done: int, lost: Node
    ) -> Node:
        """Account for a history that departs from a sampled answer, or realign it."""
        sample, inside = lost.sample, lost is node
        assert sample is not None
        kept = lost.offset + matched if inside else 0
        n_lost = len(sample.ids) - kept
        self.report.drift_tokens += n_lost
        last = lost.ends_sample and not lost.children and (inside or node.only_child is lost)
        if not (last and n_lost < self.options.realign_tokens):
            cause = self._drift_cause(sample, call, ids[done - kept :])
            self._depart(call, cause, done, sample.ids[kept:], ids, sample)
            return node
        sample.masked = sample.masked or MaskCause.REALIGNED
        if inside:
            node = node.split(matched)
        lost.remove()
        return node

    def _drift_cause(self, sample: Sample, call: CallRecord, shown: Ids) -> ForkCause:
        """Compare the answer's text with what the later prompt shows in its place."""
        if self.decode is None:
            return ForkCause.DRIFT
        answer = self.decode(sample.ids.tolist())
        # Why: the same text may take a token a byte, and JSON six bytes for one, if escaped.
        reach = 8 * (len(sample.ids) + len(answer.encode()))
        text = self.decode(self.reader.restore(shown[:reach]).tolist())
        return drift_cause(answer, text, choice=sample.choice, call=call)

    def _depart(
        self,
        call: CallRecord,
        cause: ForkCause,
        position: int,
        expected: Ids,
        ids: Ids,
        answer: Sample | None = None,
    ) -> None:
        """Count a departure and describe it, if it is among the first."""
        self.report.forks[cause] += 1
        if len(self.report.departures) >= _MOST_DEPARTURES:
            return
        shown = expected[:_SHOWN_TOKENS], ids[position : position + _SHOWN_TOKENS]
        before, after = (tuple(self.reader.restore(part).tolist()) for part in shown)
        self.report.departures.append(
            Departure(
                call_id=call.call_id,
                position=position,
                cause=cause,
                expected=before,
                got=after,
                answer_of=answer.call.call_id if answer else None,
                lost=len(expected) if answer else 0,
            )
        )

    def insert_sample(self, end: Node, sample: Sample) -> None:
        """Insert an answer below the node its prompt ends in."""
        node, matched, done = walk(end, sample.ids, context_only=True)
        if done < len(sample.ids):
            if end.children:
                self.report.forks[ForkCause.SAMPLE] += 1
            end.add(Node(sample.ids, sample.call, sample=sample))
            return
        node = node.split(matched) if matched < len(node.ids) else node
        while node is not end:
            done -= len(node.ids)
            node.sample, node.offset = sample, done
            assert node.parent is not None
            node = node.parent

    def leaves(self) -> list[Node]:
        """Return the ends of all paths, in the order in which their last answers came."""
        found: list[Node] = []
        open_nodes = [self.root]
        while open_nodes:
            node = open_nodes.pop()
            open_nodes.extend(node.heads())
            if not node.children and node.parent is not None:
                found.append(node)
        return sorted(found, key=_last_answer)


def _last_answer(leaf: Node) -> int:
    return max((node.sample.order for node in leaf.path() if node.sample), default=-1)


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
    reader = PromptReader(options.image_tokens)
    tree = _Tree(options, reader, decode, report)
    samples: list[Sample] = []
    ordered = sorted(calls, key=lambda call: (call.end_time, call.start_time, call.call_id))
    for call in (part for whole in ordered for part in whole.by_prompt()):
        fresh = _samples_of(call, options, first=len(samples))
        if not fresh:
            report.calls_without_tokens += 1
            continue
        end = tree.insert_prompt(call)
        for sample in fresh:
            tree.insert_sample(end, sample)
            reader.remember(call, sample.ids)
        samples += fresh
    paths = [leaf.path() for leaf in tree.leaves()]
    for number, path in enumerate(paths):
        _claim(path, number, options.max_tokens)
    laid_out = (_row(path, number, reader) for number, path in enumerate(paths))
    rows = [row for row in laid_out if row is not None]
    report.calls_with_unknown_images = reader.unknown_images
    _account(report, samples, rows)
    return rows, report


def _samples_of(call: CallRecord, options: TreeOptions, *, first: int) -> list[Sample]:
    if not call.prompt_token_ids:
        return []
    name = call.role or call.model
    selected = options.roles is None or re.search(options.roles, name) is not None

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
        Sample(call, c, np.array(c.token_ids, dtype=np.int32), masked(c), first + i)
        for i, c in enumerate(choices)
    ]


def _claim(path: list[Node], number: int, max_tokens: int | None) -> None:
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


def _spans(path: list[Node], number: int) -> Iterator[RowSpan]:
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


def _row(path: list[Node], number: int, reader: PromptReader) -> TokenRow | None:
    """Lay out one path up to the last token it trains, or None when it trains none."""
    spans = list(_spans(path, number))
    size = max((span.stop for span in spans if span.trained), default=0)
    if size == 0:
        return None
    keys = np.concatenate([node.ids for node in path])[:size]
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
    return TokenRow(
        ids=reader.restore(keys),
        mask=mask,
        logp=logp,
        versions=versions,
        spans=kept,
        images=reader.images(keys) if reader.finds_images else (),
    )


def _account(report: TreeReport, samples: list[Sample], rows: list[TokenRow]) -> None:
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
    trained = Counter(
        (span.call_id, span.choice) for row in rows for span in row.spans if span.trained
    )
    wanted = {(s.call.call_id, s.choice.index): len(s.ids) for s in samples if s.masked is None}
    # Calls may share an id only if somebody recorded one twice, and then this must not pass.
    n_wanted = report.sampled_tokens - report.masked_tokens.total()
    if trained != dict.fromkeys(wanted, 1) or report.trained_tokens != n_wanted:
        twice = sorted(key for key, count in trained.items() if count > 1)
        raise TrainingError(
            f"{report.trained_tokens} tokens would be trained where {n_wanted} were sampled for "
            f"it, answers {twice[:3]} twice: a call was recorded twice, or the row builder is at "
            "fault; report it with the attempt's calls"
        )

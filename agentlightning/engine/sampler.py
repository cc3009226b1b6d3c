"""Continuous batching: many completions share each forward call, joining and leaving between.

Equal prompts are prefilled once, and beginnings seen before come from the prefix cache. One
thread drives a sampler; waiting, futures and event loops are the engine's business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from agentlightning.engine.adapters import BASE, DEFAULT_ADAPTER, adapter_names
from agentlightning.engine.decoder import open_decoder
from agentlightning.engine.kv_cache import KVCache, KVShape, TokenBatch
from agentlightning.engine.prefix_cache import BLOCK, PrefixCache
from agentlightning.engine.request import FinishReason, Request, TokenEvent
from agentlightning.engine.sampling import Draw, draw_tokens, uniforms

__all__ = ["Sampler", "SamplerCounters"]

_GATHER_STEPS = 4
"""Most steps that a request waits for others to be prefilled with."""


@dataclass(slots=True)
class SamplerCounters:
    """Running totals since the sampler was made."""

    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    """Prompt tokens that needed no forward call."""
    sampled_tokens: int = 0
    steps: int = 0
    """Forward calls, prefills included."""


@dataclass(slots=True, eq=False)
class _Group:
    """Requests with one prompt and one adapter, prefilled as one row."""

    members: list[Request]
    slots: list[int]
    """Prefix-cache blocks to start from."""

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return self.members[0].prompt_ids

    @property
    def adapter(self) -> str | None:
        return self.members[0].adapter

    @property
    def missing(self) -> int:
        """Prompt tokens that must be computed."""
        return len(self.prompt_ids) - len(self.slots) * BLOCK


class Sampler:
    """Samples from a decoder that takes `past_key_values`; not thread-safe.

    A step prefills at most one batch of new prompts and then decodes one token for every running
    row, so running completions wait for a prefill no longer than `prefill_tokens` take.
    """

    def __init__(
        self,
        model: Any,
        *,
        max_running: int,
        max_kv_bytes: int,
        max_prefix_bytes: int,
        prefill_tokens: int,
    ) -> None:
        """Prepare for `model`; no memory for keys and values is taken yet.

        Args:
            model: A causal language model, with or without LoRA adapters in it.
            max_running: Most rows in one batch.
            max_kv_bytes: Bound on the keys and values of running rows, if each used all the
                tokens it may sample. A single request is always let in.
            max_prefix_bytes: Bound on the prefix cache; 0 turns it off.
            prefill_tokens: Most prompt tokens, padding included, in one forward call.
        """
        weight = next(model.parameters())
        shape = KVShape(model.config, _activation_dtype(model), weight.device)
        self.counters = SamplerCounters()
        self.version = 0
        self._model = model
        self._decoder = open_decoder(model)
        self.adapters = adapter_names(model)
        """Names that requests may ask for; read again at each new version."""
        self._device: torch.device = weight.device
        self._cache = KVCache(shape)
        self._prefixes = PrefixCache(shape, max_bytes=max_prefix_bytes)
        self._max_running = max_running
        self._max_cells = max_kv_bytes // shape.token_bytes
        self._prefill_tokens = prefill_tokens
        self._waiting: deque[Request] = deque()
        self._waited_steps = 0
        self._joining: list[_Group] = []
        """Groups being prefilled: neither waiting nor rows yet."""
        self._rows: list[Request] = []
        self._lengths: list[int] = []
        """Columns in use per row; the row's last sampled token is not among them yet."""
        self._fresh: list[bool] = []
        """Whether all of a row's columns stem from the current weights of its adapter."""

    @property
    def running(self) -> int:
        """Return the number of rows being decoded."""
        return len(self._rows)

    @property
    def waiting(self) -> int:
        """Return the number of requests not yet prefilled."""
        return len(self._waiting)

    @property
    def cached_tokens(self) -> int:
        """Return how many tokens the prefix cache holds."""
        return len(self._prefixes)

    def add(self, request: Request) -> None:
        """Queue a request; first come, first served."""
        if request.adapter is None and DEFAULT_ADAPTER in self.adapters:
            request.adapter = DEFAULT_ADAPTER
        elif request.adapter == BASE:
            request.adapter = None
        self._waiting.append(request)

    def set_version(self, version: int, *, adapters: Collection[str] | None = None) -> None:
        """Say that weights changed: cached prefixes are dropped, running rows go on.

        Args:
            version: What tokens are sampled with from now on.
            adapters: Those that changed, if nothing else did; other prefixes stay.
        """
        self.version = version
        self._decoder = open_decoder(self._model)
        self.adapters = adapter_names(self._model)
        if adapters is None:
            self._prefixes.clear()
            self._fresh = [False] * len(self._rows)
            return
        for name in adapters:
            self._prefixes.forget(name)
        for row, request in enumerate(self._rows):
            self._fresh[row] = self._fresh[row] and request.adapter not in adapters

    def drain(self) -> list[Request]:
        """Forget every request, running and waiting, and return those still wanted."""
        joining = [request for group in self._joining for request in group.members]
        requests = [*self._rows, *joining, *self._waiting]
        self._rows, self._lengths, self._fresh, self._joining = [], [], [], []
        self._waiting.clear()
        return [request for request in requests if not request.cancelled]

    # Why: not inference_mode, whose tensors a module may keep (some rotary embeddings do) and the
    # trainer's backward pass then refuses.
    @torch.no_grad()
    def step(self, *, admit: bool = True) -> bool:
        """Do one round of work; returns whether more is left to do.

        Args:
            admit: Whether waiting requests may join.
        """
        self._drop_cancelled()
        if self._model.training:
            self._model.eval()
        groups = self._next_groups() if admit and self._admission_is_due() else []
        if groups:
            self._prefill(groups)
        if self._rows:
            self._decode()
        return bool(self._rows or (admit and self._waiting))

    # -- admission ------------------------------------------------------------------------------

    def _admission_is_due(self) -> bool:
        """Return whether the waiting requests should join now rather than a few steps later.

        Perf: on a CPU a prefill of a few tokens costs as much as decoding one token for every
        row, so requests that come in one by one are gathered for up to `_GATHER_STEPS` steps.
        """
        if not self._waiting:
            self._waited_steps = 0
            return False
        gathered = len(self._waiting) * _GATHER_STEPS >= len(self._rows)
        if gathered or self._waited_steps >= _GATHER_STEPS:
            self._waited_steps = 0
            return True
        self._waited_steps += 1
        return False

    def _drop_cancelled(self) -> None:
        if any(request.cancelled for request in self._waiting):
            self._waiting = deque(r for r in self._waiting if not r.cancelled)
        for row in range(len(self._rows) - 1, -1, -1):
            if self._rows[row].cancelled:
                self._remove(row)

    def _next_groups(self) -> list[_Group]:
        """Take the waiting requests that fit into the next prefill, grouped by prompt."""
        groups: dict[tuple[str | None, tuple[int, ...]], _Group] = {}
        rows, longest, widest = len(self._rows), self._longest(), 0
        while self._waiting and rows < self._max_running:
            request = self._waiting[0]
            longest = max(longest, len(request.prompt_ids) + request.max_tokens)
            if rows and (rows + 1) * longest > self._max_cells:
                break
            key = (request.adapter, request.prompt_ids)
            group = groups.get(key)
            if group is None:
                slots = self._prefixes.match(request.prompt_ids[:-1], request.adapter)
                group = _Group([], slots)
                missing = len(request.prompt_ids) - len(slots) * BLOCK
                widest = max(widest, missing)
                if groups and (len(groups) + 1) * widest > self._prefill_tokens:
                    break
                groups[key] = group
            group.members.append(self._waiting.popleft())
            rows += 1
        return list(groups.values())

    def _longest(self) -> int:
        return max((len(r.prompt_ids) + r.max_tokens for r in self._rows), default=0)

    # -- forward calls --------------------------------------------------------------------------

    def _prefill(self, groups: list[_Group]) -> None:
        """Compute the prompts of `groups` in adjacent rows, then sample each one's first token."""
        self._joining = groups
        first = len(self._rows)
        if not first:
            # Else one long completion would make the rows of all later ones as long.
            self._cache.restart()
        total = first + sum(len(group.members) for group in groups)
        columns = max(len(group.prompt_ids) for group in groups) + 1
        self._cache.reserve(total, columns)
        for offset, group in enumerate(groups):
            self._prefixes.load(group.slots, self._cache, first + offset)
        logits = self._prompt_logits(groups, slice(first, first + len(groups)))
        for offset, group in enumerate(groups):
            self._prefixes.store(group.prompt_ids, self._cache, first + offset, group.adapter)
            self._count_prompt(group)
        self._spread(groups, first)
        # Followers lie behind all leaders, so the logits are laid out in the same order.
        leaders = np.arange(len(groups))
        followers = leaders.repeat([len(group.members) - 1 for group in groups])
        self._sample(logits[_send(np.concatenate((leaders, followers)), self._device)], first)

    def _prompt_logits(self, groups: list[_Group], rows: slice) -> torch.Tensor:
        """Return the logits after each group's prompt, [G, V], in chunks of bounded size."""
        starts = [len(group.slots) * BLOCK for group in groups]
        width = max(group.missing for group in groups)
        chunk = max(1, self._prefill_tokens // len(groups))
        logits: list[torch.Tensor | None] = [None] * len(groups)
        for begin in range(0, width, chunk):
            size = min(chunk, width - begin)
            ids = np.zeros((len(groups), size), dtype=np.int64)
            positions = np.zeros((len(groups), size), dtype=np.int64)
            ends: list[int] = []
            for index, group in enumerate(groups):
                part = group.prompt_ids[starts[index] + begin : starts[index] + begin + size]
                ids[index, : len(part)] = part
                # A row that has ended writes the rest behind its prompt, where the next token
                # overwrites the first column and the mask hides the others.
                positions[index] = starts[index] + begin + np.arange(size)
                ends.append(group.missing - begin - 1)
            self._cache.reserve(rows.stop, int(positions.max()) + 1)
            wanted = sorted({end for end in ends if 0 <= end < size})
            adapters = [group.adapter for group in groups]
            out = self._forward(rows, ids, positions, adapters, keep=wanted or [size - 1])
            for index, end in enumerate(ends):
                if 0 <= end < size:
                    logits[index] = out[index, wanted.index(end)]
        return torch.stack([row for row in logits if row is not None])

    def _spread(self, groups: list[_Group], first: int) -> None:
        """Make rows of all members: leaders in order, then the followers with copied columns."""
        follower = first + len(groups)
        followers: list[Request] = []
        for offset, group in enumerate(groups):
            extra = group.members[1:]
            if extra:
                targets = slice(follower, follower + len(extra))
                self._cache.copy_row(first + offset, targets, len(group.prompt_ids))
                follower += len(extra)
                followers.extend(extra)
        joined = [group.members[0] for group in groups] + followers
        self._joining = []
        self._rows.extend(joined)
        self._lengths.extend(len(request.prompt_ids) for request in joined)
        self._fresh.extend([True] * len(joined))

    def _decode(self) -> None:
        """Sample one more token for every row."""
        self._cache.reserve(len(self._rows), max(self._lengths) + 1)
        ids = np.array([[request.token_ids[-1]] for request in self._rows], dtype=np.int64)
        positions = np.array(self._lengths, dtype=np.int64)[:, None]
        adapters = [request.adapter for request in self._rows]
        logits = self._forward(slice(0, len(self._rows)), ids, positions, adapters, keep=[0])
        self._lengths = [length + 1 for length in self._lengths]
        self._sample(logits[:, 0], 0)

    def _forward(
        self,
        rows: slice,
        ids: np.ndarray,
        positions: np.ndarray,
        adapters: list[str | None],
        *,
        keep: list[int],
    ) -> torch.Tensor:
        """Run the model on new tokens of some rows; logits are computed only at `keep`."""
        sent = _send(np.stack((ids, positions)), self._device)
        batch = TokenBatch(
            rows=rows,
            ids=sent[0],
            positions=sent[1],
            columns=int(positions.max()) + 1,
            keep=_send(np.array(keep), self._device),
            adapters=adapters,
        )
        self.counters.steps += 1
        return self._decoder.forward(self._cache, batch)

    # -- tokens ---------------------------------------------------------------------------------

    def _sample(self, logits: torch.Tensor, first: int) -> None:
        """Draw a token for each row from `first` on, and let finished rows go."""
        requests = self._rows[first:]
        draw = draw_tokens(
            logits,
            [request.params for request in requests],
            uniforms(
                np.array([request.seed for request in requests], dtype=np.uint64),
                np.array([len(request.token_ids) for request in requests], dtype=np.uint64),
            ),
        )
        self.counters.sampled_tokens += len(requests)
        reasons: list[FinishReason | None] = [
            self._take(request, draw, index) for index, request in enumerate(requests)
        ]
        for index in range(len(requests) - 1, -1, -1):
            reason = reasons[index]
            if reason is not None:
                self._finish(first + index, reason)

    def _take(self, request: Request, draw: Draw, index: int) -> FinishReason | None:
        """Append a token to a request; returns why it is finished, if it is."""
        token, logprob = draw.tokens[index], draw.logprobs[index]
        request.token_ids.append(token)
        request.logprobs.append(logprob)
        request.versions.append(self.version)
        top = _top(draw, index, request.params.top_logprobs)
        if request.params.top_logprobs:
            request.top.append(top)
        reason: FinishReason | None = None
        if token in request.stop_ids:
            reason = "stop"
        elif len(request.token_ids) >= request.max_tokens:
            reason = "length"
        if request.on_token is None:
            return reason
        try:
            stop = request.on_token(TokenEvent(token, logprob, self.version, top, reason))
        except Exception as error:  # noqa: BLE001 - boundary: the caller's code; it gets its error back
            request.cancelled = True
            request.on_error(error)
            return None
        return "stop" if stop else reason

    def _finish(self, row: int, reason: FinishReason) -> None:
        request = self._rows[row]
        if self._fresh[row]:
            # The last sampled token was never fed to the model, so it has no column.
            known = [*request.prompt_ids, *request.token_ids][: self._lengths[row]]
            self._prefixes.store(known, self._cache, row, request.adapter)
        self._remove(row)
        request.finish(reason)

    def _remove(self, row: int) -> None:
        """Close the gap that a row leaves, by moving the last row into it."""
        last = len(self._rows) - 1
        if row != last:
            self._cache.copy_row(last, slice(row, row + 1), self._lengths[last])
        for values in (self._rows, self._lengths, self._fresh):
            _swap_remove(values, row)

    def _count_prompt(self, group: _Group) -> None:
        length, cached = len(group.prompt_ids), len(group.slots) * BLOCK
        for index, request in enumerate(group.members):
            request.cached_prompt_tokens = length - 1 if index else cached
            self.counters.prompt_tokens += length
            self.counters.cached_prompt_tokens += length if index else cached


def _send(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy small integers to a device without waiting for what runs there."""
    tensor = torch.from_numpy(values)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _swap_remove(values: list[Any], index: int) -> None:
    values[index] = values[-1]
    values.pop()


def _top(draw: Draw, index: int, count: int) -> tuple[tuple[int, float], ...]:
    if not count:
        return ()
    ids, values = draw.top_tokens[index][:count], draw.top_logprobs[index][:count]
    return tuple(zip(ids, values, strict=True))


def _activation_dtype(model: Any) -> torch.dtype:
    """Return the number format of keys and values: that of the frozen base, not of adapters."""
    return model.get_input_embeddings().weight.dtype

"""The one way from a store to a data set: read, choose, write in a format."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from agentlightning.adapter.export import formats
from agentlightning.adapter.export.data import ExportedData, Record
from agentlightning.adapter.export.options import ExportOptions
from agentlightning.adapter.export.read import read_samples
from agentlightning.adapter.export.sample import Sample
from agentlightning.adapter.export.selection import labelled, preferences, wanted
from agentlightning.errors import ConfigurationError

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

__all__ = ["FORMATS", "export_rollouts", "export_rollouts_sync", "export_samples"]

Rows = Iterator[tuple[Record, Record, tuple[str, ...]]]
"""Record, provenance, and the rollouts that it is from."""

Maker = Callable[[list[Sample], ExportOptions, Counter[str]], Rows]


def _of_samples(make: Callable[[Sample], Record]) -> Maker:
    def rows(samples: list[Sample], _options: ExportOptions, _skipped: Counter[str]) -> Rows:
        for sample in samples:
            yield make(sample), sample.provenance(), (sample.rollout_id,)

    return rows


def _of_pairs(make: Callable[[Any], Record]) -> Maker:
    def rows(samples: list[Sample], options: ExportOptions, skipped: Counter[str]) -> Rows:
        for pair in preferences(samples, options, skipped):
            both = (pair.chosen_from.rollout_id, pair.rejected_from.rollout_id)
            yield make(pair), formats.pair_provenance(pair), both

    return rows


def _of_labels(samples: list[Sample], options: ExportOptions, skipped: Counter[str]) -> Rows:
    for sample, label in labelled(samples, options, skipped):
        yield formats.trl_kto(sample, label), sample.provenance(), (sample.rollout_id,)


_PAIRS: Final = frozenset({"openai-dpo", "trl-dpo"})

FORMATS: Final[dict[str, Maker]] = {
    "openai-sft": _of_samples(formats.openai_sft),
    "openai-dpo": _of_pairs(formats.openai_dpo),
    "trl-sft": _of_samples(formats.trl_sft),
    "trl-prompt-completion": _of_samples(formats.trl_prompt_completion),
    "trl-dpo": _of_pairs(formats.trl_dpo),
    "trl-kto": _of_labels,
}
"""Names of the formats."""


async def export_rollouts(
    store: LightningStore, data_format: str, options: ExportOptions | None = None
) -> ExportedData:
    """Return what a store's ended rollouts give in a format.

    Args:
        store: The store; nothing in it is changed.
        data_format: One of `FORMATS`.
        options: Which rollouts count; by default all that succeeded.

    Raises:
        ConfigurationError: There is no such format, or the options contradict it.
    """
    chosen = options or ExportOptions()
    _check(data_format, chosen)
    skipped: Counter[str] = Counter()
    samples = [s async for found in read_samples(store, chosen, skipped) for s in found]
    return _export(samples, data_format, chosen, skipped)


def export_rollouts_sync(
    store: LightningStore, data_format: str, options: ExportOptions | None = None
) -> ExportedData:
    """Do what `export_rollouts` does, where no event loop runs."""
    return asyncio.run(export_rollouts(store, data_format, options))


def export_samples(
    samples: list[Sample], data_format: str, options: ExportOptions | None = None
) -> ExportedData:
    """Return what samples give in a format; a pure function for those who read their own.

    Raises:
        ConfigurationError: There is no such format, or the options contradict it.
    """
    chosen = options or ExportOptions()
    _check(data_format, chosen)
    return _export(samples, data_format, chosen, Counter())


def _check(data_format: str, options: ExportOptions) -> None:
    if data_format not in FORMATS:
        raise ConfigurationError(
            f"There is no format {data_format!r}: use one of {sorted(FORMATS)}."
        )
    if data_format in _PAIRS and options.per_call:
        raise ConfigurationError(f"{data_format} compares conversations: leave per_call out.")


def _export(
    samples: list[Sample], data_format: str, options: ExportOptions, skipped: Counter[str]
) -> ExportedData:
    if options.reward_name is not None:
        name = options.reward_name
        samples = [replace(sample, reward=sample.rewards.get(name)) for sample in samples]
    kept = wanted(samples, options, skipped)
    rows = list(FORMATS[data_format](kept, options, skipped))
    return ExportedData(
        format=data_format,
        records=[record for record, _, _ in rows],
        provenance=[origin for _, origin, _ in rows],
        rollouts=len({rollout_id for _, _, ids in rows for rollout_id in ids}),
        skipped={reason: count for reason, count in skipped.items() if count},
    )

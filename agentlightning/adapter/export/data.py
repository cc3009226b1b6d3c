"""Exported records, and the files and data sets that they become."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentlightning._internal.extra import require_extra
from agentlightning.errors import ConfigurationError

__all__ = ["ExportedData"]

Record = dict[str, Any]

_LISTS = frozenset(
    {"messages", "prompt", "completion", "chosen", "rejected", "tools"}
    | {"preferred_output", "non_preferred_output"}
)
"""Columns that are lists of objects with members of their own."""

_EXTRA = "datasets"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedData:
    """Records of one format, each with where it comes from."""

    format: str
    records: list[Record]
    provenance: list[Record]
    """One for each record, in its order. Formats that allow columns of their own hold it too."""
    rollouts: int = 0
    """Rollouts that the records are from."""
    skipped: dict[str, int] = field(default_factory=dict[str, int])
    """What was left out, by why."""

    def write(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write the records to a file, whole or not at all, and return the files written.

        A name in `.parquet` gives a Parquet file (extra `datasets`), any other one JSON a line.
        OpenAI's formats refuse columns of ours: beside their file goes `<name>.provenance.jsonl`.

        Raises:
            MissingExtraError: Parquet was asked for, and pyarrow is not installed.
            ConfigurationError: Parquet was asked for OpenAI's formats, which are JSON lines.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        is_openai = self.format.startswith("openai")
        if target.suffix == ".parquet":
            if is_openai:
                raise ConfigurationError(f"{self.format} is a format of JSON lines: use .jsonl.")
            _write_parquet(self.records, target)
            return [target]
        _write_lines(self.records, target)
        if not is_openai:
            return [target]
        beside = target.with_name(f"{target.name}.provenance.jsonl")
        _write_lines(self.provenance, beside)
        return [target, beside]

    def to_dataset(self) -> Any:
        """Return the records as a Hugging Face `datasets.Dataset`, as TRL's trainers take it.

        Messages and tools are columns of JSON, so that tools with different arguments do not get
        one another's members.

        Raises:
            MissingExtraError: `datasets` is not installed.
            ConfigurationError: It is too old to have columns of JSON.
        """
        require_extra(_EXTRA, "datasets")
        datasets: Any = importlib.import_module("datasets")
        if not hasattr(datasets, "Json"):
            raise ConfigurationError("This version of datasets has no Json type: update datasets.")
        features = {name: _feature(datasets, name) for name in _columns(self.records)}
        rows = [{name: record.get(name) for name in features} for record in self.records]
        return datasets.Dataset.from_list(rows, features=datasets.Features(features))


def _columns(records: Iterable[Record]) -> list[str]:
    return list(dict.fromkeys(name for record in records for name in record))


def _feature(datasets: Any, name: str) -> Any:
    if name in _LISTS:
        return datasets.List(datasets.Json())
    if name == "input":
        return datasets.Json()
    return datasets.Value(_kind(name))


def _kind(name: str) -> str:
    """Return the type of a column that holds single values, as datasets and Arrow both name it."""
    if name.endswith("reward"):
        return "float64"
    if name.endswith("weight_version"):
        return "int64"
    return "bool" if name == "label" else "string"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _write_lines(records: Iterable[Record], target: Path) -> None:
    part = target.with_name(f"{target.name}.part")
    with part.open("wb") as file:
        for record in records:
            # Half of a surrogate pair, as models produce, is no character: its escape is.
            file.write(_json(record).encode("utf-8", "backslashreplace") + b"\n")
    part.replace(target)


def _write_parquet(records: Sequence[Record], target: Path) -> None:
    require_extra(_EXTRA, "pyarrow")
    arrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    columns = {name: _column(arrow, name, records) for name in _columns(records)}
    part = target.with_name(f"{target.name}.part")
    parquet.write_table(arrow.table(columns), part)
    part.replace(target)


def _column(arrow: Any, name: str, records: Sequence[Record]) -> Any:
    values = [record.get(name) for record in records]
    if name not in _LISTS:
        return arrow.array(values, type=arrow.type_for_alias(_kind(name)))
    texts = [None if value is None else [_json(item) for item in value] for value in values]
    return arrow.array(texts, type=arrow.list_(arrow.string())).cast(arrow.list_(arrow.json_()))

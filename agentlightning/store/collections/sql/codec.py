"""Records as rows: the columns as they are, and everything else as JSON in `body`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, Generic, TypeVar

from pydantic import BaseModel, TypeAdapter
from pydantic_core import PydanticUndefined

from agentlightning.store.collections.sql.text import from_text, to_text
from agentlightning.store.record import build
from agentlightning.types import ResourcesUpdate, Rollout, RolloutConfig
from agentlightning.types.resources import NamedResources

M = TypeVar("M", bound=BaseModel)
Row = Sequence[Any]
Revive = Callable[[Any], Any]

_CONFIG_DEFAULTS: Final = vars(RolloutConfig())
_NAMED_RESOURCES: Final[TypeAdapter[NamedResources]] = TypeAdapter(NamedResources)


def _config(fields: Any) -> RolloutConfig:
    config = RolloutConfig()
    return build(RolloutConfig, {**vars(config), **fields}) if fields else config


def _config_body(config: RolloutConfig) -> dict[str, Any] | None:
    """Return what a config does not leave at its defaults."""
    fields = vars(config)
    if fields == _CONFIG_DEFAULTS:
        return None
    return {name: value for name, value in fields.items() if value != _CONFIG_DEFAULTS.get(name)}


_REVIVE: Final[Mapping[type[BaseModel], Mapping[str, Revive]]] = {
    Rollout: {"config": _config},
    ResourcesUpdate: {"resources": _NAMED_RESOURCES.validate_python},
}


def float_columns(model: type[BaseModel], columns: Sequence[str]) -> tuple[str, ...]:
    """Return those of a model's fields that are floats."""
    annotations: dict[str, Any] = {name: model.model_fields[name].annotation for name in columns}
    return tuple(name for name in columns if annotations[name] in (float, float | None))


def keep_odd_numbers(
    columns: Sequence[str], fields: Mapping[str, Any], body: dict[str, Any]
) -> None:
    """Add to a body the columns that are NaN, which databases take for NULL."""
    for name in columns:
        value = fields[name]
        if value != value:
            body[name] = value


class RecordCodec(Generic[M]):
    """The form of one model's records in a table.

    Args:
        model: The records' class; one that allows no fields beyond its own.
        columns: Its fields that are columns, in the table's order.
    """

    def __init__(self, model: type[M], columns: Sequence[str]) -> None:
        self.model = model
        self.columns = tuple(columns)
        self.values: Callable[[Mapping[str, Any]], tuple[Any, ...]] = itemgetter(*self.columns)
        self.free = tuple(name for name in model.model_fields if name not in self.columns)
        self._revive = _REVIVE.get(model, {})
        self._defaults: dict[str, Any] = {
            name: None if info.default is PydanticUndefined else info.default
            for name, info in model.model_fields.items()
        }
        self._floats = float_columns(model, self.columns)

    def body(self, record: M) -> str:
        """Return what no column holds.

        Raises:
            InvalidRequestError: A value in it has no JSON form.
        """
        fields = record.__dict__
        body: dict[str, Any] = {}
        for name in self.free:
            value = fields[name]
            if isinstance(value, RolloutConfig):
                value = _config_body(value)
            if value is not None:
                body[name] = value
        keep_odd_numbers(self._floats, fields, body)
        return to_text(body, self.model.__name__) if body else "{}"

    def row(self, record: M) -> tuple[Any, ...]:
        """Return the columns' values and the body."""
        return (*self.values(record.__dict__), self.body(record))

    def same_body(self, old: M, new: M) -> bool:
        """Return whether a changed record certainly has the body that it had before."""
        before, after = old.__dict__, new.__dict__
        for name in self.free:
            if before[name] is not after[name]:
                return False
        for name in self._floats:
            # A NaN is kept in the body, which then changes with its column.
            value = before[name]
            if value != value:
                return False
        return True

    def changed(self, old: M, new: M) -> list[str]:
        """Return the columns in which two records differ."""
        before, after = old.__dict__, new.__dict__
        return [
            name
            for name in self.columns
            if (value := before[name]) is not after[name] and value != after[name]
        ]

    def record(self, row: Row) -> M:
        """Return the record of a row: the columns in order, then the body."""
        fields = dict(self._defaults)
        fields.update(zip(self.columns, row, strict=False))
        body = row[-1]
        if body != "{}":
            fields.update(from_text(body))
        for name, revive in self._revive.items():
            fields[name] = revive(fields[name])
        return build(self.model, fields)

    def records(self, rows: Sequence[Row]) -> list[M]:
        """Return the records of several rows."""
        return [self.record(row) for row in rows]

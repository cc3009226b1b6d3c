"""Pydantic records made of trusted fields, past all validation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

from pydantic import BaseModel

M = TypeVar("M", bound=BaseModel)

_new: Final = object.__new__
# Perf: a model's own slots, set without asking the model; twice as fast as `object.__setattr__`.
_slots: Final[Mapping[str, Any]] = BaseModel.__dict__
_set_fields: Final = _slots["__dict__"].__set__
_set_names: Final = _slots["__pydantic_fields_set__"].__set__
_set_extra: Final = _slots["__pydantic_extra__"].__set__
_set_private: Final = _slots["__pydantic_private__"].__set__


class _FieldNames(dict[type[BaseModel], set[str]]):
    """Every class's field names, in one set that its records share."""

    def __missing__(self, model: type[BaseModel]) -> set[str]:
        names = self[model] = set(model.model_fields)
        return names


_field_names: Final = _FieldNames()


def build(model: type[M], fields: dict[str, Any], extra: dict[str, Any] | None = None) -> M:
    """Make a record of all of its fields, as they are: nothing is validated or filled in.

    Perf: 0.4 µs, where `model_construct` takes 4 and validation takes 2.

    Args:
        model: The record's class; one without private attributes.
        fields: Every field of the class; the record keeps this very dict.
        extra: Fields that the class does not have; a dict (maybe empty) for a class that allows
            such, None for others.
    """
    record = _new(model)
    _set_fields(record, fields)
    _set_names(record, _field_names[model])
    _set_extra(record, extra)
    _set_private(record, None)
    return record

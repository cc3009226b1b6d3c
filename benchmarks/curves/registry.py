"""All curves, in the order in which their tables stand."""

from __future__ import annotations

from benchmarks.curves import calculator, guess, json_answers, preference, reversal, routing
from benchmarks.curves.curve import Curve

__all__ = ["all_curves"]


def all_curves() -> list[Curve]:
    """Return every curve; loads nothing heavy."""
    return [
        *calculator.curves(),
        *routing.curves(),
        *guess.curves(),
        *json_answers.curves(),
        *reversal.curves(),
        *preference.curves(),
    ]

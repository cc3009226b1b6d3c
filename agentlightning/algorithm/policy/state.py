"""The loop's own state: what must be in a checkpoint beside weights and optimiser."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from agentlightning.algorithm.policy.result import Evaluation

__all__ = ["LoopState"]


@dataclass(slots=True)
class LoopState:
    """How far a run is. The data cursor is the step itself: see `curriculum`."""

    step: int = 0
    """Training steps done."""
    version: int = 0
    """Version of the weights; grows with every change of them."""
    evaluations: list[Evaluation] = field(default_factory=list[Evaluation])

    @property
    def best(self) -> Evaluation | None:
        """Return the best evaluation, the latest of equals; one whose reward is NaN is none."""
        known = [each for each in self.evaluations if not math.isnan(each.reward)]
        return max(known, key=lambda e: (e.reward, e.step), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> LoopState:
        """Restore what `to_dict` gave."""
        evaluations = [Evaluation(**each) for each in fields["evaluations"]]
        return cls(step=fields["step"], version=fields["version"], evaluations=evaluations)

"""The metrics file: one JSON object per finished step or evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from agentlightning._internal.clock import now
from agentlightning.progress.base import Phase, RunInfo, StepReport

__all__ = ["JsonlSink"]


class JsonlSink:
    """Appends to `metrics.jsonl`.

    Each line has `step` and `time` (unix seconds) beside the metrics. A resumed run drops the
    lines of steps that it will do again, so each step stands there once.
    """

    def __init__(self, path: Path) -> None:
        """Write to `path`; its directory must exist."""
        self._path = path

    def started(self, info: RunInfo) -> None:
        """Drop what lies beyond the point of resumption; a kill meanwhile leaves the file whole."""
        if not self._path.exists():
            return
        # A run that begins anew, for nothing was saved, also evaluates anew.
        last = info.first_step or -1
        kept = [
            line
            for line in self._path.read_text().splitlines()
            if (step := _step_of(line)) is not None and step <= last
        ]
        draft = self._path.with_suffix(".tmp")
        draft.write_text("".join(f"{line}\n" for line in kept))
        draft.replace(self._path)

    def phase(self, phase: Phase, done: int = 0, total: int = 0) -> None:
        """Write nothing: a phase is not a result."""

    def stepped(self, report: StepReport) -> None:
        """Write the step's metrics."""
        self._write({"step": report.step, **report.metrics})

    def evaluated(
        self,
        step: int,
        reward: float,
        tasks: int,
        seconds: float,
        *,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Write the evaluation."""
        self._write(
            {
                "step": step,
                "val/reward": reward,
                "val/n_rollouts": tasks,
                "timing/evaluate_s": seconds,
                **(metrics or {}),
            }
        )

    def warned(self, message: str) -> None:
        """Write nothing: warnings go to the log."""

    def ended(self, *, interrupted: bool, next_steps: list[str]) -> None:
        """Write nothing: the result has a file of its own."""

    def _write(self, fields: dict[str, float]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps({"time": now(), **fields}) + "\n")


def _step_of(line: str) -> int | None:
    """Return a line's step, or None for a line that a crash cut off."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):
        return None

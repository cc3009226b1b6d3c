"""One sink in front of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentlightning.progress.base import Phase, ProgressSink, RunInfo, StepReport

__all__ = ["FanOut"]


class FanOut:
    """Passes every report on to each of its sinks, in their order."""

    def __init__(self, sinks: Sequence[ProgressSink]) -> None:
        """Keep the sinks."""
        self._sinks = tuple(sinks)

    def started(self, info: RunInfo) -> None:
        """Pass on."""
        for sink in self._sinks:
            sink.started(info)

    def phase(self, phase: Phase, done: int = 0, total: int = 0) -> None:
        """Pass on."""
        for sink in self._sinks:
            sink.phase(phase, done, total)

    def stepped(self, report: StepReport) -> None:
        """Pass on."""
        for sink in self._sinks:
            sink.stepped(report)

    def evaluated(
        self,
        step: int,
        reward: float,
        tasks: int,
        seconds: float,
        *,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Pass on."""
        for sink in self._sinks:
            sink.evaluated(step, reward, tasks, seconds, metrics=metrics)

    def warned(self, message: str) -> None:
        """Pass on."""
        for sink in self._sinks:
            sink.warned(message)

    def ended(self, *, interrupted: bool, next_steps: list[str]) -> None:
        """Pass on."""
        for sink in self._sinks:
            sink.ended(interrupted=interrupted, next_steps=next_steps)

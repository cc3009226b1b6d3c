"""The live terminal view of a fit; plain lines where the output is not a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from agentlightning._internal.clock import monotonic
from agentlightning.progress.base import Phase, RunInfo, Sample, StepReport

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["TerminalSink", "sparkline"]

_BARS = "▁▂▃▄▅▆▇█"
_SAMPLE_WIDTH = 100


def sparkline(values: Sequence[float], *, width: int = 40) -> str:
    """Return the last `width` values as bars, scaled between 0 and 1 or their own extremes.

    Example:
        >>> sparkline([0.0, 0.5, 1.0])
        '▁▅█'
    """
    shown = values[-width:]
    if not shown:
        return ""
    low, high = min(0.0, *shown), max(1.0, *shown)
    scale = (len(_BARS) - 1) / (high - low)
    return "".join(_BARS[round((value - low) * scale)] for value in shown)


class TerminalSink:
    """Shows a fit as it happens: reward, speed, time left, best and worst answer of the step."""

    def __init__(self, console: Console | None = None) -> None:
        """Draw on `console`, standard output by default."""
        self._console = console or Console()
        self._live: Live | None = None
        self._info: RunInfo | None = None
        self._rewards: list[float] = []
        self._evaluations: list[tuple[int, str, int]] = []
        self._report: StepReport | None = None
        self._phase: tuple[Phase, int, int] = ("starting", 0, 0)
        self._warnings: list[str] = []
        self._started = 0.0

    def started(self, info: RunInfo) -> None:
        """Open the view."""
        self._info = info
        self._started = monotonic()
        self._console.print(
            Text.assemble(
                ("agentlightning", "bold"),
                f"  {info.algorithm} on {info.model}, {info.total_steps} steps"
                + (f", resumed after step {info.first_step}" if info.first_step else ""),
            )
        )
        self._console.print(Text(f"run directory {info.run_dir}", style="dim"))
        if self._console.is_terminal:
            self._live = Live(
                self._render(), console=self._console, refresh_per_second=4, transient=False
            )
            self._live.start()

    def phase(self, phase: Phase, done: int = 0, total: int = 0) -> None:
        """Show what the fit is doing."""
        changed = phase != self._phase[0]
        self._phase = (phase, done, total)
        if self._live is None and changed and phase == "loading":
            self._console.print(Text("loading the model", style="dim"))
        self._refresh()

    def stepped(self, report: StepReport) -> None:
        """Add a step to the curve."""
        self._report = report
        self._rewards.append(report.reward)
        if self._live is None:
            self._console.print(self._step_line(report))
        self._refresh()

    def evaluated(
        self,
        step: int,
        reward: float,
        tasks: int,
        seconds: float,
        *,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Show an evaluation."""
        figure = f"{reward:.3f}"
        if metrics and "val/loss" in metrics:
            figure += f", loss {metrics['val/loss']:.3f},"
        self._evaluations.append((step, figure, tasks))
        if self._live is None:
            self._console.print(
                f"evaluation after step {step}: reward {figure} on {tasks} held-out tasks "
                f"({seconds:.1f} s)"
            )
        self._refresh()

    def warned(self, message: str) -> None:
        """Keep a warning in sight."""
        if message in self._warnings:
            return
        self._warnings.append(message)
        if self._live is None:
            self._console.print(Text(f"warning: {message}", style="yellow"))
        self._refresh()

    def ended(self, *, interrupted: bool, next_steps: list[str]) -> None:
        """Close the view and say what to do next."""
        self._phase = ("interrupted" if interrupted else "done", 0, 0)
        self._refresh()
        if self._live is not None:
            self._live.stop()
            self._live = None
        for line in next_steps:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _refresh(self) -> None:
        if self._live is not None:
            self._live.update(self._render())

    def _step_line(self, report: StepReport) -> str:
        assert self._info is not None
        return (
            f"step {report.step:>3}/{self._info.total_steps}  reward {report.reward:.3f} "
            f"{sparkline(self._rewards, width=24)}  {self._speed(report)}  "
            f"left {self._time_left(report)}"
        )

    def _speed(self, report: StepReport) -> str:
        metrics = report.metrics
        return (
            f"{metrics.get('speed/rollouts_per_second', 0.0):.1f} rollouts/s  "
            f"{metrics.get('speed/tokens_per_second', 0.0):.0f} tokens/s"
        )

    def _time_left(self, report: StepReport) -> str:
        assert self._info is not None
        done_here = report.step - self._info.first_step
        left = self._info.total_steps - report.step
        seconds = (monotonic() - self._started) / max(1, done_here) * left
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"

    def _render(self) -> RenderableType:
        assert self._info is not None
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", justify="right")
        table.add_column()
        phase, done, total = self._phase
        table.add_row("now", f"{phase} {done}/{total}" if total else phase)
        report = self._report
        if report is not None:
            table.add_row("step", f"{report.step} of {self._info.total_steps}")
            curve = Text(sparkline(self._rewards), style="green")
            table.add_row("reward", Text.assemble((f"{report.reward:.3f}  ", "bold"), curve))
            table.add_row("speed", self._speed(report))
            table.add_row("left", self._time_left(report))
            table.add_row("best", _sample_text(report.best, "green"))
            table.add_row("worst", _sample_text(report.worst, "red"))
        for step, figure, tasks in self._evaluations:
            table.add_row("evaluation", f"{figure} on {tasks} held-out tasks, step {step}")
        parts: list[RenderableType] = [table]
        parts.extend(Text(f"! {message}", style="yellow") for message in self._warnings[-3:])
        title = f"{self._info.algorithm} · {self._info.model}"
        return Panel(Group(*parts), title=title, border_style="dim")


def _sample_text(sample: Sample | None, style: str) -> Text:
    if sample is None:
        return Text("-")
    reward = "none" if sample.reward is None else f"{sample.reward:.2f}"
    line = f"{sample.task} → {sample.answer}".replace("\n", "⏎")
    if len(line) > _SAMPLE_WIDTH:
        line = line[: _SAMPLE_WIDTH - 1] + "…"
    return Text.assemble((f"{reward}  ", style), line)

"""The tables of `RESULTS.md`: one for each curve, and one for all algorithms on one task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmarks.curves.curve import Curve, Figures
from benchmarks.curves.records import Records

__all__ = ["Table", "tables"]

ALGORITHMS = "preference/"
"""What the names of the curves begin with that share a table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A section of the page."""

    heading: str
    command: str
    notes: Sequence[str]
    lines: list[list[str]]


def tables(curves: Sequence[Curve], records: Records) -> Iterator[Table]:
    """Return a table for each curve that was fitted; the algorithms share one."""
    fitted = [curve for curve in curves if records.fits(curve)]
    for curve in fitted:
        if not curve.name.startswith(ALGORITHMS):
            yield _of_curve(curve, records)
    algorithms = [curve for curve in fitted if curve.name.startswith(ALGORITHMS)]
    if algorithms:
        yield _of_algorithms(algorithms, records)


def _of_curve(curve: Curve, records: Records) -> Table:
    fits = records.fits(curve)
    control = records.control(curve)
    names = list(fits[0][1].notes)
    head = ["seed", "sampled reward, first 2 → last steps", "held-out", *names, "wall", "CPU"]
    lines = [head, *(_line(str(seed), figures, names) for seed, figures in fits)]
    if control is not None:
        lines.append(_line("0, advantages shuffled", control, names))
    return Table(
        heading=f"## Learning: {curve.title}",
        command=f"python -m benchmarks.curves --only {curve.name}",
        notes=("", *curve.about),
        lines=lines,
    )


def _line(title: str, figures: Figures, names: Sequence[str]) -> list[str]:
    return [
        title,
        f"{figures.first:.2f} → {figures.last:.2f}",
        f"{figures.before:.0%} → {figures.after:.0%}".replace("%", " %"),
        *(f"{figures.notes[name]:.2f}" for name in names),
        f"{figures.wall_seconds:.0f} s",
        f"{figures.cpu_seconds:.0f} s",
    ]


def _of_algorithms(curves: Sequence[Curve], records: Records) -> Table:
    seeds = max((len(records.fits(curve)) for curve in curves), default=0)
    head = ["algorithm", *(f"seed {seed}" for seed in range(seeds))]
    lines = [[*head, "steps to 0.9", "shuffled", "CPU of a fit"]]
    for curve in curves:
        fits = [figures for _, figures in records.fits(curve)]
        control = records.control(curve)
        cells = [f"{figures.first:.2f} → {figures.last:.2f}" for figures in fits]
        shuffled = "-" if control is None else f"{control.first:.2f} → {control.last:.2f}"
        steps = ", ".join(_steps_to(0.9, figures) for figures in fits)
        seconds = f"{fmean(figures.cpu_seconds for figures in fits):.1f} s"
        blank = ["-"] * (seeds - len(cells))
        lines.append([curve.title, *cells, *blank, steps, shuffled, seconds])
    return Table(
        heading="## Learning: every algorithm on the smallest task",
        command=f"python -m benchmarks.curves --only {ALGORITHMS}",
        notes=(
            "",
            "A model of 77 thousand parameters from scratch is asked anything and rewarded with the share",
            "of one of 42 words among what it says: 40 steps of 2 tasks x 8 rollouts, at most 12 words",
            "each, at a learning rate of 5e-3; everything else is as each algorithm has it, except that DAPO goes",
            "without its penalty for answers that reach the limit, as most do here, and that DPO and KTO, which",
            "need adapters, train them over a random model with larger weights. Sampled reward, first two → last",
            "ten steps. With advantages shuffled it is a random walk, whose end differs from seed to seed.",
        ),
        lines=lines,
    )


def _steps_to(reward: float, figures: Figures) -> str:
    reached = (step for step, each in enumerate(figures.rewards, 1) if each >= reward)
    return str(next(reached, "never"))

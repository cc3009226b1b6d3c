"""Our policy optimisation beside TRL's GRPOTrainer: one machine, model, task and optimiser.

SmolLM2-135M in bf16 with LoRA of rank 16 answers questions with a calculator expression; a step
has 4 questions of 8 answers each, of 14 tokens at most. `loop` is our sampler and trainer, which
is what GRPOTrainer does; `agents` is the whole package, with agents that call the model over
HTTP, a store and a gateway. Each side is a process of its own, one after the other.

Usage: `python -m benchmarks.trl [--steps 10] [--sides trl loop agents] [--write "quiet machine"]`.
TRL's side takes about half a minute a step on two quiet cores.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import print_table, section, write_section

HEADING = "## Learning beside TRL"
SIDES = ("trl", "loop", "agents")
REQUIREMENT = "trl==1.16.0"
TARGET = 8.0
"""How many times cheaper than TRL a step must be."""

REWARD = 0.9
"""The level whose time is told."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one training step took."""

    wall: float
    cpu: float
    reward: float
    tokens: float


@dataclass(frozen=True, slots=True)
class Run:
    """One side's run."""

    steps: list[Step]
    cpu: float
    """CPU seconds of the whole process, loading included."""

    @property
    def later(self) -> list[Step]:
        """The steps after the first, which warms up."""
        return self.steps[1:] or self.steps

    @property
    def cpu_per_step(self) -> float:
        """Median of the CPU seconds of a later step."""
        return statistics.median(step.cpu for step in self.later)

    @property
    def wall_per_step(self) -> float:
        """Median of the wall seconds of a later step."""
        return statistics.median(step.wall for step in self.later)

    @property
    def tokens_per_cpu_second(self) -> float:
        """Sampled and trained tokens by CPU seconds of the later steps."""
        return sum(s.tokens for s in self.later) / sum(s.cpu for s in self.later)

    def cpu_until(self, reward: float) -> float | None:
        """CPU seconds of steps until two steps in a row reached a reward on average."""
        for number in range(1, len(self.steps)):
            if (self.steps[number - 1].reward + self.steps[number].reward) / 2 >= reward:
                return sum(step.cpu for step in self.steps[: number + 1])
        return None


def interpreter(side: str, directory: Path) -> str:
    """Return a Python that can run a side; makes an environment with TRL if there is none."""
    if side != "trl" or importlib.util.find_spec("trl.trainer") is not None:
        return sys.executable
    venv = directory / "trl"
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", str(venv)], check=True)
    python = str(venv / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", REQUIREMENT], check=True)
    return python


def run(side: str, steps: int, python: str, extra: Sequence[str] = ()) -> Run:
    """Run one side to its end.

    Raises:
        RuntimeError: It failed; the message holds the end of what it printed.
    """
    command = [python, "-m", "benchmarks.trl_driver", side, "--steps", str(steps), *extra]
    # Why: threads that wait by spinning would count as work.
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{side} failed: {done.stderr[-2000:]}")
    steps_found: list[Step] = []
    for line in done.stdout.splitlines():
        if line.startswith('{"step"'):
            found = json.loads(line)
            steps_found.append(
                Step(**{key: found[key] for key in ("wall", "cpu", "reward", "tokens")})
            )
    cpu = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    return Run(steps_found, cpu)


def table(runs: dict[str, Run]) -> list[list[str]]:
    """Return the figures of each side, and how they compare with TRL's."""
    titles = {"trl": "TRL GRPOTrainer", "loop": "ours", "agents": "ours, agents over HTTP"}
    sides = [side for side in SIDES if side in runs]
    base = runs.get("trl")

    def line(title: str, value: str, figures: list[float | None], better: int) -> list[str]:
        cells = [title]
        for side, figure in zip(sides, figures, strict=True):
            text = "-" if figure is None else value.format(figure)
            if base and side != "trl" and figure and figures[0]:
                factor = (figures[0] / figure) ** better
                text += f" ({factor:.1f}x)"
            cells.append(text)
        return cells

    found = [runs[side] for side in sides]
    return [
        ["", *(titles[side] for side in sides)],
        line("CPU seconds, first step", "{:.1f}", [r.steps[0].cpu for r in found], 1),
        line("CPU seconds, later steps (median)", "{:.1f}", [r.cpu_per_step for r in found], 1),
        line("wall seconds, later steps (median)", "{:.1f}", [r.wall_per_step for r in found], 1),
        line("tokens per CPU second", "{:.1f}", [r.tokens_per_cpu_second for r in found], -1),
        line(
            f"CPU seconds of steps until reward {REWARD}",
            "{:.0f}",
            [r.cpu_until(REWARD) for r in found],
            1,
        ),
        line("CPU seconds of the whole process", "{:.0f}", [r.cpu for r in found], 1),
        ["reward by step", *(" ".join(f"{s.reward:.2f}" for s in r.steps) for r in found)],
    ]


def reached(runs: dict[str, Run]) -> bool:
    """Tell whether our loop is as much cheaper than TRL as it must be."""
    if "trl" not in runs or "loop" not in runs:
        return True
    return runs["trl"].cpu_per_step >= TARGET * runs["loop"].cpu_per_step


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, and return 1 if the target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--write", metavar="CIRCUMSTANCES", help="also write RESULTS.md")
    options = parser.parse_args(arguments)
    runs: dict[str, Run] = {}
    with tempfile.TemporaryDirectory() as directory:
        for side in options.sides:
            python = interpreter(side, Path(directory))
            runs[side] = run(side, options.steps, python, ["--threads", str(options.threads)])
            print(side, [f"{step.cpu:.1f}" for step in runs[side].steps], flush=True)
    lines = table(runs)
    print_table(lines)
    if options.write:
        command = f"python -m benchmarks.trl --steps {options.steps}"
        notes = (
            "Medians leave the first step out. Each step samples and trains 4 x 8 answers; steps in "
            "which every group is of one mind cost ours no training.",
        )
        write_section(HEADING, section(HEADING, command, options.write, lines, notes))
    return int(not reached(runs))


if __name__ == "__main__":
    sys.exit(main())

"""Training runs that are killed at random points and resumed, beside runs that nobody disturbs.

Usage: `python -m benchmarks.kill_matrix [--kills 20] [--seed 20] [--write]`. The points are those of
`tests/chaos/kill_matrix.py`, of which the tests run a few.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from collections.abc import Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path

from benchmarks.results import print_table, section, write_section
from tests.chaos.kill_matrix import SCHEDULES, Kill, MatrixRun, kills, ready_processes
from tests.support.tiny_model import make_tiny_model

UNDISTURBED = 3
"""Runs of each schedule that nobody disturbs."""
HEADING = "## Runs that are killed and resumed"


async def measure(
    context: ForkServerContext, folder: Path, points: Sequence[Kill]
) -> list[list[str]]:
    """Run everything and return the table."""
    model = make_tiny_model(folder / "model", hidden=32)
    table = [
        ["killed", "when (signs of rollouts)", "schedule", "processes", "to resume", "end reward"]
    ]
    for settings in SCHEDULES:
        rewards: list[float] = []
        for number in range(UNDISTURBED):
            run = MatrixRun(context, folder / f"plain-{len(table)}-{number}", model)
            await run.run(settings)
            rewards.append(await run.audit())
        spread = f"{statistics.mean(rewards):.2f} ({min(rewards):.2f} to {max(rewards):.2f})"
        table.append(["nobody", "", named(settings), "1", "", spread])
    for kill in points:
        run = MatrixRun(context, folder / kill.label, model)
        await run.run(kill.settings, kill)
        reward = await run.audit()
        resumed = f"{run.seconds_to_resume:.1f} s" if run.parts > 1 else ""
        table.append(
            [
                kill.victim,
                str(kill.sign),
                named(kill.settings),
                str(run.parts),
                resumed,
                f"{reward:.2f}",
            ]
        )
        print(" | ".join(table[-1]), flush=True)
    return table


def named(settings: dict[str, object]) -> str:
    """Return settings in words."""
    return ", ".join(f"{name}={value}" for name, value in settings.items()) or "synchronous"


def main() -> None:
    """Run the benchmark; the command's entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--write", action="store_true", help="replace the section of RESULTS.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ready_processes() as context:
        points = kills(options.kills, options.seed)
        table = asyncio.run(measure(context, Path(folder), points))
    text = section(
        HEADING,
        f"python -m benchmarks.kill_matrix --kills {options.kills} --seed {options.seed} --write",
        "a tiny model from scratch, ten steps of two groups of eight, two runner processes, SIGKILL",
        table,
        [
            "After each: every step trained once and on whole groups, no rollout that had ended run "
            "anew, every evaluation once. The reward is the share of plain letters among random "
            "bytes on 32 held-out tasks; it is 0.5 before training.",
        ],
    )
    print_table(table)
    if options.write:
        write_section(HEADING, text)


if __name__ == "__main__":
    main()

"""Fit every curve from several seeds, each beside its negative control, and print the tables.

Usage: `python -m benchmarks.curves [--only PART] [--seeds 3] [--write "quiet machine"]`. Every fit
is a process of its own; what it brought is kept in `runs/curves.jsonl`, so that curves may be run
one by one, and `--tables` only prints (or, with `--write`, writes) what is kept.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.curves.curve import Curve, Figures, Start
from benchmarks.curves.records import Records
from benchmarks.curves.registry import all_curves
from benchmarks.curves.tables import tables
from benchmarks.quiet import quiet
from benchmarks.results import print_table, section, write_section


def child(curve: Curve, *, seed: int, shuffled: bool) -> None:
    """Fit once in this process, and print the figures as the last line."""
    import torch

    torch.set_num_threads(curve.threads)
    with quiet(), tempfile.TemporaryDirectory() as directory:
        start = Start(seed=seed, directory=Path(directory), shuffled=shuffled)
        print(json.dumps(asdict(curve.fit(start))))


def measure(curve: Curve, *, seed: int, shuffled: bool) -> Figures:
    """Fit once in a process of its own.

    Raises:
        RuntimeError: It failed; the message holds the end of what it printed.
    """
    command = [
        sys.executable,
        "-m",
        "benchmarks.curves",
        "--child",
        curve.name,
        "--seed",
        str(seed),
    ]
    if shuffled:
        command.append("--shuffled")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{curve.name} failed: {done.stderr[-2000:]}")
    return Figures(**json.loads(done.stdout.splitlines()[-1]))


def run(curve: Curve, seeds: int, records: Records) -> None:
    """Fit a curve from each seed, then once with shuffled advantages."""
    fits = [(seed, False) for seed in range(seeds)]
    if curve.has_control:
        fits.append((0, True))
    for seed, shuffled in fits:
        figures = measure(curve, seed=seed, shuffled=shuffled)
        records.add(curve.name, seed, shuffled, figures)
        verdict = "as it must" if curve.passed(figures, shuffled=shuffled) else "NOT as it must"
        print(
            f"{curve.name}, seed {seed}{', shuffled' if shuffled else ''}: "
            f"{figures.first:.2f} -> {figures.last:.2f}, held-out {figures.before:.2f} -> "
            f"{figures.after:.2f}, {figures.wall_seconds:.0f} s, CPU {figures.cpu_seconds:.0f} s: "
            f"{verdict}",
            flush=True,
        )


def chosen_curves(part: str) -> list[Curve]:
    """Return the curves whose name has this part.

    Raises:
        SystemExit: There are none; the message lists all.
    """
    found = [curve for curve in all_curves() if part in curve.name]
    if not found:
        known = ", ".join(curve.name for curve in all_curves())
        raise SystemExit(f"no curve has {part!r} in its name; there are: {known}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the tables, and return 1 if a fit did not end as it must."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="only curves whose name has this part")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tables", action="store_true", help="fit nothing; use what is kept")
    parser.add_argument("--results", type=Path, default=Path("runs/curves.jsonl"))
    parser.add_argument("--write", metavar="CIRCUMSTANCES", help="also write RESULTS.md")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--shuffled", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        curve = next(curve for curve in all_curves() if curve.name == options.child)
        child(curve, seed=options.seed, shuffled=options.shuffled)
        return 0
    records = Records(options.results)
    curves = chosen_curves(options.only)
    if not options.tables:
        for curve in curves:
            run(curve, options.seeds, records)
    for table in tables(curves, records):
        print(f"\n{table.heading}")
        print_table(table.lines)
        if options.write:
            text = section(
                table.heading, table.command, options.write, table.lines, notes=table.notes
            )
            write_section(table.heading, text)
    return int(not all(records.passed(curve) for curve in curves))


if __name__ == "__main__":
    sys.exit(main())

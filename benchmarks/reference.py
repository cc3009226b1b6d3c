"""This package beside the released 0.3.0, measured in one run on one machine.

Each measure of `reference_driver.py` runs under the interpreter of each side in turn; the better
of the repetitions counts, since noise on a shared machine only ever slows down.

Usage: `python benchmarks/reference.py --reference /path/to/python-with-0.3.0`
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DRIVER = Path(__file__).with_name("reference_driver.py")
RUN_TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One call of the driver."""

    title: str
    name: str
    arguments: dict[str, Any]


MEASURES = (
    Measure(title="latency, shm", name="latency", arguments={"strategy": "shm", "count": 8}),
    Measure(title="latency, cs", name="latency", arguments={"strategy": "cs", "count": 8}),
    *(
        Measure(
            title=f"rollouts, {strategy}, {runners} runner{'s' if runners > 1 else ''}",
            name="rollouts",
            arguments={"strategy": strategy, "n_runners": runners, "count": 1000},
        )
        for strategy in ("shm", "cs")
        for runners in (1, 8)
    ),
    Measure(title="spans in process", name="spans-in-process", arguments={"count": 20_000}),
    Measure(title="spans over HTTP", name="spans-over-http", arguments={"count": 2_000}),
)


def run(python: str, measure: Measure) -> dict[str, Any]:
    """Run one measure under one interpreter; a failure is a result that says so."""
    # The measured package is the interpreter's own: the checkout is on the path of ours only.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if python == sys.executable:
        environment["PYTHONPATH"] = str(DRIVER.parent.parent)
    try:
        done = subprocess.run(
            [python, str(DRIVER), measure.name, json.dumps(measure.arguments)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no end after {RUN_TIMEOUT_SECONDS:.0f} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        return {"error": "\n".join(done.stderr.strip().splitlines()[-3:]) or "no output"}
    return json.loads(lines[-1])


def rows(result: dict[str, Any]) -> Iterator[tuple[str, float, bool]]:
    """Yield (figure, value, whether more is better) for each figure of one result."""
    for kind in ("start_ms", "completion_ms"):
        for statistic, value in result.get(kind, {}).items():
            yield f"{kind.removesuffix('_ms')} {statistic}, ms", value, False
    for key, label, more in (
        ("rollouts_per_second", "rollouts/s", True),
        ("enqueue_to_all_seconds", "enqueue to all done, s", False),
        ("failed", "failed rollouts", False),
        ("wall_seconds", "wall, s", False),
        ("cpu_seconds", "CPU, s", False),
    ):
        if key in result:
            yield label, result[key], more
    for name, figures in result.items():
        if isinstance(figures, dict) and "spans_per_second" in figures:
            yield f"{name}: spans/s", figures["spans_per_second"], True
            spans = figures["spans_per_second"] * figures["wall_seconds"]
            yield f"{name}: CPU us/span", 1e6 * figures["cpu_seconds"] / spans, False


def better(results: list[dict[str, Any]]) -> dict[str, float | str]:
    """Merge repetitions: for each figure, its best value."""
    best: dict[str, float | str] = {}
    for result in results:
        if "error" in result:
            best.setdefault("error", result["error"])
        for label, value, more in rows(result):
            # Noise slows a run down, but it is no excuse for a failed rollout: keep the worst.
            choose = max if more or label == "failed rollouts" else min
            seen = best.get(label)
            best[label] = choose(seen, value) if isinstance(seen, float | int) else value
    return best


def number(value: float | str | None) -> str:
    """Format a figure to three or four significant places."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return "failed"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def print_table(title: str, sides: dict[str, dict[str, float | str]]) -> None:
    """Print the figures of one measure, a column for each side."""
    print(f"\n{title:44}" + "".join(f"{side:>14}" for side in sides))
    labels = dict.fromkeys(label for figures in sides.values() for label in figures)
    for label in labels:
        cells = [figures.get(label) for figures in sides.values()]
        print(f"  {label:42}" + "".join(f"{number(cell):>14}" for cell in cells))
    for side, figures in sides.items():
        if "error" in figures:
            print(f"  {side} failed: {figures['error']}")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", help="interpreter of a venv that has agentlightning==0.3.0")
    parser.add_argument("--only", default="", help="run only measures whose title contains this")
    parser.add_argument("--side", choices=("ours", "0.3.0"), help="run only this side")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--output", type=Path, help="also write every result as JSON")
    return parser.parse_args()


def main() -> None:
    """Run every measure under both interpreters and print them side by side."""
    options = parse_arguments()
    pythons = {"0.3.0": options.reference, "ours": sys.executable}
    pythons = {
        side: python for side, python in pythons.items() if python and options.side in (None, side)
    }
    if not pythons:
        sys.exit("Nothing to run: give --reference, or leave --side out.")
    collected: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for measure in MEASURES:
        if options.only not in measure.title:
            continue
        results = collected[measure.title] = {
            side: [run(python, measure) for _ in range(options.repeat)]
            for side, python in pythons.items()
        }
        print_table(measure.title, {side: better(runs) for side, runs in results.items()})
    if options.output:
        options.output.write_text(json.dumps(collected, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""The store beside that of the released 0.3.0, measured in one run on one machine.

Each measure of `store_driver.py` runs under the interpreter of each side in turn, as often as
`--repeat` says; the better figures count, since noise on a shared machine only ever slows down.
0.3.0 has no store on disk, so those rows have one side.

Usage: `python benchmarks/store.py --reference /path/to/python-with-0.3.0 [--write "quiet machine"]`
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.results import print_table, section, write_section

DRIVER = Path(__file__).with_name("store_driver.py")
HEADING = "## The store beside 0.3.0"
COMMAND = "python benchmarks/store.py --reference <python>"
ABOUT = (
    "CPU is that of the caller, plus that of the server where it is a process of its own, for each "
    "rollout or span."
)
RUN_TIMEOUT_SECONDS = 600.0
QUICK = {"count": 40, "repeats": 3, "size": 20}
"""Arguments of a run that only shows that everything works."""

Side = Literal["0.3.0", "ours"]
Figures = dict[str, Any]
Found = dict[tuple[int, Side], Figures]
"""The figures of each measure, by its identity, on each side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One call of the driver; `ours` changes arguments for our side, which needs more to do."""

    name: str
    arguments: Mapping[str, Any]
    ours: Mapping[str, Any] = field(default_factory=dict[str, Any])
    both: bool = True

    def arguments_for(self, side: Side, *, quick: bool) -> dict[str, Any]:
        """Return what the driver is told."""
        found = {**self.arguments, **(self.ours if side == "ours" else {})}
        if quick:
            found |= {key: min(most, found[key]) for key, most in QUICK.items() if key in found}
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure of one measure, and what it should be."""

    title: str
    measure: Measure
    figure: str
    """Path into what the driver prints, such as `enqueue.per_second`."""
    target: float | None = None
    """At least so much of a rate, at most so much of anything else; None: not worse than 0.3.0."""

    @property
    def is_rate(self) -> bool:
        """Return whether more is better."""
        return self.figure.endswith("per_second")

    @property
    def unit(self) -> str:
        """Return the figure's unit."""
        if self.is_rate:
            return "/s"
        return "MB" if "mb" in self.figure else "ms"


def _life_cycle(backend: str, *, both: bool, count: int) -> Measure:
    arguments = {"backend": backend, "count": count}
    return Measure(name="life-cycle", arguments=arguments, both=both)


def _http_life_cycle(backend: str, clients: int) -> Measure:
    return Measure(
        name="http-life-cycle",
        arguments={"backend": backend, "count": 1000, "clients": clients},
        ours={"count": 4000},
        both=backend == "memory",
    )


def _spans(backend: str, size: int, *, both: bool = True) -> Measure:
    arguments = {"backend": backend, "count": 10_000, "size": size}
    return Measure(name="spans", arguments=arguments, ours={"count": 40_000}, both=both)


MEMORY = {"backend": "memory"}
BATCHES = Measure(name="batches", arguments={**MEMORY, "count": 20_000})
WAKE_UPS = Measure(name="wake-ups", arguments={**MEMORY, "count": 5}, ours={"count": 100})
HTTP_WAKE_UPS = Measure(name="http-wake-ups", arguments={**MEMORY, "count": 5}, ours={"count": 100})
HTTP_SPANS = {"count": 2000, "size": 100}
FILL = Measure(name="memory", arguments={**MEMORY, "count": 100_000})
# 0.3.0 takes minutes to store as many over HTTP, so it is asked for a tenth.
SERVER_FILL = Measure(
    name="server-memory", arguments={**MEMORY, "count": 10_000}, ours={"count": 100_000}
)

ROWS = (
    Row(
        title="life cycle one by one, memory",
        measure=_life_cycle("memory", both=True, count=10_000),
        figure="per_second",
        target=15_000,
    ),
    Row(
        title="life cycle one by one, SQLite",
        measure=_life_cycle("sqlite", both=False, count=10_000),
        figure="per_second",
        target=3_000,
    ),
    Row(title="enqueue in batches of 100, memory", measure=BATCHES, figure="enqueue.per_second"),
    Row(
        title="dequeue in batches of 100, memory",
        measure=BATCHES,
        figure="dequeue.per_second",
        target=60_000,
    ),
    Row(
        title="add_span, memory",
        measure=_spans("memory", 1),
        figure="per_second",
        target=40_000,
    ),
    Row(
        title="add_many_spans of 100, memory",
        measure=_spans("memory", 100),
        figure="per_second",
        target=100_000,
    ),
    Row(
        title="add_many_spans of 100, SQLite",
        measure=_spans("sqlite", 100, both=False),
        figure="per_second",
        target=25_000,
    ),
    *(
        Row(
            title=f"life cycle over HTTP, {clients} client{'s' * (clients > 1)}, {name}",
            measure=_http_life_cycle(backend, clients),
            figure="per_second",
            target=target,
        )
        for backend, name, clients, target in (
            ("memory", "memory", 1, 900),
            ("memory", "memory", 16, 1500),
            ("sqlite", "SQLite", 1, 900),
            ("sqlite", "SQLite", 16, 1000),
        )
    ),
    *(
        Row(
            title=f"add_many_spans of 100 over HTTP, {name}",
            measure=Measure(
                name="http-spans",
                arguments={"backend": backend, **HTTP_SPANS},
                ours={"count": 40_000},
                both=backend == "memory",
            ),
            figure="per_second",
            target=20_000,
        )
        for backend, name in (("memory", "memory"), ("sqlite", "SQLite"))
    ),
    Row(
        title="OTLP through the official exporter, 512 a request",
        measure=Measure(
            name="otlp",
            arguments={**MEMORY, "count": 8192, "size": 512},
            ours={"count": 32_768},
        ),
        figure="per_second",
        target=15_000,
    ),
    Row(
        title="last 10 of a rollout's 10,000 spans, memory",
        measure=Measure(name="last-spans", arguments={**MEMORY, "count": 10_000, "repeats": 50}),
        figure="ms",
        target=0.5,
    ),
    Row(
        title="a rollout's 1,000 spans over HTTP",
        measure=Measure(name="http-query", arguments={**MEMORY, "count": 1000, "repeats": 20}),
        figure="ms",
        target=15,
    ),
    Row(
        title="first 100 of 10,000 rollouts, sorted, memory",
        measure=Measure(
            name="first-rollouts", arguments={**MEMORY, "count": 10_000, "repeats": 50}
        ),
        figure="ms",
        target=2,
    ),
    Row(title="100,000 spans in process", measure=FILL, figure="mb_per_100k", target=100),
    Row(title="100,000 spans in the server", measure=SERVER_FILL, figure="mb_per_100k", target=100),
    Row(
        title="enqueue → waiting runner starts, in process",
        measure=WAKE_UPS,
        figure="start.ms",
        target=5,
    ),
    Row(
        title="finish → waiting algorithm knows, in process",
        measure=WAKE_UPS,
        figure="end.ms",
        target=5,
    ),
    Row(
        title="enqueue → waiting runner starts, HTTP",
        measure=HTTP_WAKE_UPS,
        figure="start.ms",
        target=20,
    ),
    Row(
        title="finish → waiting algorithm knows, HTTP",
        measure=HTTP_WAKE_UPS,
        figure="end.ms",
        target=20,
    ),
)


def run(python: str, side: Side, *calls: tuple[str, dict[str, Any]]) -> list[Figures]:
    """Run calls of the driver in one process; a failure is a result that says so."""
    # The measured package is the interpreter's own: the checkout is on the path of ours only.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if side == "ours":
        environment["PYTHONPATH"] = str(DRIVER.parent.parent)
    try:
        done = subprocess.run(
            [python, str(DRIVER), json.dumps(calls)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [{"error": f"no end after {RUN_TIMEOUT_SECONDS:.0f} s"}] * len(calls)
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        reason = "\n".join(done.stderr.strip().splitlines()[-3:]) or "no output"
        return [{"error": reason}] * len(calls)
    return json.loads(lines[-1])


def better(results: Sequence[Figures]) -> Figures:
    """Merge repetitions: the best of each figure, however deep it lies."""
    working = [result for result in results if "error" not in result]
    if not working:
        return results[0] if results else {}
    best: Figures = {}
    for key, value in working[0].items():
        values = [result[key] for result in working]
        if isinstance(value, dict):
            best[key] = better(values)
        else:
            best[key] = max(values) if key == "per_second" else min(values)
    return best


def run_all_quickly(pythons: Mapping[Side, str], measures: Sequence[Measure]) -> Found:
    """Run every measure once, with hardly anything to do, all of a side in one process."""
    found: Found = {}
    for side, python in pythons.items():
        mine = [measure for measure in measures if side == "ours" or measure.both]
        calls = [(measure.name, measure.arguments_for(side, quick=True)) for measure in mine]
        for measure, figures in zip(mine, run(python, side, *calls), strict=True):
            found[id(measure), side] = figures
    return found


def run_all(pythons: Mapping[Side, str], measures: Sequence[Measure], repeat: int) -> Found:
    """Run every measure in processes of its own, the sides in turn."""
    found: Found = {}
    for measure in measures:
        results: dict[Side, list[Figures]] = {side: [] for side in pythons}
        # Memory and the poller's pauses come out the same each time.
        again = 1 if "memory" in measure.name or "wake" in measure.name else repeat
        for _ in range(again):
            for side, python in pythons.items():
                if side == "ours" or measure.both:
                    call = (measure.name, measure.arguments_for(side, quick=False))
                    results[side] += run(python, side, call)
        for side, several in results.items():
            found[id(measure), side] = better(several)
            print(measure.name, dict(measure.arguments), side, better(several), file=sys.stderr)
    return found


def figure_of(figures: Figures, path: str) -> float | None:
    """Return the figure at a path, None where there is none."""
    value: Any = figures
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def number(value: float | None, unit: str = "") -> str:
    """Format a figure to three or so significant places."""
    if value is None:
        return "-"
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text + (unit if unit.startswith("/") else f" {unit}" if unit else "")


def cpu_of(figures: Figures, path: str) -> str:
    """Return the CPU for each item: of the caller, and of the server where there is one."""
    place = path.rpartition(".")[0]
    client = figure_of(figures, f"{place}.cpu_us".lstrip("."))
    server = figure_of(figures, f"{place}.server_cpu_us".lstrip("."))
    if client is None:
        return "-"
    return number(client) + (f" + {number(server)}" if server is not None else "") + " µs"


def verdict_of(row: Row, ours: float | None, theirs: float | None) -> str:
    """Say whether the target is reached."""
    target = theirs if row.target is None else row.target
    if ours is None:
        return "failed"
    if target is None:
        return "-"
    return "reached" if (ours >= target if row.is_rate else ours <= target) else "missed"


def table(rows: Sequence[Row], found: Found) -> list[list[str]]:
    """Return the rows of the table as text, the heading first."""
    lines = [["operation", "target", "0.3.0", "CPU", "ours", "CPU", "verdict"]]
    for row in rows:
        sides = [found.get((id(row.measure), side), {}) for side in ("0.3.0", "ours")]
        theirs, ours = (figure_of(figures, row.figure) for figures in sides)
        bound = "≥" if row.is_rate else "≤"
        target = f"{bound} {number(row.target, row.unit)}" if row.target else "not slower"
        cells = [row.title, target]
        for value, figures in zip((theirs, ours), sides, strict=True):
            cells += [number(value, row.unit), cpu_of(figures, row.figure)]
        lines.append([*cells, verdict_of(row, ours, theirs)])
    return lines


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", help="interpreter of a venv that has agentlightning==0.3.0")
    parser.add_argument("--only", default="", help="only rows whose title contains this")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="hardly anything of each, once")
    parser.add_argument("--write", metavar="CIRCUMSTANCES", help="also write RESULTS.md")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, and return 1 if a measure failed."""
    options = parse_arguments(argv)
    pythons: dict[Side, str] = {"0.3.0": options.reference} if options.reference else {}
    pythons["ours"] = sys.executable
    rows = [row for row in ROWS if options.only in row.title]
    measures = list({id(row.measure): row.measure for row in rows}.values())
    if options.quick:
        found = run_all_quickly(pythons, measures)
    else:
        found = run_all(pythons, measures, options.repeat)
    lines = table(rows, found)
    print_table(lines)
    for figures in found.values():
        if "error" in figures:
            print(figures["error"], file=sys.stderr)
    if options.write:
        text = section(HEADING, COMMAND, options.write, lines, [ABOUT])
        write_section(HEADING, text)
    return int(any("error" in figures for figures in found.values()))


if __name__ == "__main__":
    sys.exit(main())

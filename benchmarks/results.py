"""Sections of `RESULTS.md` that benchmarks write, and what a machine is called."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import psutil

__all__ = ["RESULTS", "machine", "print_table", "section", "write_section"]

RESULTS = Path(__file__).with_name("RESULTS.md")


def machine() -> str:
    """Return processor, memory and Python of this machine."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        names = [line for line in lines if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{psutil.cpu_count()} cores ({model}), {memory:.0f} GB, Python {platform.python_version()}"
    )


def section(
    heading: str,
    command: str,
    circumstances: str,
    lines: Sequence[Sequence[str]],
    notes: Sequence[str] = (),
) -> str:
    """Return a section with one table; the first line is its head."""
    day = datetime.now(tz=UTC).strftime("%-d %B %Y")
    head, *rest = ["| " + " | ".join(line) + " |" for line in lines]
    rule = "|" + "---|" * len(lines[0])
    intro = f"`{command}` on {day}, commit {_commit()}, {machine()}; {circumstances}."
    return "\n".join([heading, "", intro, *notes, "", head, rule, *rest, ""])


def _commit() -> str:
    command = ["git", "-C", str(RESULTS.parent), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "an unknown commit"


def write_section(heading: str, text: str, path: Path = RESULTS) -> None:
    """Put a section into a page, in the place of the one before, or at its end."""
    page = path.read_text(encoding="utf-8")
    before, there, after = page.partition(f"{heading}\n")
    if there:
        _, more, rest = after.partition("\n## ")
        page = before + text + (f"\n## {rest}" if more else "")
    else:
        page = f"{page.rstrip()}\n\n{text}"
    path.write_text(page, encoding="utf-8")


def print_table(lines: Sequence[Sequence[str]]) -> None:
    """Print a table in columns."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))

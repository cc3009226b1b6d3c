"""The figures that say whether the code is beautiful enough to ship, with their targets.

It measures and prints; `check_size`, `check_suppressions` and the tests enforce.
Usage: `python -m scripts.figures`
"""

import ast
import statistics
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from scripts.check_suppressions import per_thousand_lines
from scripts.source import ROOT, definitions, line_count, parsed, python_files, relative

BROAD = {"Exception", "BaseException"}

IMPORT_PROBE = """
import sys, time
before, begin = len(sys.modules), time.perf_counter()
import agentlightning
seconds = time.perf_counter() - begin
modules = len(sys.modules) - before
import psutil
print(seconds * 1e3, modules, psutil.Process().memory_info().rss / 2**20)
"""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value beside what it should be."""

    label: str
    value: float
    target: str
    met: bool


def documented_share() -> float:
    """Return the share of public functions and classes with a docstring, in percent.

    An override documents itself through its base class, so methods count once, where they are
    first defined: a method without a docstring whose name another class documents is left out.
    """
    found = [item for path in python_files("agentlightning") for item in definitions(path)]
    public = [item for item in found if item.public and not item.name.endswith("__")]
    explained = {item.name.rpartition(".")[2] for item in public if item.documented}
    counted = [
        item
        for item in public
        if item.documented or "." not in item.name or item.name.rpartition(".")[2] not in explained
    ]
    return 100 * sum(item.documented for item in counted) / max(len(counted), 1)


def broad_handlers() -> list[str]:
    """Return `path:function` of every broad `except` that does not always raise again."""
    places: list[str] = []
    for path in python_files("agentlightning"):
        for function, handler in _handlers(parsed(path), "<module>"):
            if _is_broad(handler) and not isinstance(handler.body[-1], ast.Raise):
                places.append(f"{relative(path)}:{function}")
    return places


def _handlers(node: ast.AST, function: str) -> list[tuple[str, ast.ExceptHandler]]:
    found: list[tuple[str, ast.ExceptHandler]] = []
    for child in ast.iter_child_nodes(node):
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        name = child.name if is_function else function
        if isinstance(child, ast.ExceptHandler):
            found.append((function, child))
        found.extend(_handlers(child, name))
    return found


def _is_broad(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    types = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(isinstance(item, ast.Name) and item.id in BROAD for item in types)


def import_cost() -> tuple[float, int, float]:
    """Return milliseconds (best of three), modules and MiB that importing the package takes."""
    runs: list[list[str]] = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", IMPORT_PROBE],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        runs.append(done.stdout.split())
    return min(float(run[0]) for run in runs), int(runs[0][1]), float(runs[0][2])


def measure() -> list[Figure]:
    """Measure everything."""
    files = python_files("agentlightning")
    file_sizes = [line_count(path) for path in files]
    items = [item for path in files for item in definitions(path)]
    functions = sorted(item.lines for item in items if item.kind == "function")
    test_lines = sum(line_count(path) for path in python_files("tests"))
    project = tomllib.loads(Path(ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    milliseconds, modules, mebibytes = import_cost()
    return [
        Figure("files", len(files), "", True),
        Figure("lines of code", sum(file_sizes), "", True),
        _at_most("file lines, median", statistics.median(file_sizes), 180),
        _at_most("file lines, longest", max(file_sizes), 500),
        _at_most("function lines, p90", functions[int(0.9 * len(functions))], 30),
        _at_most("function lines, longest", functions[-1], 50),
        _at_most("class lines, longest", max(i.lines for i in items if i.kind == "class"), 300),
        _at_most("broad excepts", len(broad_handlers()), 15),
        _at_most("suppressed checks per 1,000 lines", per_thousand_lines(), 2),
        _at_least("public docstrings, %", documented_share(), 75),
        _at_least("test lines per code line", test_lines / sum(file_sizes), 1),
        _at_most("direct dependencies of the core", len(project["dependencies"]), 12),
        _at_most("import, ms", milliseconds, 150),
        Figure("import, modules", modules, "", True),
        _at_most("import, MiB resident", mebibytes, 60),
    ]


def _at_most(label: str, value: float, limit: float) -> Figure:
    return Figure(label, value, f"<= {limit:g}", value <= limit)


def _at_least(label: str, value: float, limit: float) -> Figure:
    return Figure(label, value, f">= {limit:g}", value >= limit)


def main() -> int:
    """Print the table; it reports and never fails, since other checks enforce."""
    for figure in measure():
        mark = " " if figure.met else "!"
        print(f"{mark} {figure.label:36}{figure.value:>10,.5g}   {figure.target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

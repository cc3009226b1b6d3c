"""Tests mirror the package: `store/lifecycle.py` is tested in `tests/store/test_lifecycle.py`.

A test file must name a module or package, `test_<module>.py` or `test_<module>_<aspect>.py`, and
a module must have a test file, or its package must, or it is listed in `mirror_exceptions.toml` with
the place that tests it.

Usage: `python -m scripts.check_mirror`
"""

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from scripts.source import PACKAGE, ROOT, parsed, python_files, relative

EXCEPTIONS = Path(__file__).with_name("mirror_exceptions.toml")
CONFORMANCE = "test_conformance.py"
"""Runs a shared suite of `tests/conformance` on one implementation."""
ACROSS_ROOMS = {
    "agents", "architecture", "benchmarks", "chaos", "compat", "conformance", "docs", "e2e", "examples", "perf",
    "support", "typing",
}  # fmt: skip


def mirrored_tests() -> list[Path]:
    """Return the test files that belong to one module, relative to `tests/`."""
    tests = ROOT / "tests"
    found = (path.relative_to(tests) for path in python_files("tests"))
    return [
        path
        for path in found
        if path.name.startswith("test_")
        and path.name != CONFORMANCE
        and path.parts[0] not in ACROSS_ROOMS
    ]


def subject_of(test: Path) -> Path | None:
    """Return the module or package that a test file names, or None."""
    words = test.stem.removeprefix("test_").split("_")
    for count in range(len(words), 0, -1):
        stem = "_".join(words[:count])
        for name in (stem, f"_{stem}"):
            candidate = PACKAGE / test.parent / name
            if candidate.with_suffix(".py").is_file():
                return candidate.with_suffix(".py")
            if candidate.is_dir():
                return candidate
    return None


def modules_with_code() -> Iterator[Path]:
    """Yield the modules that define a function or class; re-exporting ones need no test."""
    for path in python_files("agentlightning"):
        if path.name != "__init__.py" and any(
            hasattr(node, "body") and hasattr(node, "name") for node in parsed(path).body
        ):
            yield path


def problems(exceptions: dict[str, str]) -> Iterator[str]:
    """Yield tests without a subject, modules without a test, and stale exceptions."""
    subjects: set[Path] = set()
    for test in mirrored_tests():
        subject = subject_of(test)
        if subject is None:
            yield f"tests/{test.as_posix()}: names no module of agentlightning/{test.parent}"
        else:
            subjects.add(subject)
    untested = {
        relative(path)
        for path in modules_with_code()
        if subjects.isdisjoint({path, *path.parents} - {PACKAGE})
    }
    for path in untested:
        if not any(path == key or path.startswith(f"{key}/") for key in exceptions):
            yield f"{path}: no test file of its name; write one, or list where it is tested"
    for key in exceptions:
        if not any(path == key or path.startswith(f"{key}/") for path in untested):
            yield f"{key}: has a test file, or is gone; remove the exception"
    for path, place in exceptions.items():
        if not (ROOT / place).exists():
            yield f"{path}: said to be tested in {place}, which does not exist"


def main() -> int:
    """Print every problem and return 1 if there is one."""
    exceptions = tomllib.loads(EXCEPTIONS.read_text(encoding="utf-8")).get("tested_in", {})
    found = sorted(problems(exceptions))
    for problem in found:
        print(problem)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

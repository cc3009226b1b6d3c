"""The size ratchet: files, functions and classes stay small enough to hold in one's head.

What is over a limit must be listed in `size_exceptions.toml` with its size, and that size may
only go down. Usage: `python -m scripts.check_size`
"""

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from scripts.source import CHECKED, definitions, line_count, python_files, relative

EXCEPTIONS = Path(__file__).with_name("size_exceptions.toml")
LIMITS = {"file": 500, "function": 50, "class": 300}
TEST_FILE_LIMIT = 600


def sizes() -> Iterator[tuple[str, str, int, int]]:
    """Yield (kind, key, size, limit) of everything that has a limit."""
    for path in python_files(*CHECKED):
        yield "file", relative(path), line_count(path), LIMITS["file"]
        for item in definitions(path):
            yield item.kind, item.key, item.lines, LIMITS[item.kind]
    for path in python_files("tests"):
        yield "file", relative(path), line_count(path), TEST_FILE_LIMIT


def problems(exceptions: dict[str, int]) -> Iterator[str]:
    """Yield what is too long, and which exceptions are out of date."""
    seen: set[str] = set()
    for kind, key, size, limit in sizes():
        allowed = exceptions.get(key)
        if allowed is not None:
            seen.add(key)
            if size <= limit:
                yield f"{key}: {size} lines fit the limit of {limit}; remove the exception"
            elif size < allowed:
                yield f"{key}: has shrunk to {size} lines; lower the exception from {allowed}"
        if size > (allowed or limit):
            yield f"{key}: {kind} of {size} lines, at most {allowed or limit}; split it by subject"
    for key in exceptions.keys() - seen:
        yield f"{key}: listed as an exception but not there; remove it"


def main() -> int:
    """Print every problem and return 1 if there is one."""
    exceptions = tomllib.loads(EXCEPTIONS.read_text(encoding="utf-8")).get("lines", {})
    found = sorted(problems(exceptions))
    for problem in found:
        print(problem)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

"""Suppressed checks: each has its rule and a reason beside it, and there are few of them.

Usage: `python -m scripts.check_suppressions`
"""

import sys

from scripts.source import (
    CHECKED,
    JUSTIFIED,
    SUPPRESSION,
    comments,
    line_count,
    python_files,
    relative,
)

MAX_PER_THOUSAND_LINES = 2.0


def suppressions(*roots: str) -> list[tuple[str, str]]:
    """Return (place, comment) of every suppressed check under the given directories."""
    return [
        (f"{relative(path)}:{line}", text)
        for path in python_files(*roots)
        for line, text in comments(path)
        if SUPPRESSION.search(text)
    ]


def per_thousand_lines() -> float:
    """Return how many checks the package suppresses per 1,000 lines."""
    lines = sum(line_count(path) for path in python_files("agentlightning"))
    return 1000 * len(suppressions("agentlightning")) / max(lines, 1)


def main() -> int:
    """Print every unexplained suppression and return 1 if there is one or there are too many."""
    unexplained = [
        (place, text) for place, text in suppressions(*CHECKED) if not JUSTIFIED.search(text)
    ]
    for place, text in unexplained:
        print(f"{place}: {text!r} needs its rule and a reason, as in `# noqa: E501 - a reason`")
    share = per_thousand_lines()
    if share > MAX_PER_THOUSAND_LINES:
        print(f"{share:.1f} suppressed checks per 1,000 lines; {MAX_PER_THOUSAND_LINES} at most")
    return 1 if unexplained or share > MAX_PER_THOUSAND_LINES else 0


if __name__ == "__main__":
    sys.exit(main())

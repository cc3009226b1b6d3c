"""Every Python block in the documents runs, unless it says why it cannot."""

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *ROOT.glob("*.md"),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
]
# A block may be preceded by `<!-- snippet: skip (reason) -->`.
BLOCK = re.compile(
    r"(?:<!-- snippet: skip \((?P<reason>[^)]*)\) -->\s*\n)?```python\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
TIMEOUT_SECONDS = 60


class Snippet(NamedTuple):
    """One fenced block."""

    place: str
    code: str
    reason: str | None


def snippets() -> list[Snippet]:
    """Return every Python block of every page."""
    found: list[Snippet] = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start("code")) + 1
            place = f"{page.relative_to(ROOT)}:{line}"
            found.append(Snippet(place, match["code"], match["reason"]))
    return found


RUNNING = [snippet for snippet in snippets() if snippet.reason is None]


@pytest.mark.parametrize("snippet", RUNNING, ids=[snippet.place for snippet in RUNNING])
def test_snippet_runs(snippet: Snippet, tmp_path: Path):
    """The block is a whole program that ends without an error."""
    program = tmp_path / "snippet.py"
    program.write_text(snippet.code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_SECONDS,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_skipped_snippets_say_why():
    """A block that does not run has a reason, and compiles all the same."""
    for snippet in snippets():
        if snippet.reason is not None:
            assert len(snippet.reason) > 5, snippet.place
            compile(snippet.code, snippet.place, "exec")


def test_no_python_block_escapes_the_search():
    """Every opening fence for Python was found as a block."""
    fences = sum(page.read_text(encoding="utf-8").count("```python") for page in PAGES)
    assert fences == len(snippets())

"""Pages exist, are reachable, and link to what is there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]+)(?:#[^)]*)?\)")
MAX_DECISION_LINES = 60


def pages() -> list[Path]:
    return [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")]


def test_links_lead_somewhere():
    """Every relative link names a file of the repository."""
    broken = [
        f"{page.relative_to(ROOT)} -> {target}"
        for page in pages()
        for target in LINK.findall(page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert broken == []


def test_every_page_is_in_the_navigation():
    """The navigation lists each page once, and nothing that is not there."""
    listed = re.findall(r"[\w/.-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    there = [page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")]
    assert sorted(listed) == sorted(there)


def test_pages_have_one_title():
    """Each page starts with its only first-level heading."""
    for page in pages():
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        titles = [line for line in text.splitlines() if line.startswith("# ")]
        assert len(titles) == 1, page
        assert text.startswith("# "), page


def test_decisions_are_short_and_whole():
    """A decision says its context, the choice, the cost, and what would change it."""
    for page in (DOCS / "decisions").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= MAX_DECISION_LINES, page
        for heading in ("Context", "Decision", "Cost", "What would change our mind"):
            assert f"## {heading}\n" in text, (page, heading)

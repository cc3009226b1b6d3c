"""Sections of the page of results."""

from benchmarks.results import section, write_section

HEADING = "## Speed"


def test_a_section_takes_the_place_of_the_one_before(tmp_path):
    """Writing twice leaves one section, and the others as they were."""
    page = tmp_path / "RESULTS.md"
    page.write_text("# Measurements\n\nHello.\n\n## Other\n\nKept.\n")
    for text in ("first", "second"):
        write_section(HEADING, f"{HEADING}\n\n{text}\n", page)
    assert page.read_text() == (
        f"# Measurements\n\nHello.\n\n## Other\n\nKept.\n\n{HEADING}\n\nsecond\n"
    )
    page.write_text(f"# M\n\n{HEADING}\n\nold\n\n## Other\n\nKept.\n")
    write_section(HEADING, f"{HEADING}\n\nnew\n", page)
    assert page.read_text() == f"# M\n\n{HEADING}\n\nnew\n\n## Other\n\nKept.\n"


def test_a_section_says_how_it_was_measured():
    """Command, circumstances and notes stand above the table, whose first line is its head."""
    text = section(HEADING, "python x.py", "alone", [["", "rate"], ["ours", "7"]], ["A note."])
    lines = text.splitlines()
    assert lines[0] == HEADING
    assert lines[2].startswith("`python x.py` on ")
    assert lines[2].endswith("; alone.")
    assert lines[3:] == ["A note.", "", "|  | rate |", "|---|---|", "| ours | 7 |"]
